"""How pictures grew: the same latents through the checkpoints of a run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hires.bundle import from_run
from hires.bundle.hires_bundle import latents, pictures_at_once
from hires.checkpoints import reading
from hires.errors import HiresError
from hires.ground.images import enlarge, to_uint8
from hires.media.captions import caption
from hires.networks.growing import resolutions_up_to
from hires.sampling.ahead import ahead
from hires.sampling.clips import Look, assemble
from hires.sampling.paths import smooth

HELD = 0.5  # share of a checkpoint's time before it fades into the next


@dataclass(frozen=True)
class Stage:
    """A checkpoint of a run, as its manifest says."""

    path: Path
    images: int
    resolution: int
    fading: bool
    alpha: float

    def caption(self) -> str:
        """'64×64 · 1,200,000 images', and α in the middle of a fade-in."""
        fade = f" · α {self.alpha:.2f}" if self.fading else ""
        return f"{self.resolution}×{self.resolution} · {self.images:,} images{fade}"


def stages(run: str) -> list[Stage]:
    """The checkpoints of a run, oldest first; raises HiresError where there are fewer than two, or a manifest is damaged."""
    paths = reading.complete(Path(run) / "checkpoints")
    if len(paths) < 2:
        found = f"1 checkpoint in {paths[0].parent}" if paths else f"no checkpoint in {Path(run) / 'checkpoints'}"
        raise HiresError(f"run={run}: {found}, wanted at least two to see it grow")
    kept = []
    for path in paths:
        try:
            m = reading.read_manifest(path)
        except HiresError as error:
            raise HiresError(f"{path}: damaged checkpoint: {error}; move it away to leave it out") from error
        kept.append(Stage(path, m["images"], m["resolution"], m["fading"], m["alpha"]))
    return kept


def lost_levels(found: list[Stage]) -> list[int]:
    """Resolutions from 4 up to the last stage's of which there is no checkpoint."""
    there = {stage.resolution for stage in found}
    return [r for r in resolutions_up_to(found[-1].resolution) if r not in there]


@torch.no_grad()
def pictures_of(run: str, stage: Stage, seeds: list[int], device: torch.device) -> Tensor:
    """Pictures (N, C, r, r), uint8 on the CPU, that the moving average of the generator makes of the seeds' latents at a checkpoint.

    In the middle of a fade-in they are blended with its α, as training blends them. Raises HiresError for a checkpoint that is
    damaged or gone.
    """
    loaded = from_run.load(run, str(stage.images))
    if loaded.images != stage.images:  # the run's training removes checkpoints
        raise HiresError(f"{stage.path}: removed while the clip was made; wanted a run that keeps it (train.keep_every=…), or try again")
    generator = loaded.generator.to(device)
    parts = latents(seeds, loaded.config.network.latent).split(pictures_at_once(stage.resolution))
    return to_uint8(torch.cat([generator(z.to(device), loaded.alpha).cpu() for z in parts]))


@dataclass(frozen=True)
class Growth:
    """What a growth clip shows, and how."""

    run: str
    stages: list[Stage]
    seeds: list[int]  # one for each of the look's cells
    look: Look  # its size is a whole multiple of every stage's resolution
    frames_per_stage: int
    device: torch.device


def growth_frames(growth: Growth) -> tuple[int, Iterator[np.ndarray]]:
    """The number of frames of a clip through the stages, and the frames, uint8 (H, W, 3), made ahead of who takes them.

    Each stage stands for half of its frames and fades into the next for the other half; the last one stands for all of them. Smaller
    pictures are enlarged by repeating pixels; with the look's captions a line below says the stage. Raises HiresError for another number
    of seeds than cells.
    """
    if len(growth.seeds) != growth.look.columns * growth.look.rows:
        raise HiresError(f"{len(growth.seeds)} seeds for {growth.look.columns * growth.look.rows} cells: wanted as many")
    return growth.frames_per_stage * len(growth.stages), ahead(_frames(growth))


def _frames(growth: Growth) -> Iterator[np.ndarray]:
    here = _pictures(growth, growth.stages[0])
    for stage, following in zip(growth.stages, [*growth.stages[1:], None], strict=True):
        after = _pictures(growth, following) if following else here
        for i in range(growth.frames_per_stage):
            t = max(0.0, (i / growth.frames_per_stage - HELD) / (1 - HELD)) if following else 0.0
            share = float(smooth(torch.tensor(t)))
            picture = _blend(here, after, share) if share else here
            if growth.look.captions:
                text = (stage if share < 0.5 else following).caption()
                picture = np.concatenate([picture, caption(text, picture.shape[1], growth.look.bar())])
            yield picture
        here = after


def _pictures(growth: Growth, stage: Stage) -> np.ndarray:
    images = enlarge(pictures_of(growth.run, stage, growth.seeds, growth.device), growth.look.size)
    return assemble(images, growth.look)


def _blend(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """(1 − share) a + share b of uint8 arrays, rounded."""
    return torch.lerp(torch.from_numpy(a).float(), torch.from_numpy(b).float(), share).add_(0.5).to(torch.uint8).numpy()
