"""Tests mirror the package: `ROOM/MODULE.py` is tested in `tests/ROOM/test_MODULE.py`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE, TESTS = ROOT / "specs_lightning", ROOT / "tests"
ELSEWHERE = {
    "__main__.py": "a line: runs/test_processes.py starts commands by it",
    "commands/project/my_evaluations.py": "a part of the project that `specs init` writes: commands/test_init.py",
    "commands/project/my_rewards.py": "another: commands/test_init.py",
    "errors.py": "an exception and its formatting: every test of a refusal sees them",
    "plan/settings.py": "fields and their defaults: plan/test_reading.py gives them",
    "rollout/server/worker.py": "runs within vLLM alone: rollout/test_engine_contract.py, rollout/test_sampler.py",
    "scoring/math_verify_worker.py": "a process of its own, started by its owner: scoring/test_math_verify.py",
    "system/memory.py": "sets the C library for a whole process, for good: docs/benchmarks.md has what it is worth",
}
"""Modules without a test file of their own, and why, or where they are tested."""


def test_every_module_has_its_test_file() -> None:
    modules = {file.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py") if file.name != "__init__.py"}
    untested = {str(file) for file in modules if not (TESTS / file.parent / f"test_{file.name}").exists()}
    assert untested == ELSEWHERE.keys()


def test_where_else_modules_are_tested_is_there() -> None:
    named = [file for reason in ELSEWHERE.values() for file in re.findall(r"[\w/]+\.py", reason)]
    assert named and all((TESTS / file).is_file() for file in named)
