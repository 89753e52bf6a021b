"""The replay buffer and its chains: who owns which slot, what a checkpoint holds, growth, and the Langevin step against a closed form."""

import types
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from hires.errors import HiresError
from hires.ground.ranges import check_ranges
from hires.objectives import langevin
from hires.objectives.replay import NAME, Chains, ChainsConfig, Replay, first_slot, to_bytes, uniform

C, R = 2, 8


def draw_of(batch: int, moment: int = 0, rows: slice = slice(None)):
    """draw(stream, size) as the trainer's: rows of the global batch's noise."""

    def draw(stream: str, size: int) -> torch.Tensor:
        dice = torch.Generator().manual_seed(zlib.crc32(f"{stream}@{moment}".encode()))
        return torch.randn(batch, size, generator=dice)[rows]

    return draw


def rank_of(world: int, rank: int, slots: int) -> Replay:
    buffer = Replay(slots)
    buffer.rank, buffer.size, buffer.first = rank, world, first_slot(rank, slots, world)
    return buffer


def rows(batch: int, world: int, rank: int) -> slice:
    return slice(batch * rank // world, batch * (rank + 1) // world)


def like(b: int, resolution: int = R) -> torch.Tensor:
    return torch.empty(b, C, resolution, resolution)


def written(buffers: list[Replay], slots: int):
    """A checkpoint of what these ranks carry, in memory."""
    stretches = [buffer.carried()[NAME] for buffer in buffers]
    whole = torch.full((sum(t.numel() for t, _ in stretches),), 255, dtype=torch.uint8)
    seen = torch.zeros(len(whole), dtype=torch.int64)
    for t, start in stretches:
        whole[start : start + len(t)] = t
        seen[start : start + len(t)] += 1
    assert (seen == 1).all()  # the ranks' stretches cover the whole once
    return types.SimpleNamespace(
        path="images-000000000064",
        manifest={"config": {"objective": {"chains": {"replay": slots}}}},
        names=lambda player, field: {NAME},
        numel=lambda player, name, field: len(whole),
        read=lambda player, name, field, start, numel: whole[start : start + numel].clone(),
    )


@given(st.integers(1, 9), st.sampled_from([1, 2, 3, 4]), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_each_slot_belongs_to_one_place_and_a_rank_holds_those_of_its_rows(share, world, more):
    batch = share * world
    slots = batch + more
    places = [place for place in range(batch) for _ in range(first_slot(place, slots, batch), first_slot(place + 1, slots, batch))]
    assert places == [s * batch // slots for s in range(slots)]
    for rank in range(world):
        mine = range(first_slot(rank, slots, world), first_slot(rank + 1, slots, world))
        assert {places[s] for s in mine} <= set(range(batch)[rows(batch, world, rank)])


@pytest.mark.parametrize(("slots", "micro", "labels"), [(12, 0, None), (31, 0, None), (31, 1, torch.arange(8) % 3)])
def test_any_world_goes_on_with_the_same_pictures(world, slots, micro, labels):
    """Six rounds of one process, of two and of four: the rows' samples and the whole buffer are the same, to the bit."""
    config, batch = ChainsConfig(steps=2, step_size=0.5 / R**2, noise=0.05, reach=1.0, replay=slots, restart=0.3), 8

    def energy(x, y=torch.zeros(1)):  # noqa: B008 - not changed
        return (x - 0.2 - 0.3 * y[:, None, None, None]).square().flatten(1).sum(1)

    def go_on(chains, moment, own):
        mine = None if labels is None else labels[own]
        return chains.go_on(energy, like(own.stop - own.start), 1.0, draw_of(batch, moment, own), micro, mine)[0]

    ends = {}
    for size in (1, 2, 4):
        ranks = [Chains(config) for _ in range(size)]
        for rank, chains in enumerate(ranks):
            chains.buffer = rank_of(size, rank, slots)
        for moment in range(6):
            parts = [go_on(chains, moment, rows(batch, size, rank)) for rank, chains in enumerate(ranks)]
        ends[size] = torch.cat(parts), torch.cat([chains.buffer.pictures for chains in ranks])
        assert ends[size][1].shape == (slots, C, R, R)
    for size in (2, 4):
        assert all(torch.equal(a, b) for a, b in zip(ends[1], ends[size], strict=True))
    assert len({picture.numpy().tobytes() for picture in ends[1][1]}) == slots
    if labels is not None:  # a row's sample lies nearest to the bottom of its own label
        means = ends[1][0].mean((1, 2, 3))
        assert means[labels == 0].max() < means[labels == 1].min() and means[labels == 1].max() < means[labels == 2].min()


@pytest.mark.parametrize("before,after", [(1, 2), (2, 1), (4, 2), (2, 4), (1, 1)])
def test_another_world_reads_the_same_buffer_out_of_a_checkpoint(world, before, after):
    slots, batch = 22, 4
    ranks = [rank_of(before, rank, slots) for rank in range(before)]
    for rank, buffer in enumerate(ranks):
        buffer.fit(like(batch // before), draw_of(batch, 0, rows(batch, before, rank)))
    checkpoint = written(ranks, slots)
    others = [rank_of(after, rank, slots) for rank in range(after)]
    for rank, buffer in enumerate(others):
        buffer.restore(checkpoint)
        buffer.fit(like(batch // after), draw_of(batch, 9, rows(batch, after, rank)))
    assert torch.equal(torch.cat([b.pictures for b in ranks]), torch.cat([b.pictures for b in others]))


def test_a_growth_and_another_batch_keep_every_picture_enlarged(world):
    small = rank_of(1, 0, 10)
    small.fit(like(4, 4), draw_of(4))
    large = rank_of(1, 0, 10)
    large.restore(written([small], 10))
    large.fit(like(2, 16), draw_of(2, 1))
    assert large.pictures.shape == (10, C, 16, 16)
    assert torch.equal(large.pictures, small.pictures.repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_a_chain_begins_at_its_stored_picture_or_at_noise(world):
    """Without a step: a picture out of the buffer within half a level of 8 bits, a new one uniform; and what was made is put back."""

    def flat(x):
        return 0 * x.flatten(1).sum(1)

    for restart in (0.0, 1.0):
        chains = Chains(ChainsConfig(steps=1, step_size=1e-9, noise=0.0, replay=6, restart=restart))
        chains.buffer.fit(like(6), draw_of(6))
        before = chains.buffer.pictures.clone()
        x_q, _ = chains.go_on(flat, like(6), 1.0, draw_of(6, 1))
        level = (x_q + 1) * 127.5
        if restart:
            assert (x_q - (before / 127.5 - 1)).abs().mean() > 0.3
            assert abs(x_q.mean()) < 0.1 and x_q.std().item() == pytest.approx(3**-0.5, rel=0.1)  # U(-1, 1)
        else:
            assert (level - before).abs().max() <= 0.51 and (level - before).std() > 0.2
        assert torch.equal(chains.buffer.pictures, to_bytes(x_q))
        assert not restart or not torch.equal(chains.buffer.pictures, before)


def test_slots_of_a_place_are_all_drawn(world):
    buffer, drawn = Replay(12), set()
    buffer.fit(like(3), draw_of(3))
    for share in torch.linspace(0, 1, 41):  # 1 itself too: the distribution function rounds up to it
        slots = buffer.choose(torch.full((3,), share.item()))
        assert (slots // 4).tolist() == [0, 1, 2]
        drawn |= set(slots.tolist())
    assert drawn == set(range(12))


def test_micro_batches_make_the_same_samples(world):
    config = ChainsConfig(steps=3, step_size=0.3 / R**2, noise=0.1, reach=1.0, replay=16)
    ends = []
    for micro in (0, 1, 2):
        chains = Chains(config)
        for moment in range(3):
            x_q, measures = chains.go_on(lambda x: x.pow(4).flatten(1).sum(1), like(4), 1.0, draw_of(4, moment), micro)
        ends.append((x_q, chains.buffer.pictures, measures["chain_slope"], measures["chain_moved"]))
    for end in ends[1:]:
        for a, b in zip(ends[0], end, strict=True):
            torch.testing.assert_close(a, b)


# ---------------------------------------------------------------------------------------------- one step


def test_a_step_goes_down_the_slope_no_further_than_its_reach_and_inside_its_bound():
    def bowl(x):
        return x.square().sum(1) / 2

    start = torch.tensor([[0.5, -0.1, 0.95]])
    x, slope = langevin.step(bowl, start, 0.5, None)
    torch.testing.assert_close(slope, start)
    torch.testing.assert_close(x, start / 2)
    kick = torch.tensor([[0.0, 0.0, 0.7]])
    x, _ = langevin.step(bowl, start, 0.5, kick, reach=0.1, bound=1.0)
    torch.testing.assert_close(x, torch.tensor([[0.4, -0.05, 1.0]]))


def test_a_step_asks_nothing_of_the_network_that_it_reads():
    layer = torch.nn.Linear(3, 1)
    with torch.no_grad():  # as the trainer's snapshots are
        x, _ = langevin.step(lambda x: layer(x)[:, 0], torch.ones(2, 3), 1.0, None)
    torch.testing.assert_close(x, 1 - layer.weight.detach().expand(2, -1))
    assert layer.weight.grad is None and not x.requires_grad


def test_uniform_noise_is_uniform():
    u = uniform(torch.randn(20_000, generator=torch.Generator().manual_seed(0)))
    levels = torch.histc(u, 10, 0, 1) / 2000
    assert (levels - 1).abs().max() < 0.1 and u.min() >= 0 and u.max() <= 1


# ---------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("bad", [{"steps": 0}, {"replay": 0}, {"step_size": 0.0}, {"reach": -1.0}, {"noise": -0.1}, {"restart": 1.5}])
def test_settings_that_mean_nothing_are_one_line(bad):
    with pytest.raises(HiresError, match=rf"objective\.chains\.{next(iter(bad))}="):
        check_ranges(ChainsConfig(**bad), "objective.chains.")


def test_a_buffer_smaller_than_the_batch_and_one_of_another_size_are_one_line(world):
    with pytest.raises(HiresError, match=r"objective\.chains\.replay=3: wanted at least the batch, 4"):
        Replay(3).fit(like(4), draw_of(4))
    ten = Replay(10)
    ten.fit(like(4), draw_of(4))
    with pytest.raises(HiresError, match=r"objective\.chains\.replay=12: .* has 10 pictures"):
        Replay(12).restore(written([ten], 10))
