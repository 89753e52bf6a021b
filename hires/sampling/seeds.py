"""Seeds as a person writes them."""

import re

from hires.errors import HiresError


def parse_seeds(text: str) -> list[int]:
    """'0-63' or '1,5,9' or both, as a list; raises HiresError for anything else."""
    seeds: list[int] = []
    for part in str(text).split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise HiresError(f"seeds={text}: wanted numbers and ranges such as 0-63 or 1,5,9")
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    return seeds


def open_bundle(folder: str):
    """The bundle in a folder; raises HiresError in one line where it is missing, damaged or of another version."""
    from hires.sampling import hires_bundle

    try:
        return hires_bundle.load(folder)
    except (FileNotFoundError, ValueError) as error:
        raise HiresError(f"sampler={folder}: {error}") from error
