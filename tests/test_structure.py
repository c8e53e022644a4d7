"""The house as it stands in the files: which rooms there are, how large their files are, who reaches into whom.

What imports what is `lint-imports`' to show, by the contracts in pyproject.toml; here is what it cannot see.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import epochal

SOURCE = Path(epochal.__file__).parent
FILES = {path.relative_to(SOURCE).as_posix(): path.read_text() for path in sorted(SOURCE.rglob("*.py"))}
TREES = {name: ast.parse(text) for name, text in FILES.items()}

PUBLIC_MODULES = ["activations", "backend", "config", "critical_batch", "initializers"]
PUBLIC_MODULES += ["mixed_precision", "random", "regularizers"]
PUBLIC_PACKAGES = ["callbacks", "layers", "losses", "metrics", "models", "ops", "optimizers", "saving", "utils"]
ROOMS = ["cli", "data", "display", "engine", "plans", "registry", "runs"]
ROOMS += ["runtime", "study", "support", "tables", "tracing"]

# A class that files know by its private name.
BY_ITS_OLD_NAME = {("layers/attention.py", "_Noise"), ("layers/recurrent/cells.py", "_Noise")}


# -- the rooms


def test_the_rooms_are_those_of_the_plan() -> None:
    found = {module.name for module in pkgutil.iter_modules(epochal.__path__)}
    assert found == {"__main__", *PUBLIC_MODULES, *PUBLIC_PACKAGES, *ROOMS}


@pytest.mark.parametrize("name", ["", *PUBLIC_MODULES, *PUBLIC_PACKAGES])
def test_a_public_module_shows_its_public_names_and_gives_them_to_a_star(name: str) -> None:
    module = importlib.import_module(f"epochal.{name}".rstrip("."))
    assert dir(module) == sorted(module.__all__)
    given: dict[str, Any] = {}
    exec(f"from {module.__name__} import *", given)
    assert set(module.__all__) == set(given) - {"__builtins__"}


def test_the_floors_are_few_hold_every_room_and_make_no_exceptions() -> None:
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    (floors,) = [contract for contract in contracts if contract["type"] == "layers"]
    assert len(floors["layers"]) <= 16
    assert floors["containers"] == ["epochal"]
    assert floors["exhaustive"] is True
    assert "acyclic_siblings" in {contract["type"] for contract in contracts}
    for contract in contracts:
        assert not {"ignore_imports", "exhaustive_ignores"} & set(contract), contract["name"]


# -- sizes


def test_no_file_is_longer_than_490_lines() -> None:
    assert {name for name, text in FILES.items() if len(text.splitlines()) > 490} == set()


def test_no_folder_has_more_than_18_files() -> None:
    counts: dict[Path, int] = defaultdict(int)
    for name in FILES:
        counts[Path(name).parent] += 1
    assert {str(folder): count for folder, count in counts.items() if count > 18} == {}


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From `def` to the end, blank lines too, the docstring aside."""
    first = function.body[0]
    said = 0
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        said = (first.end_lineno or 0) - first.lineno + 1
    return (function.end_lineno or 0) - function.lineno + 1 - said


def test_no_function_has_more_than_60_lines() -> None:
    functions = [(name, node) for name, node in nodes() if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {f"{name}: {f.name}" for name, f in functions if lines_of_code(f) > 60} == set()


# -- what must not grow, and is to shrink; the first numbers are those of commit abe1f24, before the rooms


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Every node of every file, with the file's name."""
    return ((name, node) for name, tree in TREES.items() for node in ast.walk(tree))


def is_bare_assert(node: ast.AST) -> bool:
    """`assert x is not None`, which says that a type is wider than what comes."""
    compared = (
        [part for part in ast.walk(node.test) if isinstance(part, ast.Compare)] if isinstance(node, ast.Assert) else []
    )
    return any(isinstance(c.ops[0], ast.IsNot) and ast.unparse(c.comparators[0]) == "None" for c in compared)


def is_cast(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("cast", "typing.cast") and len(node.args) == 2


@pytest.mark.parametrize(
    ("what", "most"),
    [
        (is_bare_assert, 0),  # 39
        (is_cast, 1),  # 1
    ],
    ids=["bare asserts", "casts"],
)
def test_what_hides_a_type_does_not_grow(what: Callable[[ast.AST], bool], most: int) -> None:
    assert sum(what(node) for _, node in nodes()) <= most


def test_ignored_types_do_not_grow() -> None:
    lines = [line for text in FILES.values() for line in text.splitlines()]
    assert sum("type: ignore" in line or "pyright: ignore" in line for line in lines) <= 27  # 27


# -- imports inside functions

LATE_IMPORTS = {
    "polars": "optional",
    "sklearn": "optional",
    "tensorboardX": "optional",
    "cloudpickle": "needed only by worker processes",
    "loky": "needed only by worker processes",
    "IPython": "there in notebooks",
    "etils": "with orbax",
    "orbax": "takes a second to import, and is needed only where runs are kept",
    "matplotlib": "takes half a second to import, and is needed only for pictures",
    "rich": "needed only where something is shown",
    "safetensors": "needed only where models are kept",
    "scipy": "takes a quarter of a second to import, and is needed by few",
    "resource": "not on Windows",
}
IMPORT_BY_NAME = {"__init__.py", "cli/program.py", "tables/sources.py"}  # public names and commands, when first used


def test_imports_inside_functions_are_of_libraries_that_must_wait_never_of_our_own() -> None:
    found, by_name = set(), set()
    for name, outer in nodes():
        for node in ast.walk(outer) if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef) else ():
            if isinstance(node, ast.Import):
                found |= {(name, alias.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((name, node.module or "."))
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                by_name.add(name)
    assert {(name, module) for name, module in found if module.partition(".")[0] not in LATE_IMPORTS} == set()
    assert by_name == IMPORT_BY_NAME


# -- reaching into others


def room_of(name: str) -> str:
    return name.partition("/")[0].removesuffix(".py")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own(value: ast.expr) -> bool:
    """`self`, `cls` or `super()`."""
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name) and value.func.id == "super"
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def defined_in(tree: ast.Module) -> Iterator[str]:
    """Names that the file gives to attributes: of its objects and classes, and of itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    yield part.name
                targets = getattr(part, "targets", [getattr(part, "target", None)])
                yield from (n.id for t in targets if t for n in ast.walk(t) if isinstance(n, ast.Name))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and own(node.value):
            yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("__setattr__"):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def taken_in(tree: ast.Module) -> Iterator[str]:
    """Private attributes that the file takes of objects other than `self`, also by `getattr` and the like."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not own(node.value):
            yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            taken = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
            if isinstance(taken, str) and not own(node.args[0]):
                yield taken


def test_nobody_reaches_into_objects_of_another_package() -> None:
    """A private attribute of another's object is taken only in a package that defines one of that name.

    What no file of ours defines is another library's; what every NamedTuple has is for all.
    """
    defined: dict[str, set[str]] = defaultdict(set)
    for name, tree in TREES.items():
        for attribute in defined_in(tree):
            defined[attribute].add(room_of(name))
    taken = {(name, attribute) for name, tree in TREES.items() for attribute in taken_in(tree) if is_private(attribute)}
    taken = {(name, attribute) for name, attribute in taken if attribute not in ("_fields", "_replace", "_asdict")}
    reaching = {(name, a) for name, a in taken if defined[a] and room_of(name) not in defined[a]}
    assert reaching == set()


def test_no_private_name_is_imported() -> None:
    imports = [(name, node) for name, node in nodes() if isinstance(node, ast.ImportFrom)]
    of_ours = [(name, node) for name, node in imports if (node.module or "").split(".")[0] in ("epochal", "")]
    found = {(name, alias.name) for name, node in of_ours for alias in node.names if is_private(alias.name)}
    assert found == BY_ITS_OLD_NAME


# -- the machine


def test_programs_are_called_in_one_place() -> None:
    calls = [
        name for name, node in nodes() if isinstance(node, ast.Call) and ast.unparse(node.func) == "executable.function"
    ]
    assert calls == ["engine/execution.py"]
