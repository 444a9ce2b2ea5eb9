"""Whatever happens to a file of a run: reports, comparisons and runs name it, or do without what it lacks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.synthetic_run import write_experiments, write_jsonl

from specs_lightning.records.record import DamagedRecord
from specs_lightning.report import results_table, write_report
from specs_lightning.report.comparison import write_comparison

FILES = [
    "run.json",
    "results.json",
    "final/stage.json",
    "final/metrics.csv",
    "final/samples.jsonl",
    "final/judge.jsonl",
    "distill/pairs_preview.jsonl",
    "distill/statistics.json",
    "distill/set_aside.jsonl",
    "final/answers.jsonl",
]
OF_JSON = ("no JSON", "another type", "texts for numbers", "without keys")
Damage = Callable[[bytes], bytes]


def of_another_type(content: bytes) -> bytes:
    """A list for each object, a text for each number."""

    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return [turned(item) for item in value.values()]
        return str(value) if isinstance(value, int | float) else value

    return b"".join(json.dumps(turned(json.loads(line))).encode() + b"\n" for line in content.splitlines())


def with_texts_for_numbers(content: bytes) -> bytes:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: turned(item) for name, item in value.items()}
        if isinstance(value, list):
            return list(map(turned, value))
        return "many" if isinstance(value, int | float) else value

    return b"".join(json.dumps(turned(json.loads(line))).encode() + b"\n" for line in content.splitlines())


def emptied(content: bytes) -> bytes:
    return b"".join(b"{}\n" for _ in content.splitlines())


DAMAGES: dict[str, Damage] = {
    "truncated": lambda content: content[: len(content) // 2],
    "truncated, with an end": lambda content: content[: len(content) // 2] + b"\n",
    "no JSON": lambda content: b"step: 1\n" * 3,
    "another type": of_another_type,
    "texts for numbers": with_texts_for_numbers,
    "without keys": emptied,
    "not UTF-8": lambda content: content.replace(b'"', b"\xff", 1) if b'"' in content else b"\xff" + content,
    "nothing": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, Path]]:
    runs = write_experiments(tmp_path_factory.mktemp("runs"))
    for of_seed in runs.values():
        for run in of_seed.values():
            write_jsonl(run / "final" / "judge.jsonl", [{"model": "judge", "questions": 3}])
    return runs


@contextmanager
def restored(file: Path) -> Iterator[Path]:
    content = file.read_bytes()
    try:
        yield file
    finally:
        file.write_bytes(content)


@pytest.fixture
def commands(
    whole: dict[str, dict[int, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Callable[[], object]]:
    """What reads a run; without figures and tests, which take most of the time."""
    monkeypatch.setattr("specs_lightning.report.page._stage_figures", lambda stage: None)
    monkeypatch.setattr("specs_lightning.report.page._shares_figure", lambda *_: None)
    monkeypatch.setattr("specs_lightning.report.comparison._curves", lambda *_: None)
    monkeypatch.setattr("specs_lightning.report.comparison.draw_shares", lambda *_: None)
    monkeypatch.setattr("specs_lightning.report.comparison.paired_by_prompt", lambda differences: None)
    run = whole["specs"][0]
    two = {name: {0: of_seed[0]} for name, of_seed in whole.items()}
    return [lambda: results_table(run), lambda: write_report(run), lambda: write_comparison(tmp_path, two, {})]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.bad_input("run folders")
def test_a_damaged_file_is_named_with_what_to_do(
    whole: dict[str, dict[int, Path]], commands: list[Callable[[], object]], name: str
) -> None:
    with restored(whole["specs"][0] / name) as file:
        content = file.read_bytes()
        for damage, damaged in DAMAGES.items():
            if name.endswith(".csv") and damage in OF_JSON:
                continue
            file.write_bytes(damaged(content))
            said = []
            for command in commands:
                try:
                    command()
                except DamagedRecord as error:  # any other is a traceback
                    said.append(str(error))
            assert all(str(file) in one and "is damaged (" in one and "): " in one for one in said), damage
            assert said or damage not in ("no JSON", "not UTF-8", "another type"), damage
    for command in commands:
        command()


def test_a_file_that_is_not_there_is_no_damage(
    whole: dict[str, dict[int, Path]], commands: list[Callable[[], object]]
) -> None:
    for name in FILES[1:-1]:
        with restored(whole["specs"][0] / name) as file:
            file.unlink()
            for command in commands[:2]:
                command()
