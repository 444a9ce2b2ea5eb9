"""Answers read back as they were judged, and are not scored where some are lost."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from specs_lightning.records.answers import FILE, Answer, read_answers, seal_answers, write_answers
from specs_lightning.records.record import DamagedRecord
from specs_lightning.records.run import STAGE, StageRecord

ANSWERS = [
    Answer("id", "a", "<answer>1\u2028</answer>", 7, True, 1.0, 0.5, 0.5, "1", entropy=0.25, task="sums"),
    Answer("ood", "b", "", 0, False, 0.0, math.nan, math.nan, cause="no gold"),
]


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A finished stage with four answers."""
    write_answers(ANSWERS * 2, tmp_path / FILE)
    record = StageRecord(status="finished", fingerprint="1", settings={}, answers=seal_answers(tmp_path))
    STAGE.write(tmp_path, record)
    return tmp_path


def test_they_read_back(stage: Path) -> None:
    assert repr(read_answers(stage / FILE)) == repr(ANSWERS * 2)  # NaN is not equal to itself


def test_what_is_not_known_is_null(stage: Path) -> None:
    row = json.loads((stage / FILE).read_text().splitlines()[1])
    assert row["correct"] is row["solved"] is row["entropy"] is row["answer"] is None


def test_too_few_are_not_read(stage: Path) -> None:
    lines = (stage / FILE).read_text().splitlines(keepends=True)
    (stage / FILE).write_text("".join(lines[:3]))
    with pytest.raises(DamagedRecord, match=r"answers\.jsonl is damaged \(it has 3 answers of 4\): have the stage"):
        read_answers(stage / FILE)


def test_nor_others_nor_none(stage: Path) -> None:
    (stage / FILE).write_text((stage / FILE).read_text().replace("0.5", "1.0"))
    with pytest.raises(DamagedRecord, match="its content is not what the evaluation wrote"):
        read_answers(stage / FILE)
    (stage / FILE).unlink()
    with pytest.raises(DamagedRecord, match="it is not there"):
        read_answers(stage / FILE)


def test_without_a_seal_a_last_line_that_is_cut_off_is_still_noticed(tmp_path: Path) -> None:
    write_answers(ANSWERS, tmp_path / "test_answers.jsonl")
    with (tmp_path / "test_answers.jsonl").open("a") as file:
        file.write('{"set": "id", ')
    with pytest.raises(DamagedRecord, match="line 3 is damaged"):
        read_answers(tmp_path / "test_answers.jsonl")
