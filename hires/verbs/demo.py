"""`hires demo`: what `make demo` does once the environment is there."""

from collections.abc import Iterator
from dataclasses import dataclass
import os
from pathlib import Path
import platform
import re
import shlex
import shutil
import time

from hires.errors import HiresError
from hires.verbs import Result, call


@dataclass
class Config:
    """hires demo: from nothing to pictures in minutes; the same command again continues where it stopped.
      hires demo                                   scikit-learn's 1,797 handwritten digits
      hires demo data=my/pictures resolution=64    your own pictures, any number and shape
    """

    data: str = ""  # a folder of pictures; empty = scikit-learn's 1,797 handwritten digits
    resolution: int = 0  # where growth ends; 0 = 16 for the digits, 64 for pictures
    out: str = "demo"  # a folder; everything is written to a folder in it, such as demo/digits-16
    images: str = ""  # images after which training stops, such as 10k; empty = the whole schedule


@dataclass(frozen=True)
class Demo(Result):
    """The folder of everything made; `status` is 85 where training was stopped and saved: the same call continues."""

    out: Path
    status: int = 0


def run(config: Config) -> Demo:
    """Prepare, train, export, sample and film in this one process, into a folder of `config.out`."""
    folder, commands = _plan(config)
    took = {}
    for verb, settings in commands:
        if verb == "export":
            shutil.rmtree(folder / "bundle", ignore_errors=True)  # made anew from the run's end
            settings = settings + newest_stable(folder / "run") * bool(config.images)
        print(f"\n$ hires {shlex.join([verb, *settings])}", flush=True)
        began = time.monotonic()
        status = call(verb, settings).status
        if status:
            return Demo(folder, status)
        took[verb] = time.monotonic() - began
    newest = max((folder / "run/samples").glob("reconstructions-*.png"), key=lambda path: path.name)
    shutil.copyfile(newest, folder / "reconstructions.png")
    print("\n".join(_told(folder)))
    parts = ", ".join(f"{verb} {_clock(seconds)}" for verb, seconds in took.items())
    print(f"\n{_clock(sum(took.values()))} on {_machine()}: {parts}")
    return Demo(folder)


def _plan(config: Config) -> tuple[Path, list[tuple[str, list[str]]]]:
    """The folder of all that is made, and the verbs with their settings; raises HiresError for a folder that is not there."""
    if not config.out:
        raise HiresError("out= is empty: wanted a folder (is a shell variable not set?)")
    resolution = config.resolution or (64 if config.data else 16)
    if config.data:
        data = Path(config.data)
        if not data.is_dir():
            raise HiresError(f"data={config.data}: no such folder; wanted a folder of pictures")
        name, experiment = re.sub(r"[^\w.-]", "_", data.resolve().name), "pictures"
        source = ["source=folder", f"path={config.data}", "allow_upscale=true", "on_error=skip"]
    else:
        name = experiment = "digits"
        source = ["source=digits", "split.holdout=197"]
    folder = Path(config.out) / f"{name}-{resolution}"
    train = [f"experiment={experiment}", f"data.root={folder}/data", f"run={folder}/run", f"schedule.resolution={resolution}"]
    return folder, [
        ("prepare", [*source, f"resolution={resolution}", f"out={folder}/data"]),
        ("train", train + [f"train.max_images={config.images}"] * bool(config.images)),
        ("export", [f"run={folder}/run", f"out={folder}/bundle"]),
        ("sample", [f"sampler={folder}/bundle", f"out={folder}/samples.png"]),
        ("video", [f"sampler={folder}/bundle", f"out={folder}/interpolation.mp4"]),
    ]


def newest_stable(run: Path) -> list[str]:
    """at=… of a run's newest checkpoint in which no level fades in, for a bundle has none: `images` may end a run in a fade-in."""
    from hires.bundle import from_run

    stable = from_run.list_stable(str(run))
    return [f"at={stable[-1][0]}"] if stable else []


def _told(folder: Path) -> Iterator[str]:
    yield "\nThe demo made:"
    yield f"  {folder}/samples.png          pictures of the generator"
    yield f"  {folder}/reconstructions.png  pairs: a picture, and the generator's from its inferred latent"
    yield f"  {folder}/interpolation.mp4    a walk between latents"
    yield f"  {folder}/bundle               generator, inference model and energy, with a README: they load without this project"
    yield f"  {folder}/run                  the run: metrics.jsonl, checkpoints, and grids as it grew"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _machine() -> str:
    """Such as 'AMD EPYC, 2 cores at 2445 MHz, load 1.9': what a figure of this machine depends on."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        lines = []
    named = {key.strip(): value.strip() for key, _, value in lines}
    clock = max((float(value) for key, _, value in lines if key.startswith("cpu MHz")), default=0)
    cores = len(os.sched_getaffinity(0))
    at = f" at {clock:.0f} MHz" if clock else ""
    return f"{named.get('model name', platform.machine())}, {cores} core{'s' * (cores > 1)}{at}, load {os.getloadavg()[0]:.1f}"
