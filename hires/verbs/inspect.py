"""`hires inspect`."""

from dataclasses import dataclass
import os
from pathlib import Path
import threading

from omegaconf import MISSING
from rich import filesize
from rich.table import Table

from hires.errors import HiresError
from hires.ground.files import whole_file
from hires.ground.ranges import setting
from hires.ground.showing import progress, show_table
from hires.training.data import DataConfig
from hires.verbs import Result
from pipelines import DataError, Shards
from pipelines.contact_sheet import contact_sheet
from pipelines.decode_rate import decode_rate
from pipelines.files import from_json
from pipelines.inspecting import shard_files, strangers, verify
from pipelines.opening import open_to_inspect

SKIPPED = 3  # skipped pictures that are shown


@dataclass
class Config:
    """hires inspect: is a prepared data set whole, what is in it, how fast does it decode? Exit status 1: something is wrong.
      hires inspect data=data/mine
      hires inspect data=data/mine out=mine.png       also draws a contact sheet: each level, and pictures held out
      hires inspect data=https://host/mine            without fetching all of it; verify=true does
    Settings: decode=64 (pictures of each level decoded to measure the rate), workers=0 (hashing threads; 0: one a core),
      verify=null (read every file: true | false; null: yes for a folder, no for an address)
    """

    data: str = MISSING  # what `hires prepare` made: a folder, or an address
    out: str = ""  # a PNG file to write: a contact sheet
    decode: int = setting(64, at_least=1)  # pictures of each level that are decoded, to measure the rate
    workers: int = setting(0, at_least=0)  # threads that read and hash; 0 = one a core
    verify: bool | None = None  # read every file; null = yes for a folder, no for an address


@dataclass(frozen=True)
class Inspected(Result):
    """What was found of a data set: a line for each thing that is wrong, pictures decoded a second on one thread by level."""

    data: str
    problems: list[str]
    rates: dict[int, float]

    @property
    def status(self) -> int:
        """1 where something is wrong."""
        return 1 if self.problems else 0


def run(config: Config) -> Inspected:
    """Verify a data set and show what is in it, with a contact sheet where `out` says; each fault is one line."""
    if config.out and Path(config.out).suffix.lower() != ".png":
        raise HiresError(f"out={config.out}: wanted the name of a .png file")
    remote = "://" in config.data
    shards = Shards.open(config.data) if remote else open_to_inspect(config.data)
    verified = config.verify if config.verify is not None else not remote
    problems = _verified(shards, config.workers, remote) if verified else [] if remote else _sizes(shards)
    rates = dict.fromkeys(shards.levels, 0.0)
    for level in shards.levels:
        if any(f"-{level}.entries: " in problem for problem in problems):
            continue  # with a wrong index every picture would seem damaged
        rates[level], wrong = decode_rate(shards, level, config.decode)
        problems += [line for line in wrong if not _told(line, problems)]
    show_table(_what(shards, _report(shards, remote)), _levels(shards, rates, problems if verified else None))
    print(_meaning(rates))
    if config.out:
        with whole_file(Path(config.out)) as part:
            contact_sheet(shards).save(part, format="PNG")
    print(f"contact sheet: {config.out}" if config.out else "out=sheet.png draws a contact sheet")
    for name in [] if remote else strangers(shards):
        print(f"remark: {shards.root}/{name} does not belong to the data set")
    for line in problems:
        print(f"wrong: {line}")
    if problems:
        print(f"{shards.root}: {len(problems)} problem{'s' * (len(problems) != 1)}, listed above")
    else:
        print(f"{shards.root}: {'verified, no problems' if verified else 'no problems, but not verified (verify=true reads every file)'}")
    return Inspected(config.data, problems, rates)


def _verified(shards: Shards, workers: int, remote: bool) -> list[str]:
    files = [(name, size) for name, size, _ in shards.contents()] if remote else []
    total = sum(size for _, size in files) or sum(found["bytes"] for *_, found in shard_files(shards))
    done, lock = 0, threading.Lock()
    with progress(f"{'fetch' if remote else 'read'} {shards.root}", "MB") as show:

        def seen(count: int) -> None:  # by several threads
            nonlocal done
            with lock:
                done += count
                show(done // 10**6, total // 10**6)

        if not remote:
            return verify(shards, workers, seen)
        problems = []
        for name, size in files:  # what is fetched is compared with the manifest's sha256
            try:
                if name.endswith(".tar"):
                    os.close(shards.files.open(name))
                else:
                    shards.files.path(name)
            except DataError as error:
                problems.append(str(error))
            seen(size)
        return problems


def _sizes(shards: Shards) -> list[str]:
    """What is missing or of another size, without reading it."""
    problems = []
    try:
        for name, size, digest in shards.contents():
            try:
                shards.files.check(name, size, digest)
            except DataError as error:
                problems.append(str(error))
    except DataError as error:  # the index, without which there is no more to compare
        problems.append(str(error))
    return problems


def _told(line: str, problems: list[str]) -> bool:
    """Whether the file, or the level, that a line is about was found wrong before."""
    place = line.partition(": ")[0] + "/"
    others = [problem.partition(": ")[0] + "/" for problem in problems]
    return any(place.startswith(other) or other.startswith(place) for other in others)


def _report(shards: Shards, remote: bool) -> list[dict] | None:
    """The pictures that were skipped; None if that cannot be known."""
    try:
        return None if remote else from_json((Path(shards.root) / "report.json").read_bytes())["bad"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _what(shards: Shards, skipped: list[dict] | None) -> Table:
    manifest, source = shards.manifest, shards.manifest["source"]
    table = Table(title=shards.root, show_header=False)
    table.add_row("source", f"{source['kind']} {source['path']}".strip())
    table.add_row("licence", manifest["licence"] or "not stated (licence=… of hires prepare)")
    table.add_row("pictures", f"{shards.count('train'):,} to train on, {shards.count('holdout'):,} held out")
    table.add_row("channels", str(shards.channels))
    table.add_row("crop, filter", f"{manifest['crop']}, {manifest['filter']}")
    table.add_row("pixels in [-1, 1]", f"mean {_numbers(manifest['mean'])}, deviation {_numbers(manifest['std'])}")
    table.add_row(
        "skipped", f"{manifest['skipped']:,}" + (" (report.json would say which)" if skipped is None and manifest["skipped"] else "")
    )
    for bad in (skipped or [])[:SKIPPED]:
        table.add_row("", bad["reason"])
    if len(skipped or []) > SKIPPED:
        table.add_row("", f"… {len(skipped) - SKIPPED} more in report.json")
    return table


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _levels(shards: Shards, rates: dict[int, float], problems: list[str] | None) -> Table:
    table = Table()
    for column in ("level", "codec", "shards", "stored", "a picture", "as uint8", "decoded a second, one thread", "files"):
        table.add_column(column, justify="left" if column in ("codec", "files") else "right")
    limit, images = DataConfig().cache_gb, shards.count("train")
    for level in shards.levels:
        sizes = [found["bytes"] for found_level, *_, found in shard_files(shards) if found_level == level]
        raw = images * level**2 * shards.channels
        held = f"{_bytes(raw)}, {'held' if raw <= limit * 1e9 else 'not held'}"
        wrong = sum(problem.startswith((f"{shards.root}/{level}/", f"{shards.root}/{level}:")) for problem in problems or [])
        state = "not verified" if problems is None else f"{wrong} wrong" if wrong else "as written"
        rate = f"{rates[level]:,.0f}" if rates[level] else "-"
        mean = _bytes(sum(sizes) / sum(shards.manifest["counts"].values()))
        table.add_row(f"{level}x{level}", shards.codec(level).name, str(len(sizes)), _bytes(sum(sizes)), mean, held, rate, state)
    table.caption = f"as uint8: the training pictures; hires train holds a level of up to data.cache_gb={limit:g} in memory, decoded once"
    return table


def _bytes(count: float) -> str:
    return filesize.decimal(round(count))


def _meaning(rates: dict[int, float]) -> str:
    known = {level: rate for level, rate in rates.items() if rate}
    if not known:
        return "no picture could be decoded"
    level = min(known, key=known.get)
    return f"slowest to decode: level {level}, {known[level]:,.0f} images/s a core: 8 cores feed at most {8 * known[level]:,.0f} images/s"
