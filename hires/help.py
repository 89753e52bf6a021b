"""What a verb takes, read out of the source and not imported: nobody waits for torch to see a list of settings."""

import ast
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
OURS = ("hires", "pipelines")  # packages beside each other, in a checkout and in a wheel
Class = tuple[str, ast.ClassDef]  # and the module that it stands in


def text(verb: str) -> str:
    """A verb's YAML file where it has one, then types, defaults, ranges and comments of its dataclasses, as they stand in the code."""
    found = _class(f"hires.verbs.{verb}", ast.Name("Config"))
    assert found, verb
    classes = _lineage(found)
    for one in classes:  # grows while it is read: settings of settings follow
        types = [_class(module, node.annotation) for module, base in _lineage(one) for node in base.body if isinstance(node, ast.AnnAssign)]
        classes += [of for of in dict.fromkeys(types) if of and of not in classes and _is_dataclass(of)]
    file = HERE / "configs" / f"{verb}.yaml"
    sources = [_source(*one) for one in classes]
    return "\n\n".join([file.read_text(encoding="utf-8").rstrip(), *sources] if file.is_file() else sources)


@cache
def _module(name: str) -> tuple[list[str], ast.Module] | None:
    """The lines and the tree of a module of ours."""
    path = HERE.parent / name.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if name.split(".")[0] not in OURS or not file.is_file():
        return None
    source = file.read_text(encoding="utf-8")
    return source.splitlines(), ast.parse(source)


def _class(module: str, name: ast.expr) -> Class | None:
    """The class that `name`, or `module.name`, means in a module, followed through its imports; None where it is no class of ours."""
    if isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name):
        return _class(place, ast.Name(name.attr)) if (place := _imported(module, name.value.id)) else None
    if not isinstance(name, ast.Name) or not (found := _module(module)):
        return None
    for node in found[1].body:
        if isinstance(node, ast.ClassDef) and node.name == name.id:
            return module, node
    place, _, last = _imported(module, name.id).rpartition(".")
    return _class(place, ast.Name(last)) if place else None


def _imported(module: str, name: str) -> str:
    """Where `from … import` of a module takes a name from, in dots; empty for one that it does not import so."""
    found = _module(module)
    imports = [node for node in ast.walk(found[1]) if isinstance(node, ast.ImportFrom)] if found else []
    for node, one in [(each, alias) for each in imports for alias in each.names]:
        if name == (one.asname or one.name):
            parts = module.split(".")
            up = node.level - HERE.parent.joinpath(*parts).is_dir()  # of `from ..module`; a package is its own
            package = parts[: len(parts) - up] if node.level else []
            return ".".join(filter(None, [*package, node.module, one.name]))
    return ""


def _lineage(one: Class) -> list[Class]:
    """The dataclasses that a class inherits its settings from, the first one first, and itself."""
    module, node = one
    above = [base for name in node.bases if (base := _class(module, name))]
    return [*(each for base in above for each in _lineage(base)), one] if _is_dataclass(one) else []


def _is_dataclass(one: Class) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in one[1].decorator_list)


def _source(module: str, node: ast.ClassDef) -> str:
    """A dataclass without its methods."""
    found = _module(module)
    assert found
    first = min(decorator.lineno for decorator in node.decorator_list)
    return "\n".join(found[0][first - 1 : node.end_lineno]).split("\n    def ")[0].split("\n    # config")[0].rstrip()
