"""What a run's checkpoint and the command that resumes from it must have in common, and what differs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hires.checkpoints import reading
from hires.errors import HiresError
from hires.objectives import system
from hires.training.schedule import Schedule
from hires.training.settings import RunConfig, run_config, to_dict, with_later_settings

# settings that decide a run beside the schedule and the data; the others decide where and how fast it is computed, and what is shown
DECISIVE = ("objective.", "optimizer.", "data.mirror", "train.seed", "train.precision")
LOOKS = 200  # moments at which two schedules are compared


def origin(config: RunConfig, checkpoints: Path, say: Callable[[str], None]) -> tuple[reading.Checkpoint | None, int, int]:
    """What a run resumes from, the images seen and the rollbacks so far.

    That is its newest checkpoint; at its beginning that of `train.start_from`, or nothing. A collective.

    Raises HiresError for a checkpoint that the configuration does not fit, or where none of the run's own is whole.
    """
    checkpoint, place = reading.from_first_rank(checkpoints, say), config.train.start_from
    if checkpoint:
        check_same_network(config, checkpoint)
        if told := changes(config, checkpoint):
            say(f"other settings than at {checkpoint.path.name}: {told}")
        return checkpoint, checkpoint.images, checkpoint.manifest.get("attempt", 0)
    if not place:
        return None, 0, 0
    start = reading.of_another_run(place, config.schedule.growth_moments == "keep", say)
    check_same_network(config, start)
    there, first = start.manifest["resolution"], Schedule(config.schedule).levels[0].resolution
    if there > first:
        raise HiresError(f"{start.path} is of {there}x{there}, the schedule begins at {first}x{first}: wanted the same or a lower one")
    return start, 0, 0


def check_same_network(config: RunConfig, checkpoint: reading.Checkpoint) -> None:
    """Raise HiresError naming the first setting in which the checkpoint's networks differ from the configured ones."""
    then, now = with_later_settings(checkpoint.manifest["config"]), to_dict(config)
    for section, keys in (("network", now["network"]), ("objective", ["name", *system(config.objective).SHAPED_BY])):
        for key in keys:
            if then[section].get(key) != now[section][key]:
                raise HiresError(
                    f"{checkpoint.path} was made with {section}.{key}={then[section].get(key)}, this command says {now[section][key]}: "
                    "take another run=… or the old value"
                )


def changes(config: RunConfig, checkpoint: reading.Checkpoint) -> str:
    """The settings that differ from those of the run's own checkpoint, with both values; '' where none does.

    Raises HiresError where the schedule would put the run below the checkpoint's level, and, unless train.allow_changes, where what it has
    done so far would have been done otherwise: then it is no function of (configuration, images) any more.
    """
    try:
        before = run_config(checkpoint.manifest["config"])
    except HiresError as error:
        raise HiresError(f"{checkpoint.path}: made with settings that this version does not know ({error})") from error
    then, now = _flat(to_dict(before)), _flat(to_dict(config))
    differ = {key: (then.get(key), now.get(key)) for key in sorted(then.keys() | now.keys()) if then.get(key) != now.get(key)}
    differ = {key: values for key, values in differ.items() if key not in ("run", "train.allow_changes")}
    told = ", ".join(f"{key}={_shown(new)} (was {_shown(old)})" for key, (old, new) in differ.items())
    images, old, new = checkpoint.images, Schedule(before.schedule), Schedule(config.schedule)
    there, here = checkpoint.manifest["resolution"], new.ahead(images).resolution
    if here < there:
        raise HiresError(
            f"run={config.run} has grown to {there}x{there}, but at its {images} images this schedule is at {here}x{here} ({told}): "
            "take the old schedule, or another run=…"
        )
    past = any(_past(old, i) != _past(new, i) for i in _moments(old, new, images))
    grown = old.behind(images).resolution != old.at(0).resolution
    decisive = [key for key in differ if key.startswith(DECISIVE) or (past and key.startswith("schedule."))]
    decisive += ["schedule.growth_moments"] if grown and not past and "schedule.growth_moments" in differ else []
    if decisive and not config.train.allow_changes:
        told = ", ".join(f"{key}={_shown(differ[key][1])} (was {_shown(differ[key][0])})" for key in decisive)
        raise HiresError(
            f"run={config.run}: {told}: this changes what the run was over its {images} images; "
            "keep the old values, take another run=…, or set train.allow_changes=true"
        )
    return told


def _past(schedule: Schedule, images: int):
    """What the step at `images` depends on; micro-batches change its memory alone."""
    return replace(schedule.at(images), micro_batch=0) if images < schedule.total else None


def _moments(old: Schedule, new: Schedule, images: int) -> set[int]:
    """Moments before `images` at which two schedules can differ: the levels' beginnings and ends, and many between."""
    edges = {edge for schedule in (old, new) for level in schedule.levels for edge in (level.start, level.start + level.fade, level.end)}
    near = {edge + step for edge in edges for step in (-1, 0)}
    return {moment for moment in near | set(range(0, images, max(1, images // LOOKS))) if 0 <= moment < images}


def _flat(config: dict, prefix: str = "") -> dict:
    """{'train.seed': 0, …} of nested dictionaries."""
    flat = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _shown(value) -> str:
    return "not there" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
