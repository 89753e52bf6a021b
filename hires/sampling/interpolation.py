"""Paths between latents."""

import torch
from torch import Tensor

from hires.errors import HiresError

PARALLEL = 1e-4  # sine of the angle under which two latents count as parallel


def lerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """Straight line from a (B, d) at t = 0 to b (B, d) at t = 1; t is a number or (B, 1)."""
    return a + t * (b - a)


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """Great circle from a (B, d) at t = 0 to b (B, d) at t = 1, the norm going linearly from |a| to |b|; t is a number or (B, 1).

    A straight line in latent space passes through norms that N(0, I_d) never has; this does not. Vectors nearly parallel (or opposite,
    where no one circle is the shortest) take the straight line instead.
    """
    norm_a, norm_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    unit_a, unit_b = a / norm_a.clamp_min(1e-12), b / norm_b.clamp_min(1e-12)
    # 2 atan2(|u - v|, |u + v|) and not acos(u . v), which loses half its digits at small angles
    angle = 2 * torch.atan2((unit_a - unit_b).norm(dim=-1, keepdim=True), (unit_a + unit_b).norm(dim=-1, keepdim=True))
    sine = angle.sin()
    parallel = sine.abs() < PARALLEL
    direction = (((1 - t) * angle).sin() * unit_a + (t * angle).sin() * unit_b) / torch.where(parallel, 1.0, sine)
    return torch.where(parallel, lerp(a, b, t), lerp(norm_a, norm_b, t) * direction)


def keyframe_path(keys: Tensor, frames_per_key: int, kind: str = "slerp", loop: bool = True) -> Tensor:
    """Latents (F, d) that visit keys (K, d) in order with equal steps of t, `frames_per_key` of them from one key to the next.

    With `loop` F = K frames_per_key and the frame after the last would be the first again; without, F = (K - 1) frames_per_key + 1 and the
    last frame is the last key. `kind` is slerp or linear. Raises HiresError for another kind, fewer than two keys, or no frames.
    """
    if kind not in ("slerp", "linear"):
        raise HiresError(f"path={kind}: wanted slerp or linear")
    if keys.ndim != 2 or len(keys) < 2:
        raise HiresError(f"keyframes of shape {tuple(keys.shape)}: wanted (K, d) with K at least 2")
    if frames_per_key < 1:
        raise HiresError(f"{frames_per_key} frames from one keyframe to the next: wanted at least 1")
    between = slerp if kind == "slerp" else lerp
    starts, ends = (keys, keys.roll(-1, 0)) if loop else (keys[:-1], keys[1:])
    t = torch.arange(frames_per_key, device=keys.device, dtype=keys.dtype) / frames_per_key
    path = between(starts.repeat_interleave(frames_per_key, 0), ends.repeat_interleave(frames_per_key, 0), t.repeat(len(starts))[:, None])
    return path if loop else torch.cat([path, keys[-1:]])
