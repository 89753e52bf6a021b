"""Settings whose type is text, taken from the command line as they were typed: Hydra would read numbers, lists and references in them."""

from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
import os
import re
from typing import Any, get_args, get_origin

from omegaconf import MISSING

from hires.errors import HiresError


def split(overrides: list[str], schema: type) -> tuple[list[str], dict[str, str]]:
    """(what Hydra is to read, {key: text} of the settings of `schema` that are text), `~` expanded where a part of a text begins with it.

    Raises HiresError for an empty text where the setting has no default: `run=$RUN` with RUN not set.
    """
    others, texts = [], {}
    for override in overrides:
        key, equals, value = override.partition("=")
        quoted = re.fullmatch(r"(['\"]).*\1", value)  # as Hydra's own users write it
        found = _field(schema, key.split(".")) if equals and not quoted else None
        if override.startswith("~"):  # what is taken out takes its texts with it
            texts = {name: text for name, text in texts.items() if not f"{name}.".startswith(f"{key[1:]}.")}
        if found is None or found.type is not str:
            others.append(override)
            continue
        if not value.strip() and found.default in (MISSING, NO_DEFAULT):
            raise HiresError(f"{key}= is empty: wanted a value (is a shell variable not set?)")
        texts[key] = ",".join(os.path.expanduser(part) for part in value.split(","))
    return others, texts


def put(plain: dict, texts: dict[str, str]) -> dict:
    """`plain` with the texts at their keys."""
    for key, text in texts.items():
        *path, last = key.split(".")
        place = plain
        for name in path:
            place = place.setdefault(name, {})
        place[last] = text
    return plain


def literal(plain):
    """Nested dictionaries and lists whose texts OmegaConf takes as they are: `${name}` in one is no reference.

    But `${oc.env:NAME}` is: a Slurm array's tasks are told apart by it (docs/reference/slurm.md).
    """
    if isinstance(plain, dict):
        return {key: literal(value) for key, value in plain.items()}
    if isinstance(plain, list):
        return [literal(value) for value in plain]
    return re.sub(r"(\\*)\$\{(?!oc\.env:)", r"\1\1\\${", plain) if isinstance(plain, str) else plain


def _field(schema: Any, path: list[str]):
    """The dataclass field at a path of names; None where there is none, or its schema is not known yet (a system's settings)."""
    found = next((one for one in fields(schema) if one.name == path[0]), None)
    if found is None or len(path) == 1:
        return found
    inside: Any = found.type
    rest = path[1:]
    if get_origin(inside) is dict:
        inside, rest = get_args(inside)[1], rest[1:]
    return _field(inside, rest) if is_dataclass(inside) and rest else None
