"""The schedule as a pure function of images seen: any valid table is a partition of the run, and a bad one is refused in a line."""

from itertools import pairwise
import math

from hypothesis import example, given, settings
from hypothesis import strategies as st
import pytest

from hires.errors import HiresError
from hires.training.schedule import LevelConfig, Schedule, ScheduleConfig, parse_images


@st.composite
def tables(draw) -> ScheduleConfig:
    first = draw(st.integers(2, 5))
    rows = {}
    for k in range(first, first + draw(st.integers(1, 4))):
        rows[str(2**k)] = LevelConfig(
            fade="0" if k == first else str(draw(st.integers(0, 90))),
            stable=str(draw(st.integers(1, 90))),
            batch=draw(st.integers(1, 40)),
            lr=draw(st.floats(1e-6, 1.0)),
        )
    keys = draw(st.permutations(list(rows)))  # the order in which a table is written means nothing
    return ScheduleConfig(levels={key: rows[key] for key in keys}, decay=str(draw(st.integers(0, 60))) if len(rows) > 1 else "0")


@settings(max_examples=150, deadline=None)
@given(tables())
def test_every_image_belongs_to_one_phase(config):
    try:
        schedule = Schedule(config)
    except HiresError as error:
        assert "schedule.decay" in str(error)  # a decay longer than the run is the one thing these tables can get wrong
        return
    rows = {int(key): row for key, row in config.levels.items()}
    # levels lie end to end, each as long as its row asks for, rounded up to its batch
    assert [level.resolution for level in schedule.levels] == sorted(rows)
    assert schedule.levels[0].start == 0 and schedule.levels[-1].end == schedule.total
    assert all(a.end == b.start for a, b in pairwise(schedule.levels))
    lengths = {level.resolution: level.end - level.start for level in schedule.levels}
    for resolution, row in rows.items():
        asked = int(row.fade) + int(row.stable)
        assert asked <= lengths[resolution] < asked + row.batch and lengths[resolution] % row.batch == 0
    assert sum(lengths.values()) == schedule.total
    # the steps from 0 visit every image once and end exactly at the total
    images, seen, counted, before = 0, dict.fromkeys(rows, 0), {}, None
    while images < schedule.total:
        phase = schedule.at(images)
        assert phase.batch == rows[phase.resolution].batch
        assert 0 < phase.alpha <= 1 and (phase.fading or phase.alpha == 1)
        assert phase.fading == (seen[phase.resolution] < int(rows[phase.resolution].fade))
        assert phase.level_start == images - seen[phase.resolution]
        assert 0 < phase.lr <= rows[phase.resolution].lr
        assert phase.energy_lr == pytest.approx(phase.lr * config.energy_lr)
        assert 0 < phase.ema_halflife <= 20_000
        if before:
            assert phase.resolution >= before.resolution
            assert phase.resolution > before.resolution or phase.alpha >= before.alpha
        seen[phase.resolution] += phase.batch
        counted[phase.resolution, phase.fading] = counted.get((phase.resolution, phase.fading), 0) + 1
        images, before = images + phase.batch, phase
    assert images == schedule.total and seen == lengths
    assert {key: n for key, n in schedule.steps.items() if n} == counted


def table(**rows) -> ScheduleConfig:
    return ScheduleConfig(levels={key.lstrip("r"): LevelConfig(**row) for key, row in rows.items()})


def test_fade_alpha_is_linear_from_the_levels_own_start():
    """alpha = (images - start + batch / 2) / fade: not from the run's start, which would jump to one (a known bug elsewhere)."""
    schedule = Schedule(table(r4={"stable": "100", "batch": 10}, r8={"fade": "100", "stable": "50", "batch": 10}))
    alphas = [schedule.at(i).alpha for i in range(100, 220, 10)]
    assert alphas == pytest.approx([0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.0, 1.0])


def test_averages_forget_a_new_levels_random_start_and_never_look_back_further_than_a_tenth():
    levels = {"4": LevelConfig(stable="100k", batch=16), "8": LevelConfig(fade="50k", stable="900k", batch=16)}
    schedule = Schedule(ScheduleConfig(levels=levels, ema_halflife="20k"))
    start = schedule.levels[1].start
    held = 1.0  # of the first weights, by the average
    for step in range(10):
        phase = schedule.at(start + 16 * step)
        held *= 0.5 ** (phase.batch / phase.ema_halflife)
    assert held < 1e-3
    for seen in (1000, 100_000, 800_000):
        assert schedule.at(start + seen).ema_halflife == pytest.approx(min(20_000, seen / 10), rel=0.02)


def test_learning_rates_fall_to_zero_over_the_decay():
    config = table(r4={"stable": "100", "batch": 10, "lr": 0.5})
    config.decay, config.energy_lr = "50", 0.25
    schedule = Schedule(config)
    assert [schedule.at(i).lr for i in range(0, 100, 10)] == pytest.approx([0.5] * 6 + [0.4, 0.3, 0.2, 0.1])
    assert schedule.at(90).energy_lr == pytest.approx(0.025)


def test_learning_rates_fall_by_a_factor_an_epoch():
    config = table(r4={"stable": "100", "batch": 10, "lr": 0.5})
    config.decay_factor, config.decay_every, config.energy_lr = 0.9, "30", 0.25
    schedule = Schedule(config)
    rates = [schedule.at(images).lr for images in range(0, 100, 10)]
    assert rates == pytest.approx([0.5 * 0.9**epoch for epoch in (0, 0, 0, 1, 1, 1, 2, 2, 2, 3)])
    assert schedule.at(90).energy_lr == pytest.approx(0.25 * rates[-1])


@pytest.mark.parametrize("text,images", [("0", 0), ("600", 600), ("600k", 600_000), ("1.2M", 1_200_000), ("0.5k", 500), (" 7 ", 7)])
def test_images_are_written_plain_or_with_k_or_M(text, images):
    assert parse_images(text) == images


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**12), st.sampled_from(["", "k", "M"]))
@example(576_460_752_305, "M")  # past 2^53, where a float has gaps
def test_images_are_exact_for_whole_numbers(n, unit):
    assert parse_images(f"{n}{unit}") == n * {"": 1, "k": 1000, "M": 10**6}[unit]


@pytest.mark.parametrize("text", ["", "-5", "5G", "5 k", "k", "1e3", "nan", "5kk", "0x10", None])
def test_other_numbers_of_images_are_refused_naming_the_setting(text):
    with pytest.raises(HiresError, match=r"schedule\.decay"):
        parse_images(text, "schedule.decay")


OK = {"stable": "100"}
BAD = {
    "hole": (table(r4=OK, r16=OK), "no 8"),
    "empty": (ScheduleConfig(), "empty"),
    "no resolution": (table(rx=OK), "levels.x"),
    "not a power of two": (table(r12=OK, r16=OK), "power of two"),
    "too small": (table(r2=OK), "at least 4"),
    "fade of the first": (table(r4={"stable": "10", "fade": "10"}), "levels.4.fade"),
    "nothing stable": (table(r4=OK, r8={"fade": "100"}), "levels.8.stable"),
    "batch 0": (table(r4={"stable": "10", "batch": 0}), "batch=0"),
    "negative micro_batch": (table(r4={"stable": "10", "micro_batch": -1}), "micro_batch=-1"),
    "lr 0": (table(r4={"stable": "10", "lr": 0.0}), "lr=0.0"),
    "lr nan": (table(r4={"stable": "10", "lr": math.nan}), "lr=nan"),
    "images": (table(r4={"stable": "many"}), "levels.4.stable=many"),
    "resolution": (ScheduleConfig(levels={"4": LevelConfig(stable="9")}, resolution=64), "resolution=64"),
    "moments": (ScheduleConfig(levels={"4": LevelConfig(stable="9")}, growth_moments="halve"), "growth_moments=halve"),
    "decay": (ScheduleConfig(levels={"4": LevelConfig(stable="9")}, decay="1k"), "decay=1k"),
    "lr infinite": (table(r4={"stable": "10", "lr": math.inf}), "lr=inf"),
    "energy_lr negative": (ScheduleConfig(levels={"4": LevelConfig(stable="9")}, energy_lr=-1.0), "energy_lr=-1"),
    "energy_lr nan": (ScheduleConfig(levels={"4": LevelConfig(stable="9")}, energy_lr=math.nan), "energy_lr=nan"),
    "a factor of 0": (ScheduleConfig(levels={"4": LevelConfig(stable="9")}, decay_factor=0.0), "decay_factor=0.0"),
    "a factor at no time": (ScheduleConfig(levels={"4": LevelConfig(stable="9")}, decay_factor=0.5), "decay_every"),
    "no half-life": (ScheduleConfig(levels={"4": LevelConfig(stable="9")}, ema_halflife="0"), "ema_halflife=0"),
}


@pytest.mark.parametrize("config,culprit", BAD.values(), ids=BAD)
def test_bad_schedules_are_refused_in_one_line(config, culprit):
    with pytest.raises(HiresError) as refusal:
        Schedule(config)
    assert culprit in str(refusal.value) and "\n" not in str(refusal.value)


def test_world_and_micro_batch_must_divide_the_batch():
    schedule = Schedule(table(r4={"stable": "10", "batch": 12, "micro_batch": 3}))
    for world in (1, 2, 4):
        schedule.check_world(world)
    with pytest.raises(HiresError, match=r"levels\.4\.batch=12.*5"):
        schedule.check_world(5)
    with pytest.raises(HiresError, match=r"levels\.4\.micro_batch=3.*2 images"):
        schedule.check_world(6)


def test_resolution_cuts_the_growth_short():
    config = table(r4=OK, r8=OK, r16=OK)
    config.resolution = 8
    assert [level.resolution for level in Schedule(config).levels] == [4, 8]
