"""Paths between latents."""

import math

from scipy.interpolate import CubicSpline
import torch
from torch import Tensor

from hires.bundle.hires_bundle import PARALLEL, lerp, slerp
from hires.errors import HiresError

PATHS = ("slerp", "linear", "spline", "walk", "circle")
EASINGS = ("none", "smooth")
REACH = 0.75  # standard deviation of a key's weight along a walk, in keys: much less stops at each, much more moves hardly at all


def smooth(t: Tensor) -> Tensor:
    """t² (3 − 2t): from 0 to 1 with no speed at either end."""
    return t * t * (3 - 2 * t)


def spline(keys: Tensor, segment: Tensor, t: Tensor, loop: bool) -> Tensor:
    """Points (F, d) of a curve through keys (K, d): a cubic spline's direction (periodic with `loop`), norms going smoothly between.

    The spline itself cuts corners as a straight line does, through norms that N(0, I_d) never has; its direction has no corner at a key.
    """
    knots = torch.cat([keys, keys[:1]]) if loop else keys
    curve = CubicSpline(range(len(knots)), knots.double().cpu().numpy(), bc_type="periodic" if loop else "not-a-knot")
    points = torch.from_numpy(curve((segment + t).double().cpu().numpy())).to(keys)
    norms = knots.norm(dim=1)
    wanted = lerp(norms[segment], norms[segment + 1], smooth(t))[:, None]
    return points * wanted / points.norm(dim=1, keepdim=True).clamp_min(1e-12)


def walk(keys: Tensor, at: Tensor, loop: bool) -> Tensor:
    """Points (F, d) of a smooth random walk at the times `at` (F,), in keys, drawn by keys (K, d); it passes near them, through none.

    z(t) = Σ_k w_k(t) key_k with w_k(t) ∝ exp(−(t − k)² / 2 s²) and Σ_k w_k² = 1, so that z(t) ~ N(0, I) at any t where the keys are such
    draws; its norm is set to the root of Σ_k w_k² |key_k|², which lies between the keys' norms.
    """
    away = at[:, None] - torch.arange(len(keys), device=keys.device, dtype=keys.dtype)
    turns = range(-3, 4) if loop else (0,)  # around a loop a key is met again and again; further off than 3 turns weighs nothing
    weights = sum(torch.exp(-((away + turn * len(keys)) ** 2) / (2 * REACH**2)) for turn in turns)
    weights = weights / weights.norm(dim=1, keepdim=True)
    points = weights @ keys
    wanted = (weights.square() @ keys.square().sum(1)).sqrt()[:, None]
    return points * wanted / points.norm(dim=1, keepdim=True).clamp_min(1e-12)


def circle(keys: Tensor, at: Tensor) -> Tensor:
    """Points (F, d) of the great circle through a and b of keys (2, d), at a for `at` = 0, b for 1, −a for 2 and −b for 3.

    b is made orthogonal to a and gets its norm, so that the circle is round; two draws of N(0, I_d) nearly are. Raises HiresError where
    they are parallel.
    """
    a, b = keys
    across = b - (a @ b) / (a @ a).clamp_min(1e-24) * a
    if across.norm() <= PARALLEL * b.norm():
        raise HiresError("path=circle: its two keyframes are parallel; wanted two that differ in direction")
    angle = (at * (math.pi / 2))[:, None]
    return angle.cos() * a + angle.sin() * across * (a.norm() / across.norm())


def check_path(kind: str, easing: str, keys: int) -> None:
    """Raises HiresError unless there is such a path and easing, and it can be drawn through `keys` keys."""
    if kind not in PATHS:
        raise HiresError(f"path={kind}: wanted {', '.join(PATHS)}")
    if easing not in EASINGS:
        raise HiresError(f"easing={easing}: wanted {' or '.join(EASINGS)}")
    if easing != "none" and kind in ("walk", "circle"):
        raise HiresError(f"easing={easing}: path={kind} has no keyframe to slow down at; wanted easing=none")
    if kind == "circle" and keys != 2:
        raise HiresError(f"path=circle: {keys} keyframes, wanted 2: a circle goes through two")
    if keys < 2:
        raise HiresError(f"path={kind}: {keys} keyframe{'s' * (keys != 1)}, wanted at least 2 to travel between")


def moments(kind: str, keys: int, frames_per_key: int, loop: bool, easing: str = "none") -> tuple[Tensor, Tensor]:
    """Where each frame stands: the number of the key it left (F,) and the share t (F,) in [0, 1] of the way to the next, eased.

    F = S frames_per_key with S ways from key to key: K in a loop and K − 1 on a line, which has one frame more, the last key; a circle
    has four, quarter by quarter. Raises HiresError as `check_path` does, and for no frames.
    """
    check_path(kind, easing, keys)
    if frames_per_key < 1:
        raise HiresError(f"{frames_per_key} frames from one keyframe to the next: wanted at least 1")
    ways = 4 if kind == "circle" else keys if loop else keys - 1
    frame = torch.arange(ways * frames_per_key + (not loop))
    segment = (frame // frames_per_key).clamp_max(ways - 1)
    t = (frame - segment * frames_per_key).double() / frames_per_key
    return segment, smooth(t) if easing == "smooth" else t


def keyframe_path(keys: Tensor, frames_per_key: int, kind: str = "slerp", loop: bool = True, easing: str = "none") -> Tensor:
    """Latents (F, d) that visit keys (K, d) in order, `frames_per_key` steps from one key to the next, equal ones of t without easing.

    With `loop` F = K frames_per_key and the frame after the last would be the first again; without, F = (K - 1) frames_per_key + 1 and the
    last frame is the last key. `kind` is slerp, linear, spline, walk (near the keys, through none) or circle (K = 2, four quarters).
    Raises HiresError as `moments` does, and for keys that are no (K, d).
    """
    if keys.ndim != 2:
        raise HiresError(f"keyframes of shape {tuple(keys.shape)}: wanted (K, d)")
    segment, t = moments(kind, len(keys), frames_per_key, loop, easing)
    segment, t = segment.to(keys.device), t.to(keys)
    if kind == "spline":
        return spline(keys, segment, t, loop)
    if kind == "walk":
        return walk(keys, segment + t, loop)
    if kind == "circle":
        return circle(keys, segment + t)
    between = slerp if kind == "slerp" else lerp
    return between(keys[segment], keys[(segment + 1) % len(keys)], t[:, None])
