"""A campaign of faults: real runs of two processes are killed and their checkpoints damaged, again and again, until they finish.

    python benchmarks/faults.py                         # 200 kills, about a quarter of an hour on two cores
    python benchmarks/faults.py --kills 20 --seed 7     # shorter, with other moments

Each run is one of digits through a growth and a fade, with a checkpoint every 32 images. It lives several times: in each life, at a moment
drawn from the run's seed, one rank or both get SIGKILL; some moments are drawn from the whole life, others from the milliseconds after a
checkpoint's temporary folder appeared. Between lives the newest checkpoint is sometimes damaged: a shard cut short, one bit of it flipped,
a shard or the manifest taken away, a stray temporary folder or an empty checkpoint left behind. The last life is left in peace.

What must hold, and ends the campaign with status 1 where it does not: every life begins at the newest checkpoint that is whole (by a check
of its hashes made here), no whole checkpoint that was there before a life is lost in it (but to `train.keep`, which is off), and the
finished run has the weights, moments and averages of a run that nobody disturbed, bit for bit.

Processes are forked from one that has imported everything, since importing would take most of the time.
"""

import argparse
from collections import Counter
import contextlib
import hashlib
import json
import os
from pathlib import Path
import random
import signal
import socket
import sys
import tempfile
import time
import traceback

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

from blake3 import blake3
import deepspeed  # noqa: F401  imported before the forks
import torch

from hires import cli
from hires.checkpoints import reading
from pipelines import PrepareConfig, prepare

WORLD = 2
DAMAGES = ("cut short", "bit flipped", "shard missing", "manifest missing", "stray temporary folder", "empty checkpoint")
LONGEST = 900  # seconds that a life may take, on a machine with much else to do


def main() -> int:
    """Runs the campaign and prints its summary; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        campaign = Campaign(Path(scratch))
        seed = args.seed
        with contextlib.suppress(KeyboardInterrupt):  # ended by hand it tells what it has
            while campaign.kills < args.kills and not campaign.broken:
                campaign.run(seed)
                seed += 1
                so_far = f"{campaign.kills} kills, {campaign.runs} runs finished, {campaign.broken or 'none lost'}"
                print(f"seed {seed - 1}: {so_far}", flush=True)
        print(campaign.summary(args.seed, seed - 1, time.monotonic() - started))
    return 1 if campaign.broken else 0


class Campaign:
    """The runs so far, and where the kills fell."""

    def __init__(self, folder: Path):
        """Prepares the data and makes the undisturbed run."""
        self.folder, self.kills, self.runs, self.broken = folder, 0, 0, ""
        self.fell: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.damaged: Counter[str] = Counter()
        prepare(PrepareConfig(source="digits", out=str(folder / "digits"), resolution=16, workers=1))
        began = time.monotonic()
        log = folder / "reference.log"
        assert self._wait(self._start(folder / "reference", log)) == [0] * WORLD, log.read_text()
        self.life = time.monotonic() - began
        self.reference = fingerprints(folder / "reference")

    def run(self, seed: int) -> None:
        """One run from nothing to its end, through one to five kills."""
        random_ = random.Random(seed)
        run, log = self.folder / f"run-{seed}", self.folder / f"run-{seed}.log"
        for _ in range(random_.randint(1, 5)):
            self._live(run, log, random_)
            if self.broken:
                return
            if random_.random() < 0.4:
                self._damage(run, random_)
        expected = newest_whole(run)
        codes = self._wait(self._start(run, log))
        if codes != [0] * WORLD:
            self._break(seed, log, f"the last life ended with {codes}")
        elif not began_at(log, expected):
            self._break(seed, log, f"the last life did not begin at {expected}")
        elif fingerprints(run) != self.reference:
            self._break(seed, log, "the finished run is not the undisturbed one")
        else:
            self.runs += 1

    def _live(self, run: Path, log: Path, random_: random.Random) -> None:
        expected, before = newest_whole(run), whole(run)
        near_a_save = random_.random() < 0.5
        saves, delay = random_.randint(1, 3), random_.uniform(0, 0.02) if near_a_save else random_.uniform(0.05, 1.0) * self.life
        victims = [random_.randrange(WORLD)] if random_.random() < 0.5 else list(range(WORLD))
        pids = self._start(run, log)
        deadline = time.monotonic() + LONGEST
        seen: set[str] = set()
        while near_a_save and len(seen) < saves and time.monotonic() < deadline and all(map(alive, pids)):
            seen |= {path.name for path in (run / "checkpoints").glob(".*writing*")} if (run / "checkpoints").is_dir() else set()
            time.sleep(0.0005)
        ends = time.monotonic() + delay
        while time.monotonic() < ends and all(map(alive, pids)):
            time.sleep(0.001)
        if all(map(alive, pids)):
            for victim in victims:
                os.kill(pids[victim], signal.SIGKILL)
            self.kills += 1
            self.fell[where(run, log)] += 1
            self.struck["both ranks" if len(victims) == WORLD else f"rank {victims[0]}"] += 1
        codes = self._wait(pids, impatient=True)
        text = log.read_text(encoding="utf-8")
        if "resuming from" in text and not began_at(log, expected):
            self._break(run.name, log, f"a life did not begin at {expected}")
        lost = before - whole(run)
        if lost:
            self._break(run.name, log, f"{sorted(lost)} lost")
        if any(code not in (0, -signal.SIGKILL, 1) for code in codes):
            self._break(run.name, log, f"a life ended with {codes}")

    def _damage(self, run: Path, random_: random.Random) -> None:
        found = whole(run)
        if not found:
            return
        kind, newest = random_.choice(DAMAGES), run / "checkpoints" / max(found)
        shard = random_.choice(sorted(newest.glob("*.safetensors")))
        match kind:
            case "cut short":
                os.truncate(shard, random_.randrange(shard.stat().st_size))
            case "bit flipped":
                data = bytearray(shard.read_bytes())
                data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
                shard.write_bytes(data)
            case "shard missing":
                shard.unlink()
            case "manifest missing":
                (newest / reading.MANIFEST).unlink()
            case "stray temporary folder":
                stray = newest.with_name(f".{reading.folder_name(10**6)}.writing")
                stray.mkdir(exist_ok=True)
                (stray / "rank-00000-of-00002.safetensors").write_bytes(b"half")
            case "empty checkpoint":
                newest.with_name(reading.folder_name(10**6)).mkdir(exist_ok=True)
        self.damaged[kind] += 1
        if not whole(run):
            # all of its checkpoints are damaged: the run refuses to begin again over them, rightly; this one is not to end so
            for path in (run / "checkpoints").iterdir():
                path.rename(run / f"set aside {path.name}")

    def _start(self, run: Path, log: Path) -> list[int]:
        log.write_text("", encoding="utf-8")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        return [self._fork(rank, port, run, log) for rank in range(WORLD)]

    def _fork(self, rank: int, port: int, run: Path, log: Path) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            os.setsid()
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "COLUMNS": "200"}
            torch.set_num_threads(1)
            code = cli.main(["train", *settings(self.folder / "digits", run)])
        except BaseException:  # a forked process must end here, whatever happened
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _wait(self, pids: list[int], impatient: bool = False) -> list[int]:
        """Exit codes; as a launcher does, ends the others soon after one has failed."""
        codes: dict[int, int] = {}
        until = time.monotonic() + LONGEST
        while len(codes) < len(pids):
            for pid in pids:
                if pid not in codes:
                    done, status = os.waitpid(pid, os.WNOHANG)
                    if done:
                        codes[pid] = os.waitstatus_to_exitcode(status)
                        if codes[pid]:
                            until = min(until, time.monotonic() + (0.3 if impatient else 5))
            if time.monotonic() > until:
                for pid in pids:
                    if pid not in codes:
                        os.kill(pid, signal.SIGKILL)
                until = time.monotonic() + LONGEST
            time.sleep(0.002)
        return [codes[pid] for pid in pids]

    def _break(self, seed: object, log: Path, what: str) -> None:
        self.broken = f"BROKEN in {seed}: {what}"
        print(log.read_text(encoding="utf-8")[-4000:], flush=True)

    def summary(self, first: int, last: int, seconds: float) -> str:
        """What was done to how many runs, and what came of it."""
        lines = [f"{self.kills} kills in {self.runs} runs (seeds {first}–{last}) of {WORLD} processes, {seconds / 60:.1f} min"]
        for name, counts in (("fell", self.fell), ("struck", self.struck), ("damaged between", self.damaged)):
            lines.append(f"{name}: " + ", ".join(f"{what} {count}" for what, count in counts.most_common()))
        well = "every life began at the newest whole checkpoint; none was lost; every run ended as the undisturbed one, bit for bit"
        lines.append(self.broken or well)
        return "\n".join(lines)


def settings(digits: Path, run: Path) -> list[str]:
    """A run of 7 checkpoints: 64 images at 4x4, then 64 fading in and 96 stable at 8x8."""
    return [
        *("network=slim", "network.latent=8", "network.channels_base=128", "network.channels_max=16", "network.convs=1"),
        *("network.image_channels=1", f"data.root={digits}", f"run={run}", "schedule.resolution=8", "schedule.levels.4.stable=64"),
        *("schedule.levels.4.batch=16", "schedule.levels.8.batch=16", "schedule.levels.8.fade=64", "schedule.levels.8.stable=96"),
        *("train.precision=fp32", "train.preflight=false", "train.threads=1", "train.checkpoint_every=32", "train.keep=99"),
        *("monitor.status_every=1M", "monitor.snapshot_every=1M", "monitor.samples=4", "data.workers=1"),
    ]


def alive(pid: int) -> bool:
    """Whether a child still runs; one that ended waits to be reaped."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    return False


def whole(run: Path) -> set[str]:
    """Names of the checkpoints whose files are those of their manifests, by this script's own reading."""
    found = set()
    for path in (run / "checkpoints").glob("images-*") if (run / "checkpoints").is_dir() else []:
        with contextlib.suppress(OSError, ValueError):
            manifest = json.loads((path / "manifest.json").read_text())
            if all(blake3((path / f["name"]).read_bytes()).hexdigest() == f["blake3"] for f in manifest["files"]):
                found.add(path.name)
    return found


def newest_whole(run: Path) -> str | None:
    """The checkpoint that the next life must begin at."""
    return max(whole(run), default=None)


def began_at(log: Path, expected: str | None) -> bool:
    """Whether the life whose output this is resumed from `expected`, or from nothing."""
    text = log.read_text(encoding="utf-8")
    return ("resuming from" not in text) if expected is None else f"{expected}" in text.partition("resuming from")[2].splitlines()[0]


def where(run: Path, log: Path) -> str:
    """In what part of a life the kill fell, by what lies on the disk just after."""
    checkpoints = run / "checkpoints"
    temporary = [path for path in checkpoints.glob(".*writing*")] if checkpoints.is_dir() else []
    if any((path / "manifest.json").exists() for path in temporary):
        return "between manifest and rename"
    if any(any(path.glob("*.safetensors")) for path in temporary):
        return "between shards and manifest"
    if temporary:
        return "before the first shard"
    if "saved" not in log.read_text(encoding="utf-8") and "now 8x8" not in log.read_text(encoding="utf-8"):
        return "while starting, or before the first save of a life"
    return "while training"


def fingerprints(run: Path) -> dict[str, str]:
    """Hash of every tensor of the last checkpoint, whoever wrote which part of it."""
    checkpoint = reading.Checkpoint(reading.complete(run / "checkpoints")[-1])
    found = {"images": str(checkpoint.images)}
    for player in ("generator", "energy", "inference"):
        for field in reading.FIELDS:
            for name in sorted(checkpoint.names(player, field)):
                tensor = checkpoint.read(player, name, field, 0, checkpoint.numel(player, name, field))
                found[f"{player}/{name}/{field}"] = hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
    return found


if __name__ == "__main__":
    sys.exit(main())
