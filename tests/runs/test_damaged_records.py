"""A run whose records are damaged says so, and does again what it is told to."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.stand_in_work import Work

from specs_lightning.data.sources import PromptSource
from specs_lightning.records.record import DamagedRecord
from specs_lightning.runs.measurement import EvaluationSettings
from specs_lightning.runs.pipeline import run
from specs_lightning.runs.planned_stages import Stage

EVALUATION = EvaluationSettings(PromptSource("id.jsonl"), {"ood": PromptSource("ood.jsonl")})
STAGES = {"base": Stage("model", model="toy:base"), "zero": Stage("fit", "grpo.yaml")}


@pytest.fixture
def finished(work: Work) -> Work:
    run(STAGES, EVALUATION, run_dir="r")
    work.done.clear()
    return work


@pytest.mark.parametrize("content", ["", '{"status": "finished"', "[]", '{"status": "finished"}'])
def test_a_damaged_stage_is_named_and_can_be_done_again(finished: Work, content: str) -> None:
    Path("r/zero/stage.json").write_text(content)
    with pytest.raises(DamagedRecord, match=r"r/zero/stage\.json is damaged .* name it in --redo of `specs run`"):
        run(STAGES, EVALUATION, run_dir="r")
    assert not finished.done
    run(STAGES, EVALUATION, run_dir="r", redo=["zero"])
    assert finished.done == ["fit zero", "evaluate zero"]


def test_answers_that_are_lost_are_not_left_out_of_the_results(finished: Work) -> None:
    file = Path("r/zero/answers.jsonl")
    file.write_text(file.read_text().splitlines(keepends=True)[0])
    with pytest.raises(DamagedRecord, match="it has 1 answers of 2"):
        run(STAGES, EVALUATION, run_dir="r")
    file.unlink()
    with pytest.raises(DamagedRecord, match="it is not there"):
        run(STAGES, EVALUATION, run_dir="r")


def test_what_is_written_anew_may_be_damaged(finished: Work) -> None:
    for name in ("run.json", "results.json"):
        Path("r", name).write_text("{")
    run(STAGES, EVALUATION, run_dir="r")
    assert not finished.done
