"""A run's images: the shards, their order and the schedule give this rank's batches from any number of images seen on."""

from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hires.errors import HiresError
from hires.ground import noise
from hires.ground.distributed import World
from hires.ground.labels import labels_of
from hires.training.schedule import Phase, Schedule
from hires.training.settings import RunConfig
from pipelines import Loader, Order, Shards
from pipelines.manifest import MANIFEST


class Feed:
    """The data of one run, uint8 images (B, C, r, r) in [0, 255]."""

    def __init__(self, config: RunConfig, schedule: Schedule, world: World, end: int):
        """Opens the shards and the loader; raises HiresError or DataError where schedule, network or machine do not fit them."""
        if (Path(config.run) / MANIFEST).is_file():
            raise HiresError(f"run={config.run}: holds prepared data; wanted a folder of the run's own")
        self.schedule, self.end = schedule, end
        self._data, self._seed, self._world = config.data, config.train.seed, world
        self.shards = Shards.open(config.data.root, config.data.remote_cache, config.data.remote_gb)
        for level in schedule.levels:
            self.shards.require_level(level.resolution)
        if self.shards.channels != config.network.image_channels:
            raise HiresError(f"network.image_channels={config.network.image_channels}: {config.data.root} has {self.shards.channels}")
        self._labels = self._labelled(config.network.classes) if config.network.classes else None
        self._open(schedule.levels[0].resolution, keep=False)
        self.order = Order(self.shards.shard_sizes("train"), config.train.seed)
        self._loader: Loader | None = None

    def batches(self, images: int) -> Generator[Tensor, None, None]:
        """This rank's images of each step from `images` on, up to the next growth or the end of the run."""
        resolution = self.schedule.ahead(images).resolution
        if self._loader is None or self._loader.resolution != resolution:
            self._loader = self._open(resolution)
        self.shards.prefetch(resolution, self.order.shards_from(images))
        return self._loader.stream(self.indices(images))

    def indices(self, images: int) -> Iterator[np.ndarray]:
        """This rank's indices for each of these steps."""
        shape = self.schedule.ahead(images).shape
        while images < self.end and (phase := self.schedule.at(images)).shape == shape:
            yield self._of(phase)
            images += phase.batch

    def of(self, phase: Phase) -> Tensor:
        """This rank's images of one step, read for it alone."""
        return self._open(phase.resolution, keep=False).read(self._of(phase))

    def labels(self, phase: Phase) -> Tensor | None:
        """The labels (b,) int64 of this rank's images of one step, out of their keys, where the networks read them."""
        return None if self._labels is None else self._labels[self._of(phase)]

    def held_out(self, resolution: int, count: int) -> Tensor:
        """`count` held-out images at most, the same each time; training images where none are held out."""
        split = "holdout" if self.shards.count("holdout") else "train"
        there = self.shards.count(split)
        pick = torch.randperm(there, generator=noise.generator(self._seed, "grid pictures"))[: min(count, there)]
        return self._open(resolution, split, keep=False).read(pick.numpy())

    def _labelled(self, classes: int) -> Tensor:
        """The labels of all training pictures; raises HiresError where one has none, or there are not those from 0 to classes - 1."""
        labels = labels_of(self.shards.keys("train"), f"network.classes={classes}: {self._data.root}")
        found = int(labels.max()) + 1
        if found != classes:
            raise HiresError(f"network.classes={classes}: {self._data.root} has labels up to {found - 1}; wanted network.classes={found}")
        return labels

    def _of(self, phase: Phase) -> np.ndarray:
        return self.order.indices(phase.images, phase.batch)[self._world.rows(phase.batch)]

    def _open(self, resolution: int, split: str = "train", keep: bool = True) -> Loader:
        data = self._data
        return Loader(self.shards, resolution, split, data.cache_gb if keep else 0.0, data.workers, data.loader)
