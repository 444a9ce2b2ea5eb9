"""Which versions the tests passed with, and which installed ones are others.

The tested ones are `constraint-dependencies` in pyproject.toml, so `uv run` installs them. As a plugin of pytest this
says after failures what is installed instead. As a script it says so at once; with `--write` it makes what is installed
here the tested versions.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
NOT_OURS = frozenset({"specs-lightning", "pip"})
"""This package, and what only some tools put into an environment."""


def tested(text: str) -> dict[str, Requirement]:
    """The requirements `name==version`, by name, that are listed in pyproject.toml's text."""
    listed = map(Requirement, tomllib.loads(text)["tool"]["uv"]["constraint-dependencies"])
    return {canonicalize_name(requirement.name): requirement for requirement in listed}


def tested_versions(text: str) -> dict[str, str]:
    return {name: str(requirement.specifier).removeprefix("==") for name, requirement in tested(text).items()}


def installed_versions() -> dict[str, str]:
    named = (d for d in importlib.metadata.distributions() if d.metadata["Name"])  # remains of a package have no name
    found = {canonicalize_name(d.metadata["Name"]): d.version for d in named}
    return {name: version for name, version in found.items() if name not in NOT_OURS}


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    """A line for each package in another version, one of those that are missing, one of further ones."""
    for name in sorted(expected.keys() & found.keys()):
        if found[name] != expected[name]:
            yield f"{name} {found[name]} (tested: {expected[name]})"
    if missing := sorted(expected.keys() - found.keys()):
        yield f"not installed: {', '.join(missing)}"
    if further := sorted(found.keys() - expected.keys()):
        yield f"installed, not among the tested: {', '.join(further)}"


def rewritten(text: str, versions: Mapping[str, str]) -> str:
    """pyproject.toml's text with these versions as the tested ones; a marker that stood behind a name stays there."""
    before = tested(text)
    markers = {name: f" ; {r.marker}".replace('"', "'") for name, r in before.items() if r.marker is not None}
    lines = [f'    "{name}=={versions[name]}{markers.get(name, "")}",\n' for name in sorted(versions)]
    listed = f"constraint-dependencies = [\n{''.join(lines)}]"
    return re.sub(r"constraint-dependencies = \[[^]]*\]", lambda _: listed, text, count=1)


def report() -> Iterator[str]:
    """What differs from the tested versions, in lines for a terminal."""
    found = list(differences(tested_versions(PYPROJECT.read_text()), installed_versions()))
    yield f"Python {platform.python_version()}, {platform.system()}, {platform.machine()}"
    for line in found or ["The installed packages are the tested ones."]:
        yield from textwrap.wrap(line, 120, subsequent_indent="  ", break_on_hyphens=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """After failures, say which installed versions were not tested: they may be the cause."""
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.section("installed versions")
        for line in report():
            terminalreporter.line(line)


def main() -> None:
    if sys.argv[1:] == ["--write"]:
        PYPROJECT.write_text(rewritten(PYPROJECT.read_text(), installed_versions()))
    elif sys.argv[1:]:
        sys.exit("usage: python tests/helpers/tested_versions.py [--write]")
    print(*report(), sep="\n")


if __name__ == "__main__":
    main()
