"""What the measures are made of: the subject's samples and a data set's pictures, each made or read once, shared among ranks."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
import torch.distributed as dist
import torch.nn.functional as F

from hires.bundle.aggregate import MOMENTS, fit
from hires.bundle.hires_bundle import latents, pictures_at_once
from hires.errors import HiresError
from hires.evaluation.subject import Subject
from hires.ground.distributed import gather
from hires.ground.files import in_words
from hires.ground.images import to_uint8
from hires.ground.labels import labels_of
from hires.networks.batch_norm import LATENTS
from hires.networks.growing import fade_images
from pipelines import Loader, Shards

HELD = 4e9  # bytes of samples kept for all measures; where there are more, each draws its own


class Material:
    """Samples, held-out pictures and training pictures of one evaluation, fp32 on the CPU, in [-1, 1] unless said otherwise.

    Under a process group every rank calls the same methods in the same order; each makes its share of the batches and all get the whole.
    Batches are cut alike for any number of ranks, so the numbers are the same too.
    """

    def __init__(self, subject: Subject, shards: Shards, images: int, folder: Path | None = None, codes: bool = False):
        """`images`: samples drawn, and held-out pictures at most; `folder`: where measures put their pictures, None = nowhere; `codes`:
        samples come from the Gaussian of the codes of training pictures, as a bundle's do, not from N(0, I).

        Raises HiresError or DataError where the data do not fit the subject.
        """
        self.subject, self.shards, self.folder = subject, shards, folder
        self.first = not dist.is_initialized() or dist.get_rank() == 0  # the rank that writes
        shards.require_level(subject.resolution)
        if shards.channels != subject.channels:
            raise HiresError(f"data={shards.root}: {shards.channels} channels, {subject.name} has {subject.channels}")
        if shards.count("holdout") < 2:
            raise HiresError(f"data={shards.root}: no held-out pictures; prepare it with split.holdout=… or split.prefix=…")
        if images < 2:
            raise HiresError(f"images={images}: wanted at least 2")
        self.images = images
        self.at_once = pictures_at_once(subject.resolution)
        self.unwritten: HiresError | None = None  # why a picture is not in the folder
        self.sampled = False  # whether a measure has asked for samples
        self._codes, self._gaussian = codes, None  # the latter from the first samples on
        self._drawn: Tensor | None = None
        self._read: dict[tuple[str, int], Tensor] = {}
        if subject.settle:
            subject.settle(self.of_pictures(lambda x: x, "train", min(LATENTS, shards.count("train"))))

    def picture(self, name: str, draw: Callable[[Path], None]) -> dict[str, str]:
        """What a record says of a picture, {'MEASURE_sheet': 'MEASURE.png'} for that name, which `draw` writes into the folder on rank 0.

        Nothing where there is no folder; and where it cannot be written, which is kept as `unwritten`: the numbers hold without it.
        """
        if not self.folder:
            return {}
        path = self.folder / f"{name.partition('_')[0]}.png"
        try:
            if self.first:
                draw(path)
        except (HiresError, OSError) as error:
            self.unwritten = HiresError(in_words(error))
            return {}
        return {name: path.name}

    def held_out(self) -> Tensor:
        """Held-out pictures (N, C, r, r), N = `images` or all there are, drawn by a fixed permutation."""
        return self._pictures("holdout", min(self.images, self.shards.count("holdout")))

    def train(self) -> Tensor:
        """As many training pictures as held-out ones, drawn by a fixed permutation; fewer where there are fewer."""
        return self._pictures("train", min(len(self.held_out()), self.shards.count("train")))

    @torch.no_grad()
    def drawn(self, count: int = 0) -> Tensor:
        """Samples (N, C, r, r) of the seeds 0, 1, … as the system makes them, not clamped; N = `count` or `images`."""
        count = count or self.images
        found = self._held(count)
        if found is None:
            found = in_ranks(count, self.at_once, self._draw)
        if not found.isfinite().all():
            raise HiresError(f"{self.subject.name}: its samples are not all finite; there is nothing to measure")
        return found

    def samples(self, count: int = 0) -> Tensor:
        """The same samples as pictures: clamped to [-1, 1] and rounded to 256 levels, as the data are."""
        return as_pictures(self.drawn(count))

    @torch.no_grad()
    def of_samples(self, function: Callable[[Tensor], Tensor], count: int = 0) -> Tensor:
        """function(pictures (B, C, r, r)) -> (B, …) over the rounded samples, of which HELD bytes are kept at most."""
        count = count or self.images
        held = self._held(count)

        def batch(rows: range) -> Tensor:
            images = self._draw(rows) if held is None else held[rows.start : rows.stop]
            found = function(as_pictures(images)).cpu()
            if found.is_floating_point():  # as a picture NaN is grey, and would be measured as such
                found[~images.isfinite().flatten(1).all(1)] = torch.nan
            return found

        return in_ranks(count, self.at_once, batch)

    @torch.no_grad()
    def of_pictures(self, function: Callable[[Tensor], Tensor], split: str, count: int = 0) -> Tensor:
        """function(pictures (B, C, r, r)) -> (B, …) over `count` pictures of a split (0: all), drawn by the fixed permutation."""
        pick = self._order(split)[: count or None]
        return in_ranks(len(pick), self.at_once, lambda rows: function(self._read_faded(split, pick[rows.start : rows.stop])).cpu())

    def pair(self, seeds: Tensor, split: str, rows: Tensor) -> Tensor:
        """(N, 2, C, r, r): the samples of some seeds (N,) beside pictures of a split by their places (N,) in the fixed permutation."""
        samples = self._drawn[seeds] if self._drawn is not None else torch.cat([self._draw([seed]) for seed in seeds.tolist()])
        return torch.stack([as_pictures(samples), self._read_faded(split, self._order(split)[rows])], 1)

    def labelled(self, split: str, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Pictures first … first + count of a split, in its order (N, C, r, r), fewer where it ends before, and their labels (N,)."""
        indices = torch.arange(self.shards.count(split))[first : first + count]
        keys = self.shards.keys(split)[first : first + count]
        labels = labels_of(keys, f"data={self.shards.root}")
        return self._read_faded(split, indices), labels

    def _prepare(self) -> None:
        """Before samples: fit the codes' Gaussian, once, where they are to come from it."""
        self.sampled = True
        if self._codes and not self._gaussian:
            posterior = self.subject.posterior
            moments = self.of_pictures(lambda x: torch.stack(posterior(x), 1), "train", MOMENTS)
            self._gaussian = fit(lambda part: part.unbind(1), [moments])

    def _held(self, count: int) -> Tensor | None:
        """The first `count` samples, drawn once for all measures: chains take minutes. None where they would take more than HELD bytes."""
        self._prepare()
        if self._drawn is None or len(self._drawn) < count:
            if 4 * count * self.subject.channels * self.subject.resolution**2 > HELD:
                return None
            self._drawn = in_ranks(count, self.at_once, self._draw)
        return self._drawn[:count]

    def _draw(self, seeds: Sequence[int]) -> Tensor:
        of = self.subject
        images = of.generate(self._gaussian.place(latents(list(seeds), of.latent))) if self._gaussian else of.draw(list(seeds))
        return images.float().cpu()

    def _pictures(self, split: str, count: int) -> Tensor:
        if (split, count) not in self._read:
            self._read[split, count] = self.of_pictures(lambda x: x, split, count)
        return self._read[split, count]

    def _order(self, split: str) -> Tensor:
        return torch.randperm(self.shards.count(split), generator=torch.Generator().manual_seed(0))

    def _read_faded(self, split: str, indices: Tensor) -> Tensor:
        loader = Loader(self.shards, self.subject.resolution, split, 0.0)
        return fade_images(loader.read(indices.numpy()).float() / 127.5 - 1, self.subject.alpha)


def as_pictures(images: Tensor) -> Tensor:
    """Images about [-1, 1] clamped and rounded to the 256 levels of a picture, still fp32 in [-1, 1]."""
    return to_uint8(images).float() / 127.5 - 1


def in_ranks(count: int, at_once: int, compute: Callable[[range], Tensor]) -> Tensor:
    """compute(rows) -> (len(rows), …) for the rows 0 … count - 1 in batches of `at_once`, joined in order, on every rank.

    Rank k computes the batches k, k + world size, …; without a process group this process computes them all.
    """
    batches = [range(start, min(start + at_once, count)) for start in range(0, count, at_once)]
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return torch.cat([compute(rows) for rows in batches]).contiguous()  # sums over strided memory round otherwise
    rank, size = dist.get_rank(), dist.get_world_size()
    own = [compute(rows) for rows in batches[rank::size]]
    shape, kind = gather([list(own[0].shape[1:]), str(own[0].dtype).removeprefix("torch.")] if own else None)[0]
    lengths = [sum(map(len, batches[k::size])) for k in range(size)]  # rank 0 has the most
    part = torch.cat(own) if own else torch.empty(0, *shape, dtype=getattr(torch, kind))
    part = F.pad(part.flatten(1) if shape else part[:, None], (0, 0, 0, lengths[0] - len(part)))
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    parts = [torch.empty_like(part, device=device) for _ in range(size)]
    dist.all_gather(parts, part.to(device))
    found = torch.cat([rows[:length].cpu() for rows, length in zip(parts, lengths, strict=True)]).reshape(count, *shape)
    order = torch.cat([torch.tensor(rows) for k in range(size) for rows in batches[k::size]])  # the rows' numbers as they lie in `found`
    return found[order.argsort()]
