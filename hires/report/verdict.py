"""How a run stands and how it went, in words: what a person wants to know first."""

from dataclasses import dataclass, field
from itertools import pairwise
import math

from hires.checkpoints.retention import lowest
from hires.objectives import SYSTEMS
from hires.report.charts import number
from hires.report.run import ALIVE, Run
from hires.training.monitor import duration

PAUSE = 120.0  # seconds between two checkpoints, beyond training's own, from which they are reported
CHANGES = 8  # most settings shown of one change


@dataclass
class Verdict:
    """`state`: finished, running, stopped or empty; `wrong` and `noted`: a line each."""

    state: str
    headline: str
    wrong: list[str] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)


def judge(run: Run) -> Verdict:
    """The verdict on a run."""
    found = Verdict(*_state(run))
    found.wrong = [*_rollbacks(run), *_alarms(run), *_not_finite(run), *_damaged(run), *_holes(run), *_signs(run)]
    found.noted = [*_starts(run), *_pauses(run), *_changes(run), *_best(run)]
    return found


def _state(run: Run) -> tuple[str, str]:
    seen, took = run.images, sum(seconds for _, seconds in run.seconds())
    far = f"{seen:,} of {run.end:,} images ({seen / run.end:.0%})" if run.end else f"{seen:,} images"
    level = run.statuses[-1]["resolution"] if run.statuses else 0
    where = f", at {level}×{level}" if level else ""
    time = f"; training itself took {duration(took)}" if took else ""
    if not seen:
        return "empty", "nothing trained yet, as far as the folder tells"
    if run.end and seen >= run.end:
        return "finished", f"{far}{where}{time}"
    if run.silent < ALIVE:
        left = run.statuses[-1].get("eta_seconds") if run.statuses else None
        left = f"; {duration(left)} to go by the last progress line" if left else ""
        return "running", f"{far}{where}, by {run.owner or 'a process'}{time}{left}"
    saved = max((one.manifest["images"] for one in run.checkpoints if one.usable), default=0)
    resumes = f"the same command resumes from {saved:,}" if saved else "no checkpoint to resume from"
    killed = f"; killed: {run.owner} held it and gave no sign of life for {duration(run.silent)}" if run.owner else ""
    return "stopped", f"{far}{where}{time}{killed}; {resumes}"


def _rollbacks(run: Run) -> list[str]:
    events = [event for event in run.events if "rollback" in event]
    return [f"rollback {event['rollback']}, back to {event['images']:,} images: {event.get('why', 'reason unknown')}" for event in events]


def _alarms(run: Run) -> list[str]:
    """One line a level and measure, from the first alarm to the last."""
    found: dict[tuple[int, str], list[dict]] = {}
    for record in run.statuses:
        for name in record.get("alarm", []):
            found.setdefault((record["resolution"], name), []).append(record)
    lines = []
    for (level, name), records in found.items():
        worst = max(records, key=lambda record: abs(record.get(name, 0)))
        reach = f"at {records[0]['images']:,}" if len(records) == 1 else f"from {records[0]['images']:,} to {records[-1]['images']:,}"
        what = "the energy was flat" if name == "energy_flat" else f"{name} ran away, to {number(worst.get(name, math.nan))}"
        lines.append(f"alarm {reach} images, level {level}: {what}")
    return lines


def _not_finite(run: Run) -> list[str]:
    found: dict[str, int] = {}
    for record in run.statuses:
        for name, value in record.items():
            if isinstance(value, float) and not math.isfinite(value):
                found.setdefault(name, record["images"])
    return [f"{name} was not a finite number, first at {images:,} images" for name, images in found.items()]


def _damaged(run: Run) -> list[str]:
    lines = []
    for one in run.checkpoints:
        problem = one.problem or ("" if one.usable else "set aside as damaged")
        if one.path.name.startswith("."):
            problem = ""  # being written or deleted this moment, or cut short: the next start tidies it away
        lines += [f"checkpoint {one.path.name}: {problem}"] if problem else []
    return lines


def _holes(run: Run) -> list[str]:
    """Stretches of images without a progress line, where lines come at equal distances."""
    places = [0, *(record["images"] for record in run.statuses)]
    steps = sorted(b - a for a, b in pairwise(places))
    usual = steps[len(steps) // 2] if len(steps) > 4 else 0
    return [f"no progress line between {a:,} and {b:,} images" for a, b in pairwise(places) if usual and b - a > 2 * usual]


def _signs(run: Run) -> list[str]:
    """What docs/training.md calls a failure, in the newest progress line."""
    if not run.statuses:
        return []
    last, lines = run.statuses[-1], []
    if _finite(last, "diversity") and last["diversity"] < 0.6:
        lines.append(f"diversity is {number(last['diversity'])}, below 0.6: the samples are too much alike")
    weight = getattr(run.config.objective, "lambda_u", 0.0) if run.config else 0.0
    if _finite(last, "energy_size") and weight > 0 and last["energy_size"] > 0.9 / (2 * weight):
        lines.append(f"energy_size is {number(last['energy_size'])}, near 1/(2 λ_U) = {number(1 / (2 * weight))}: the energy is saturated")
    if run.system in SYSTEMS and "N" in SYSTEMS[run.system].TERMS.get("inference", ()):  # it has a sleep term
        if _finite(last, "K") and last["K"] > 2:
            lines.append(f"K is {number(last['K'])}, above 2 nats a dimension: prior and posterior have parted")
        if _finite(last, "N") and last["N"] > 3:
            lines.append(f"N is {number(last['N'])}, above 3: the encoder is confidently wrong about samples")
    return [f"{line} (docs/training.md)" for line in lines]


def _starts(run: Run) -> list[str]:
    starts = [event for event in run.events if "start" in event]
    lines = []
    if len(starts) > 1:
        places = ", ".join(f"{event['images']:,}" for event in starts[1:][-CHANGES:])
        lines.append(f"resumed {_times(len(starts) - 1)}: at {places} images")
        sizes = [event.get("processes") for event in starts]
        if len(set(sizes)) > 1:
            lines.append("processes: " + ", then ".join(str(size) for k, size in enumerate(sizes) if not k or size != sizes[k - 1]))
    for job in run.jobs:
        failed = f", {job.failures} of them after failures" if job.failures else ""
        lines.append(f"Slurm job {job.job} ({job.name}): started {_times(len(job.starts))}{failed}, log {job.log}")
    return lines


def _pauses(run: Run) -> list[str]:
    """Time between two checkpoints that training does not account for: a resume, other work on the machine, a wait in the queue."""
    saved = [one.manifest for one in run.checkpoints if one.usable and "time" in one.manifest]
    lines = []
    for before, after in pairwise(saved):
        work = sum(seconds for record, seconds in run.seconds() if before["images"] < record["images"] <= after["images"])
        idle = after["time"] - before["time"] - work
        if idle > max(PAUSE, work):
            place = f"between the checkpoints at {before['images']:,} and {after['images']:,} images"
            lines.append(f"{duration(idle)} without training {place}: it was stopped and resumed, or held up")
    return lines


def _changes(run: Run) -> list[str]:
    """Settings with which the run was resumed otherwise, from checkpoint to checkpoint and to config.yaml."""
    steps = [
        (one.manifest["images"], settings(one.manifest["config"])) for one in run.checkpoints if one.usable and "config" in one.manifest
    ]
    steps += [(run.images, settings(run.plain))] if run.plain else []
    lines = []
    for (_, before), (images, after) in pairwise(steps):
        names = [name for name in before if name in after and before[name] != after[name] and name != "run"]
        if names:
            told = ", ".join(f"{name} {before[name] or 'empty'} → {after[name] or 'empty'}" for name in names[:CHANGES])
            more = f" and {len(names) - CHANGES} more" if len(names) > CHANGES else ""
            lines.append(f"settings changed by {images:,} images: {told}{more}")
    return lines


def _best(run: Run) -> list[str]:
    """The checkpoints in which the measures of training were lowest, as train.keep_best and at=best take them."""
    saved = {one.manifest["images"]: one.manifest for one in run.checkpoints if one.usable}
    measured = {images: {n: v for n, v in manifest.get("measured", {}).items() if v is not None} for images, manifest in saved.items()}
    places = [(images, manifest["resolution"]) for images, manifest in saved.items()]
    chosen = saved[max(saved)].get("config", {}).get("train", {}).get("keep_best", "") if saved else ""
    lines = []
    for name in sorted({name for found in measured.values() for name in found}):
        images = lowest(places, measured, name)
        level = saved[images]["resolution"]
        kept = " (kept, at=best)" if name == chosen else ""
        where = f"{images:,} images, {level}×{level}"
        lines.append(f"best checkpoint by {name}{kept}: {where} ({number(measured[images][name])}, lower is better)")
    return lines


def settings(plain: dict, above: str = "") -> dict[str, str]:
    """A configuration by dotted keys, values as text; lists whole."""
    found: dict[str, str] = {}
    for key, value in plain.items():
        if isinstance(value, dict):
            found |= settings(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = "" if value is None else str(value)
    return found


def _finite(record: dict, name: str) -> bool:
    return isinstance(record.get(name), int | float) and math.isfinite(record[name])


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
