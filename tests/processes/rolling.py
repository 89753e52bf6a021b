"""Run by test_rollback under torchrun: a run in which rank 1 alone draws latents that are not finite, once at 32 and once at 80 images.

torchrun --nproc_per_node 2 rolling.py OVERRIDES.json
"""

import json
from pathlib import Path
import sys

import torch

from hires import config as configuration
from hires.ground import distributed, noise
from hires.training.trainer import Trainer

if __name__ == "__main__":
    world = distributed.start(threads=1)
    clean, left = noise.normal, {32, 80}

    def normal(seed: int, stream: str, images: int, *rest) -> torch.Tensor:
        z = clean(seed, stream, images, *rest)
        if world.rank == 1 and stream == "latent" and images in left:
            left.remove(images)
            z[0] = torch.inf
        return z

    noise.normal = normal
    assert Trainer(configuration.load("train", json.loads(Path(sys.argv[1]).read_text())), world).train() == 0
    distributed.stop()
