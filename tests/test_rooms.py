"""The house: each room stands above those that it uses, nothing goes round in a circle, and imports are at the top."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers.command_line import ROOT

PACKAGE = "specs_lightning"
ROOMS = """
errors groups system settings statistics records scoring judge prompts toy policy objectives rewards rollout metrics
evaluation data modules callbacks strategies distill report commands runs toy_training plan cli
__main__
""".split()  # noqa: SIM905  as one reads it
"""From the ground up: a room may use those before it. docs/architecture.md says what each is for."""
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))


@dataclass(frozen=True)
class Import:
    """One of the package's modules, imported by another."""

    importer: str
    imported: str
    line: str
    in_function: bool


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file) for file in FILES}


def imports_of(file: Path) -> Iterator[Import]:
    text = file.read_text()
    lines = text.split("\n")

    def found(node: ast.AST, in_function: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inside = in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            if isinstance(child, ast.ImportFrom) and (child.module or "").split(".")[0] == PACKAGE:
                for name in child.names:
                    whole = f"{child.module}.{name.name}"
                    imported = whole if whole in MODULES else str(child.module)
                    yield Import(module_of(file), imported, lines[child.lineno - 1], inside)
            yield from found(child, inside)

    return found(ast.parse(text), in_function=False)


IMPORTS = [found for file in FILES for found in imports_of(file)]


def room(module: str) -> str:
    return module.removeprefix(f"{PACKAGE}.").split(".")[0]


def test_every_room_is_known_and_has_its_place() -> None:
    rooms = {room(module) for module in MODULES if module != PACKAGE}
    assert rooms == set(ROOMS)
    assert len(rooms) <= 28
    assert len(list((ROOT / PACKAGE).glob("*.py"))) - 1 <= 6  # loose files


def test_no_room_imports_upwards() -> None:
    place = {name: number for number, name in enumerate(ROOMS)}
    upwards = [
        f"{one.importer} imports {one.imported}"
        for one in IMPORTS
        if one.imported != PACKAGE and place[room(one.imported)] > place[room(one.importer)]
    ]
    assert upwards == []


def test_no_circle_of_files() -> None:
    """Those that import nothing of what is left are taken away, again and again: what stays goes round."""
    needs = {module: {one.imported for one in IMPORTS if one.importer == module} - {module} for module in MODULES}
    while free := {module for module, needed in needs.items() if not needed & needs.keys()}:
        for module in free:
            del needs[module]
    assert sorted(needs) == []


def test_an_import_within_a_function_says_why() -> None:
    """Its reason stands beside it, or in the module's docstring for a module that is made of such."""
    silent = [
        f"{one.importer}: {one.line.strip()}"
        for one in IMPORTS
        if one.in_function and "  # " not in one.line and one.importer != f"{PACKAGE}.commands.doctor"
    ]
    assert silent == []
