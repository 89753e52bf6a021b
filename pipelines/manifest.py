"""manifest.json of a data set, read by whoever opens it; finishing.py writes it."""

import re
from typing import Any

from .codecs import Codec
from .errors import DataError
from .files import Files, from_json
from .listing import SPLITS
from .pyramid import levels_up_to

FORMAT = 2
MANIFEST = "manifest.json"
SHA256 = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"(shard|holdout)-[0-9]+")
NEEDED = {"source", "licence", "settings", "counts", "skipped", "channels", "levels", "codecs", "filter", "crop", "mean", "std"}
NEEDED |= {"index", "shards"}


def read_manifest(files: Files) -> dict[str, Any]:
    """The manifest; raises DataError if there is none, which means unfinished, one of another format, or one that cannot be ours."""
    try:
        manifest = from_json(files.manifest())
    except ValueError as error:
        raise DataError(f"{files.root}/{MANIFEST}: cannot be read ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else "none"
        raise DataError(f"{files.root}/{MANIFEST}: format {found}; wanted format {FORMAT}: prepare it again in another out=")
    if wrong := _contradiction(manifest):
        raise DataError(f"{files.root}/{MANIFEST}: {wrong}; {files.mend}")
    return manifest


def _contradiction(manifest: dict[str, Any]) -> str:
    """What a manifest lacks, or says twice in different ways; '' if nothing."""
    missing = sorted(NEEDED - manifest.keys())
    if missing:
        return f"has no {', '.join(missing)}"
    try:
        return _disagreement(manifest)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return f"not laid out as hires prepare does ({type(error).__name__}: {error})"


def _disagreement(manifest: dict[str, Any]) -> str:
    levels = set(map(str, levels_up_to(manifest["levels"][-1])))
    if manifest["levels"] != sorted(map(int, levels)) or manifest["channels"] not in (1, 3):
        return f"levels {manifest['levels']}, {manifest['channels']} channels; wanted 4, 8, … and 1 or 3"
    if not _is_file(manifest["index"]):
        return f"an index of {str(manifest['index'])[:100]}; wanted bytes and sha256"
    if manifest["codecs"].keys() != levels:
        return f"codecs of levels {', '.join(manifest['codecs'])}; wanted {', '.join(sorted(levels, key=int))}"
    for name in manifest["codecs"].values():
        Codec(name)
    for split in SPLITS:
        for shard in manifest["shards"][split]:
            if not NAME.fullmatch(shard["name"]) or shard["levels"].keys() != levels:
                return f"a shard {shard['name'][:50]!r} of levels {', '.join(shard['levels'])}; wanted {', '.join(sorted(levels, key=int))}"
            if not all(map(_is_file, shard["levels"].values())) or type(shard["images"]) is not int or shard["images"] < 1:
                return f"a shard {shard['name']} without pictures, or files of it without bytes and sha256"
        images = sum(shard["images"] for shard in manifest["shards"][split])
        if images != manifest["counts"][split]:
            return f"{manifest['counts'][split]} pictures in {split}, but {images} in its shards"
    return ""


def _is_file(found: dict[str, Any]) -> bool:
    """Whether this is what the manifest says of a file."""
    return type(found["bytes"]) is int and found["bytes"] >= 0 and SHA256.fullmatch(found["sha256"]) is not None
