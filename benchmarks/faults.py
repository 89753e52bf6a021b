"""A campaign of faults: real processes are killed, stopped and starved, and what they left is damaged, again and again, until they finish.

    python benchmarks/faults.py                           # 200 kills
    python benchmarks/faults.py --kills 20 --seed 7       # fewer, at other moments
    python benchmarks/faults.py --victims reshard,export  # of these alone

Victims: runs of two processes through a growth and a fade (`grow`); the same on two, then one, then three processes with ZeRO stage 2
(`reshard`), or with two rollbacks in it (`rollback`); `evaluate` of one and of two processes, `export` and `prepare`. Each lives several
times. In a life, at a moment drawn from the seed or just before one of its operations on files, one rank or all get SIGKILL; or a rank is
stopped by SIGSTOP for longer than train.hang_timeout; or the disk fills, and empties again; and the clock may jump. Between lives the times
of all files may change, and a run's newest checkpoint be damaged: a shard cut short, one bit of it flipped, a shard or the manifest taken
away, a stray temporary folder or an empty checkpoint left behind. The last life is left in peace.

What must hold, and ends the campaign with status 1 where it does not: every life of a run begins at the newest checkpoint that is whole (by
a check of its hashes made here), none that was whole before a life is lost in it (but to `train.keep`, which is off), and the finished run
has the weights, moments and averages of one that nobody disturbed, bit for bit: one on the same number of processes, which changes at the
same images. A verb's result is the old or the new one, whole, or absent; its last life makes what an undisturbed one makes, byte for byte,
and leaves nothing else. Where a rank is stopped the others end by themselves and name it. No life ends in a traceback.
"""

import argparse
from collections import Counter
import contextlib
import os
from pathlib import Path
import random
import shutil
import signal
import sys
import tempfile
import time

from faults_lives import Disk, Life, import_everything
from faults_victims import END, Broken, Prepare, RollingRun, Run, Told, Verb, Victim

WEIGHTS = {"grow": 25, "reshard": 25, "rollback": 15, "evaluate": 8, "evaluate-2": 6, "export": 7, "prepare": 8, "prepare-mend": 6}


def main() -> int:
    """Runs the campaign and prints its summary; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--victims", default=",".join(WEIGHTS))
    args = parser.parse_args()
    import_everything()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started, counts, seed, kills, broken = time.monotonic(), Counter(), args.seed, 0, ""
    chosen = args.victims.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        disk = Disk(Path(scratch) / "disk")
        if not disk.there:
            print("this user cannot mount a small file system: no disk fills")
        try:
            victims = make(Path(scratch), disk, chosen)
            spent = processor()
            print(f"made what is compared with in {time.monotonic() - started:.0f} s", flush=True)
            with contextlib.suppress(KeyboardInterrupt):  # ended by hand it tells what it has
                while kills < args.kills and not broken:
                    name = random.Random(seed).choices(chosen, [WEIGHTS[one] for one in chosen])[0]
                    told: list[Told] = []
                    try:
                        victims[name].run(seed, told.append)
                        counts["finished", name] += 1
                    except Broken as error:
                        broken = f"BROKEN in {name} {seed}: {error}"
                        for log in Path(scratch).glob(f"{name}-{seed}.log"):
                            print(log.read_text(encoding="utf-8", errors="replace")[-6000:])
                    for one in told:
                        counts["kills", name] += one.kills
                        for what in ("fell", "struck", "harm"):
                            counts[what, getattr(one, what)] += 1
                    kills += sum(one.kills for one in told)
                    harms = ", ".join(one.harm for one in told if one.harm)
                    here = f"seed {seed}: {name}, {sum(one.kills for one in told)} kills; {harms or 'no other harm'}"
                    print(f"{here}; {kills} kills in {processor() - spent:.0f} s of a processor", flush=True)
                    seed += 1
        finally:
            disk.close()
    print(summary(counts, args.seed, seed - 1))
    print(f"{(time.monotonic() - started) / 60:.1f} min, {(processor() - spent) / 60:.1f} min of a processor")
    print(broken or "none lost; every life began where it should; every end equal to the undisturbed one, bit for bit")
    return 1 if broken else 0


def make(folder: Path, disk: Disk, chosen: list[str]) -> dict[str, Victim]:
    """The victims, each with an undisturbed one of its kind."""
    log, source = folder / "log", ["prepare", "source=digits", "resolution=16", "split.holdout=200", "workers=1"]
    if Life([*source, f"out={folder / 'digits'}"], 1, folder, log).end(5) != [0]:
        raise SystemExit(log.read_text())
    grow = Run("grow", folder, disk, [(END, 2)], ["zero.stage=1"])
    grow.make()
    run = folder / "template"  # the run that evaluate and export take
    shutil.copytree(folder / "grow", run / "run")
    measure = ["evaluate", "run=run", f"data={folder / 'digits'}", "images=64", "out=found.json", "device=auto"]
    measures = [[*measure, "measure=diversity"], [*measure, "measure=swd,reconstruction"]]
    shards = [*source, "images_per_shard=200", "out=out", "workers=2"]
    made: dict[str, Victim] = {
        "grow": grow,
        "reshard": Run("reshard", folder, disk, [(60, 2), (96, 1), (END, 3)], ["zero.stage=2"]),
        "rollback": RollingRun("rollback", folder, disk, [(END, 2)], ["train.on_nonfinite=rollback", "zero.stage=1"]),
        "evaluate": Verb("evaluate", folder, disk, 1, run, "found.json", measures),
        "evaluate-2": Verb("evaluate-2", folder, disk, 2, run, "found.json", measures),
        "export": Verb("export", folder, disk, 1, run, "bundle", [["export", "run=run", "out=bundle", "moments=100"]]),
        "prepare": Prepare("prepare", folder, disk, 1, None, "out", [shards]),
        "prepare-mend": Prepare("prepare-mend", folder, disk, 1, None, "out", [shards, shards]),
    }
    for name in chosen:
        if name != "grow":
            made[name].make()
    return made


def processor() -> float:
    """Seconds of the processor, of this process and of those that have ended."""
    return sum(os.times()[:4])


def summary(counts: Counter, first: int, last: int) -> str:
    """What was done to how many, and where."""
    kills = sum(number for (what, _), number in counts.items() if what == "kills")
    lines = [f"{kills} kills, seeds {first}–{last}"]
    for title in ("kills", "finished", "fell", "struck", "harm"):
        found = sorted(((number, name) for (what, name), number in counts.items() if what == title and name), reverse=True)
        lines.append(f"{title}: " + ", ".join(f"{name} {number}" for number, name in found))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
