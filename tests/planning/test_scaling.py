"""The scaling model: formulas against closed forms, bytes against what two real processes send, totals against a walk of the steps."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hires import cli
from hires.config import load
from hires.errors import HiresError
from hires.objectives.divergence_triangle import PLAYERS
from hires.planning.memory import held, level_networks
from hires.planning.scaling import Cluster, Collective, Forecast, forecast, hours, most_useful, seconds, sent, traffic
from hires.planning.steptime import StepTime, arithmetic, fit, operations, read
from hires.training.schedule import Schedule

SCRIPT = Path(__file__).parents[1] / "processes" / "counted.py"
SLIM = ["experiment=celebahq_1024", "network=slim", "schedule.resolution=32", "objective.r1=0", "train.precision=bf16"]
SCALES = [*SLIM, "nodes=2", "gpus_per_node=8", "bandwidth=400", "intra_bandwidth=450"]


def configured(*overrides: str):
    config = load("plan", [*SLIM, *overrides])
    return config, Schedule(config.schedule)


# ------------------------------------------------------------------------------------------------ bytes


def ring(size: int, world: int, rounds: int) -> int:
    """Bytes that a rank sends when chunks go round: in each of world - 1 turns of a round, one chunk to the next rank."""
    return sum(size // world for _ in range(rounds) for _ in range(world - 1))


@pytest.mark.parametrize("world", [1, 2, 4, 8])
@pytest.mark.parametrize("kind,rounds", [("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)])
def test_bytes_sent_are_those_of_a_ring(world, kind, rounds):
    assert sent(Collective(kind, 4096, 1), world) == ring(4096, world, rounds)


def test_a_world_of_one_moves_nothing():
    config, schedule = configured()
    assert not any(traffic(config, level_networks(config, schedule.levels[-1]), 1, 1).values())


@pytest.fixture(scope="module")
def counted(ranks, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("counted") / "counted.json"
    ranks(2, SCRIPT, out)
    return json.loads(out.read_text())


def the_case(name: str):
    """(configuration, networks, micro-batches) of a case that counted.py ran."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("counted", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    micro = module.CASES[name][3]
    config = load("plan", module.overrides(*module.CASES[name]))
    return config, level_networks(config, Schedule(config.schedule).levels[-1]), module.BATCH // 2 // micro if micro else 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stage 0", "stage 1", "stage 2, in parts", "stage 3", "stage 3, in parts"])
def test_a_real_round_moves_what_the_formula_says(name, counted):
    """Every collective of a round of two processes was noted where torch takes it."""
    config, networks, parts = the_case(name)
    expected: dict[str, float] = {}
    calls = 0
    for collectives in traffic(config, networks, parts, 2).values():
        for collective in collectives:
            expected[collective.kind] = expected.get(collective.kind, 0) + collective.size
            calls += collective.calls
    real: dict[str, int] = {}
    for kind, size in counted["traffic"][name]:
        if size > 16:  # norms and flags
            real[kind] = real.get(kind, 0) + size
    assert real == expected
    assert calls == pytest.approx(len(counted["traffic"][name]), rel=0.3)  # they only cost latency


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["1", "3"])
@pytest.mark.parametrize("player", PLAYERS)
def test_a_real_rank_holds_what_the_formula_says(stage, player, counted):
    """Counted tensor by tensor in a process of two (benchmarks/memory.py); `hires plan` adds these up."""
    _, networks, _ = the_case("stage 1")
    formula, real = held(networks[player], int(stage), "bf16", 2), counted["held"][stage][player]
    for part in ("weights", "gathered", "gradients", "moments", "average"):
        assert getattr(formula, part) == pytest.approx(real[part], abs=64), part
    assert formula.buffers == pytest.approx(real["buffers"], rel=0.002)


# ------------------------------------------------------------------------------------------------ seconds


def test_a_collective_in_one_node_takes_a_rings_bytes_at_a_gpus_bandwidth():
    cluster = Cluster(nodes=1, gpus=4, between=1e9, inside=10e9, latency=1e-5)
    for kind in ("all_reduce", "all_gather", "reduce_scatter"):
        one = Collective(kind, 8_000_000, 3)
        assert seconds(one, cluster) == pytest.approx(sent(one, 4) / 10e9 + 3e-5)


def test_between_nodes_the_gpus_of_a_node_share_its_network():
    """A rank's slice, 1/g of the bytes, goes round N nodes; g of them at a time through one network."""
    size, g, N = 8_000_000, 4, 3
    cluster = Cluster(nodes=N, gpus=g, between=2e9, inside=10e9, latency=0.0)
    inside, between = 2 * (g - 1) / g * size / 10e9, g * 2 * (N - 1) / N * (size / g) / 2e9
    assert seconds(Collective("all_reduce", size, 1), cluster) == pytest.approx(inside + between)
    halves = sum(seconds(Collective(kind, size, 1), cluster) for kind in ("reduce_scatter", "all_gather"))
    assert halves == pytest.approx(inside + between)


def test_a_line_through_points_that_lie_on_one():
    time = fit([(b, 0.25 + 0.125 * b, 0.05) for b in (1, 2, 8, 32)])
    assert (time.fixed, time.per_image, time.optimizer) == pytest.approx((0.25, 0.125, 0.05))


@pytest.mark.parametrize("points", [[(1, 0.2, 0.0), (8, 0.1, 0.0)], [(1, 0.1, 0.0), (2, 0.4, 0.0)]])
def test_no_part_of_a_time_is_negative(points):
    time = fit(points)
    assert time.fixed >= 0 and time.per_image >= 0
    assert min(t for _, t, _ in points) <= time.on(points[-1][0], 1, 1.0) <= max(t for _, t, _ in points)


def test_what_shrinks_with_the_batch_and_what_does_not():
    time = StepTime(fixed=10.0, per_image=1.0, optimizer=4.0)
    assert time.on(images=8, parts=1, shard=1.0) == 18
    assert time.on(images=1, parts=1, shard=1 / 8) == 6 + 1 + 0.5
    assert time.on(images=8, parts=4, shard=1.0) == 4 * 6 + 8 + 4  # Adam steps once, whatever the micro-batches


@pytest.mark.parametrize("updates,G,U,I", [("published", 8, 8, 9), ("energy_first", 6, 8, 6), ("simultaneous", 6, 6, 6)])
@pytest.mark.parametrize("sees,more", [("samples", 0), ("samples_and_corrupted", 3)])
def test_operations_of_a_round_in_forward_passes(updates, G, U, I, sees, more):  # noqa: E741 - the papers' name
    """25, 20 and 18 passes of one network, 3 more with corrupted images; a little less, for the first layer's images get no gradient."""
    config, schedule = configured(f"objective.updates={updates}", f"objective.energy_sees={sees}", "schedule.resolution=8")
    passes = {"generator": G, "energy": U + more, "inference": I}
    expected = 0
    for name, network in level_networks(config, schedule.levels[-1]).items():
        shape = (1, config.network.latent) if name == "generator" else (1, 3, 8, 8)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(shape, device="meta"), 0.5)
        expected += passes[name] * counter.get_total_flops()
    assert 0.96 * expected < operations(config, schedule.levels[-1]) < 1.001 * expected


def test_the_penalty_adds_its_share_of_operations():
    config, schedule = configured()  # r1=0
    plain = operations(config, schedule.levels[0])
    every = [operations(configured("objective.r1=1", f"objective.r1_every={n}")[0], schedule.levels[0]) for n in (1, 8)]
    assert every[0] - plain == pytest.approx(8 * (every[1] - plain)) and every[0] > 1.2 * plain


# ------------------------------------------------------------------------------------------------ schedules


def on(size: int, gpus: int = 8) -> Cluster:
    return Cluster(max(1, size // gpus), min(size, gpus), 50e9, 450e9, 3e-5)


def test_a_forecast_is_the_sum_of_its_parts():
    config, schedule = configured("zero.stage=1", "train.precision=fp32")
    level, time = schedule.levels[-1], StepTime(0.02, 0.001, 0.004)
    alone, many = (forecast(config, level, on(size), time) for size in (1, 16))
    assert alone.efficiency == 1 and alone.sent == alone.communicating == 0 and alone.seconds == pytest.approx(0.02 + 64 * 0.001)
    total = sum(p.numel() for network in level_networks(config, level).values() for p in network.parameters())
    assert many.images == 4 and many.computing == pytest.approx(0.016 + 4 * 0.001 + 0.004 / 16)
    assert many.sent == pytest.approx(3 * 15 / 16 * 4 * total, rel=1e-3)  # gradients twice round the ring, weights once
    assert many.efficiency == pytest.approx(alone.seconds / (16 * (many.computing + many.communicating)))


def test_a_batch_that_does_not_divide_has_no_forecast():
    config, schedule = configured("schedule.levels.32.batch=24")
    assert forecast(config, schedule.levels[-1], on(16), None) is None
    assert forecast(config, schedule.levels[-1], on(8), None).seconds is None  # bytes are known all the same


def test_totals_are_those_of_a_walk_through_the_schedule():
    config, schedule = configured("schedule.levels.8.batch=192")  # fade and level end within a batch
    forecasts = [forecast(config, level, on(8), StepTime(0.01 * level.resolution, 0.001)) for level in schedule.levels]
    images, clock = 0, 0.0
    while images < schedule.total:
        phase = schedule.at(images)
        clock += next(f for f in forecasts if f.level.resolution == phase.resolution).seconds
        images += phase.batch
    assert hours(schedule, forecasts) == pytest.approx((clock / 3600, 8 * clock / 3600))
    with pytest.raises(ValueError, match="4"):
        hours(schedule, [forecast(config, schedule.levels[0], on(8), None)])


def test_more_gpus_help_down_to_half_the_efficiency():
    level = Schedule(load("plan", SLIM).schedule).levels[0]
    row = [Forecast(level, size, 1, 0.0, 0.0, 1 / useful, float(size)) for size, useful in ((1, 1), (2, 0.9), (4, 0.5), (8, 0.49))]
    assert most_useful([*row, None]).size == 4
    assert most_useful([None]) is None


# ------------------------------------------------------------------------------------------------ what a person writes and reads


def test_a_table_of_times_is_read(tmp_path):
    rows = [{"level": 4, "batch": b, "seconds": 0.5 + 0.25 * b, "optimizer": 0.125} for b in (1, 4)]
    (tmp_path / "t.json").write_text(json.dumps({"machine": "a box", "steps": rows}))
    machine, times = read(str(tmp_path / "t.json"))
    assert machine == "a box" and times[4].on(2, 1, 0.5) == pytest.approx(1 - 0.0625)


BAD = {
    "no file": (None, "No such file"),
    "no machine": ("steps: []", "machine"),
    "rows that are none": ("machine: m\nsteps: 3", "steps"),
    "a word": ("machine: m\nsteps: [{level: 4, batch: two, seconds: 1}]", "two"),
    "one batch": ("machine: m\nsteps: [{level: 4, batch: 2, seconds: 1}]", "one batch"),
    "no time": ("machine: m\nsteps: [{level: 4, batch: 2, seconds: 1}, {level: 4, batch: 4, seconds: 0}]", "level 4"),
    "not YAML": ("machine: [", "wanted"),
}


@pytest.mark.parametrize("text,word", BAD.values(), ids=BAD)
def test_a_bad_table_is_told_in_one_line(text, word, tmp_path):
    path = tmp_path / "t.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(HiresError) as refusal:
        read(str(path))
    assert "\n" not in str(refusal.value) and word in str(refusal.value) and str(path) in str(refusal.value)


REFUSED = {
    "a contradiction": (["world_size=8"], ["world_size=8", "16"]),
    "no nodes": (["nodes=0"], ["nodes=0"]),
    "no bandwidth": (["bandwidth=0"], ["bandwidth=…", "Gbit/s"]),
    "no bandwidth inside": (["intra_bandwidth=0"], ["intra_bandwidth=…", "GB/s"]),
    "a negative number": (["latency_us=-1"], ["latency_us=-1"]),
    "two sources": (["measured=t.yaml", "tflops=10"], ["measured=t.yaml", "tflops=10"]),
    "half a source": (["round_ms=10"], ["round_ms=10", "tflops"]),
    "speed without a cluster": (["nodes=null", "gpus_per_node=null", "tflops=10"], ["nodes="]),
}


@pytest.mark.parametrize("overrides,words", REFUSED.values(), ids=REFUSED)
def test_what_a_plan_refuses(overrides, words, capsys):
    assert cli.main(["plan", *SCALES, *overrides]) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and all(word in line for word in words), line


def test_a_plan_says_where_its_times_are_from_and_where_gpus_stop_helping(capsys):
    assert cli.main(["plan", *SCALES, "schedule.resolution=8", "nodes=64", "tflops=50", "round_ms=20"]) == 0
    text = capsys.readouterr().out
    assert "ASSUMED" in text and "under one" in text and "hours" in text and "still help" in text
    assert cli.main(["plan", *SCALES, "schedule.resolution=8"]) == 0
    text = capsys.readouterr().out
    assert "no time of a step can be predicted" in text and "sent (MB)" in text and "hours" not in text


def test_arithmetic_is_operations_over_a_rate():
    config, schedule = configured()
    level = schedule.levels[0]
    time = arithmetic(config, [level], tflops=2.0, round_ms=15.0)[4]
    assert time.fixed == 0.015 and time.per_image == pytest.approx(operations(config, level) / 2e12)
