"""Tests mirror the package: `ROOM/MODULE.py` is tested in `tests/ROOM/test_MODULE.py`."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE, TESTS = ROOT / "specs_lightning", ROOT / "tests"
ELSEWHERE = {
    "errors.py": "an exception and its formatting: every test of a refusal sees them",
    "plan/settings.py": "fields and their defaults: plan/test_reading.py gives them",
    "rollout/server/worker.py": "runs within vLLM alone: rollout/test_engine_contract.py and test_sampler.py",
    "scoring/math_verify_worker.py": "a process of its own, started by its owner: scoring/test_math_verify.py",
    "system/memory.py": "sets the C library for a whole process, for good: docs/benchmarks.md has what it is worth",
}
"""Modules without a test file of their own, and where they are tested."""
NOT_YET = {
    "__main__.py": "runs/test_kill_anywhere.py",
    "callbacks/stage_progress.py": "runs/test_kill_anywhere.py",
    "commands/fit.py": "test_cli.py",
    "commands/process.py": "test_cli.py",
    "evaluation/answer_metrics.py": "callbacks/test_generalization_factor.py",
    "evaluation/outcome.py": "test_cli.py",
    "evaluation/sets.py": "test_cli.py",
    "records/pairs.py": "data/test_pairs.py",
    "report/comparison.py": "runs/test_comparison.py",
    "report/panels.py": "report/test_page.py",
    "runs/stages.py": "runs/test_pipeline.py",
    "runs/warm.py": "runs/test_kill_anywhere.py",
    "settings/hints.py": "test_configs.py",
}
"""Modules whose tests are still in another file, and in which: to be split off with the next change there."""


def test_every_module_has_its_test_file() -> None:
    modules = {file.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py") if file.name != "__init__.py"}
    untested = {str(file) for file in modules if not (TESTS / file.parent / f"test_{file.name}").exists()}
    assert untested == ELSEWHERE.keys() | NOT_YET.keys()


def test_where_else_modules_are_tested_is_there() -> None:
    assert all((TESTS / file).is_file() for file in NOT_YET.values())
