"""What a person writes in the command: seeds, a bundle, a device."""

from pathlib import Path
import re

import torch

from hires.bundle import hires_bundle
from hires.bundle.hires_bundle import Bundle
from hires.errors import HiresError
from hires.ground.machine import exact_fp32, use_threads

MOST = 1_000_000  # seeds in one command
LARGEST = 2**32 - 1  # seed: torch's generator on the CPU takes these bits and no more


def parse_seeds(text: str) -> list[int]:
    """'0-63' or '1,5,9' or both, as a list; raises HiresError for anything else, more than a million seeds, or one of 2^32 and above."""
    seeds: list[int] = []
    for part in str(text).split(","):
        match = re.fullmatch(r"\s*(\d{1,19})(?:-(\d{1,19}))?\s*", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise HiresError(f"seeds={text}: wanted numbers and ranges such as 0-63 or 1,5,9")
        first, last = int(match[1]), int(match[2] or match[1])
        if last > LARGEST or len(seeds) + last - first >= MOST:
            raise HiresError(f"seeds={text}: wanted at most {MOST:,} seeds, each below 2^32")
        seeds += range(first, last + 1)
    return seeds


def parse_device(text: str) -> torch.device:
    """'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:N'; raises HiresError for anything else, or a GPU that is not there.

    On a GPU convolutions are kept in fp32 from here on: TF32, the default there, would change pictures by more than rounding.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise HiresError(f"device={text}: wanted auto, cpu, cuda or cuda:N")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "cpu" or (text == "auto" and not there):
        return torch.device("cpu")
    number = int(text.partition(":")[2] or 0)
    if number >= there:
        raise HiresError(f"device={text}: torch finds {there} GPUs here; wanted cpu, or one that is there")
    exact_fp32()
    return torch.device("cuda", number)


def load_bundle(folder: str, device: str = "cpu", key: str = "bundle") -> Bundle:
    """The bundle in a folder, on a device as `parse_device` reads it; raises HiresError in one line where it is missing, damaged or of
    another version, by the name that `key` gives it.
    """
    on = parse_device(device)
    if not Path(folder).is_dir():
        raise HiresError(f"{key}={folder}: no such folder; wanted a bundle that hires export wrote")
    if (Path(folder) / "checkpoints").is_dir():
        raise HiresError(f"{key}={folder}: a run, not a bundle; hires export run={folder} out=bundle makes one of it")
    try:
        return hires_bundle.load(folder, on)
    except (FileNotFoundError, ValueError) as error:
        raise HiresError(f"{key}={folder}: {error}") from error


def open_bundle(folder: str, device: str = "cpu", needs: str = "generator") -> Bundle:
    """The bundle of a command, with as many threads as its size wants; raises HiresError as `load_bundle` does, or for one without the
    network (generator or energy) that it `needs`; "" needs none.
    """
    bundle = load_bundle(folder, device, "sampler")
    if needs and getattr(bundle, needs) is None:
        of = bundle.config.get("info", {}).get("system", "")
        raise HiresError(f"sampler={folder}: it has no {needs}{f' (objective={of} trains none)' if of else ''}, which is needed here")
    use_threads(0, bundle.resolution)
    return bundle
