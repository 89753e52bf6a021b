"""The house has floors: a module imports from its own floor and from those below it, never from above, wherever the import stands."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
# from the ground up; a floor is a package or a module of hires/, and pipelines knows nothing of hires
FLOORS = (
    *("errors", "ground", "overrides", "help", "config", "networks", "objectives", "checkpoints", "training", "planning", "bundle"),
    *("media", "sampling", "evaluation", "slurm", "report", "explore", "verbs", "cli", "__init__", "__main__"),
)


def floor_of(path: Path) -> int:
    """The floor that a file of hires/ lies on; -1 for pipelines."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return -1 if parts[0] == "pipelines" else FLOORS.index(parts[1])


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, file that is imported) of every import of this project in a file, inside functions and TYPE_CHECKING too."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = [*package[: len(package) + 1 - node.level], *filter(None, [node.module])] if node.level else [node.module]
            names = [".".join([*origin, alias.name]) for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] in ("hires", "pipelines"))


def found_as(name: str) -> Path:
    """The file that 'hires.ground.noise.normal' names: of the longest beginning of it that is a module."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:end])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    raise AssertionError(f"{name}: no such module")


def arrows_up(files: list[Path]) -> list[str]:
    """'hires/ground/noise.py:7 imports hires.training.game' for each import from a floor above."""
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for line, name in imported(path)
        if floor_of(found_as(name)) > floor_of(path)
    ]


def test_no_module_imports_from_a_floor_above():
    files = sorted(file for package in ("hires", "pipelines") for file in (ROOT / package).rglob("*.py"))
    assert len({floor_of(file) for file in files}) == len(FLOORS) + 1, "a floor without files"
    assert arrows_up(files) == []
