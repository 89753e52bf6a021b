"""A verb's configuration: its dataclass, composed by Hydra from configs/ and the command line, checked whole before any work."""

from collections.abc import Callable
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
import re
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hires import overrides as command_line
from hires.errors import HiresError
from hires.ground.ranges import check_ranges

CONFIGS = Path(__file__).resolve().parent / "configs"  # in a checkout a link to its top folder
FROM = "from_"  # the field of a schema that users write as from=…: Python keeps the word for itself


def schema_of(verb: str) -> type:
    """The dataclass of a verb's settings: `Config` in hires/verbs/VERB.py, beside the code that reads it."""
    return import_module(f"hires.verbs.{verb}").Config


def load(verb: str, overrides: list[str]) -> Any:
    """The verb's configuration as its dataclass; raises HiresError in one line for a wrong key, value or missing one."""
    schema, file = schema_of(verb), CONFIGS / f"{verb}.yaml"
    if hasattr(schema, "GROUPS") and not file.is_file():
        raise HiresError(f"{file} is missing: this installation is not whole; install hires again")
    _register(verb)
    for name, today in getattr(schema, "RENAMED", {}).items():
        if any(override.startswith(f"{name}=") for override in overrides):
            raise HiresError(f"hires {verb}: {name} is now called {today}")
    try:
        others, texts = command_line.split([_as_field(override, schema) for override in overrides], schema)
    except HiresError as error:
        raise HiresError(_as_written(str(error))) from error
    try:
        composed = _composed(verb, CONFIGS, tuple(_quoted(override) for override in others))
        # a second merge into the schema, of plain values: catches `+extra=1`, which compose lets pass, and reads every value once
        merged = _typed(schema, command_line.put(OmegaConf.to_container(composed), texts))
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            keys = ", ".join(f"{key}=…" for key in missing)
            raise HiresError(f"hires {verb}: {_as_written(keys)} not given")
        config = OmegaConf.to_object(merged)
    except (HydraException, OmegaConfBaseException) as error:
        raise HiresError(f"hires {verb}: {_as_written(_one_line(error))}") from error
    check_ranges(config)
    return config


@lru_cache(64)
def _composed(verb: str, folder: Path, overrides: tuple[str, ...]) -> DictConfig:
    """What Hydra makes of a verb's files and the overrides; kept, for a notebook's calls differ in paths, which are not among these."""
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose(verb, list(overrides))


@cache
def _register(verb: str) -> None:
    """Tell Hydra the types of a verb's settings: beside its file in configs/, or as the whole where it has none."""
    schema, store = schema_of(verb), ConfigStore.instance()
    store.store(name=f"{verb}_schema" if hasattr(schema, "GROUPS") else verb, node=schema)
    for group, members in getattr(schema, "GROUPS", {}).items():
        for name, node in members.items():
            store.store(group=group, name=name, node=node)


def from_plain(schema: type, plain: dict) -> Any:
    """A configuration out of plain dictionaries, as a manifest holds them; raises HiresError where it is not valid."""
    try:
        return OmegaConf.to_object(_typed(schema, plain))
    except OmegaConfBaseException as error:
        raise HiresError(f"configuration: {_one_line(error)}") from error


def _typed(schema: Any, plain: dict) -> DictConfig:
    """`plain` merged into its schema, an objective's settings into those of its system."""
    typed = OmegaConf.structured(schema)
    if "objective" in plain:
        systems, objective = schema.GROUPS["objective"], plain["objective"]
        name = objective.get("name") if isinstance(objective, dict) else None
        if name not in systems:
            raise HiresError(f"objective.name={name}: wanted {', '.join(systems)}")
        typed.objective = OmegaConf.structured(systems[name])
    return OmegaConf.merge(typed, command_line.literal(plain))


def _as_field(override: str, schema: Any) -> str:
    """`from=a.jpg` as `from_=a.jpg` where the schema has that field."""
    return re.sub(r"^([+~]*)from(?==|$)", rf"\1{FROM}", override) if FROM in schema.__dataclass_fields__ else override


def _as_written(text: str) -> str:
    """A message about the field `from_` with the key as it was written."""
    return re.sub(rf"\b{FROM}(?=[=:'])", "from", text)


def _quoted(override: str) -> str:
    """`seeds=1,5,9`, `path=/my pictures` or `out=a=b` as Hydra takes them: a value that is no single value in its grammar is quoted."""
    key, equals, value = override.partition("=")
    if not equals or not value:
        return override
    try:
        if not OverridesParser.create().parse_override(override).is_sweep_override():
            return override
    except HydraException:
        pass  # not in Hydra's grammar: text
    return key + "='" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


# Hydra's and OmegaConf's commonest messages -> the culprit, what was found and what is wanted
PLAINLY: tuple[tuple[str, Callable[[re.Match], str]], ...] = (
    (r"^(.*)Key '([^']+)' not in '\w+'", lambda m: f"{m[1]}no setting '{m[2]}'; --help lists the settings"),
    (r"Could not find '(\w+)/([^']*)' Available options in '\w+': (.*)", lambda m: f"{m[1]}={m[2]}: wanted {', '.join(m[3].split())}"),
    (r"Error parsing override '([^'=]*)' missing EQUAL", lambda m: f"{m[1]}: wanted {m[1]}=…"),
    (r"^(\S+): Value '(.*)' of type '\w+' could not be converted to Integer", lambda m: f"{m[1]}={m[2]}: wanted a whole number"),
    (r"^(\S+): Value '(.*)' of type '\w+' could not be converted to Float", lambda m: f"{m[1]}={m[2]}: wanted a number"),
    (r"^(\S+): Value '(.*)' is not a valid bool", lambda m: f"{m[1]}={m[2]}: wanted true or false"),
)


def _one_line(error: BaseException) -> str:
    """Hydra's messages say the essential in their first lines; the deepest cause names the key."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    aside = r"(full_key|Config search path|provider=|object_type|reference_type|Set the environment|To append to your|Check available)"
    keep = [line for line in lines if not re.match(aside, line)]
    full = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), "")
    text = re.sub(r" \w+_schema\b", "", " ".join(" ".join(keep).split()))  # bases of the files, nobody's choice
    text = f"{full}: {text}" if full and full not in text else text
    return next((form(found) for pattern, form in PLAINLY if (found := re.search(pattern, text))), text)
