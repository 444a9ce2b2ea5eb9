"""An evaluation leaves its answers and, unless it only predicts, its scores and samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from helpers.questions import prompt

from specs_lightning.evaluation.outcome import SAMPLES_OF_A_SET, EvaluationOutcome
from specs_lightning.records.answers import Answer, read_answers
from specs_lightning.records.samples import Sample

PROMPTS = {
    "id": [prompt(n_images=1, question="How many <image>?", id=f"p{i}") for i in range(5)],
    "ood": [prompt(n_images=0, question="How many?", id="p0")],
}


def answer(name: str, id: str, solved: float, text: str = "two") -> Answer:
    return Answer(name, id, text, 3, True, 1.0, solved, solved, logprob=-1.5)


ANSWERS: Mapping[str, Sequence[Answer]] = {
    # p0 and p3 could not be encoded.
    "id": [answer("id", id, float(id == "p1"), text) for id in ("p1", "p2", "p4") for text in ("one", "two")],
    "ood": [answer("ood", "p0", 0.0)],
}


def outcome(command: str, checkpoint: str | None = None) -> EvaluationOutcome:
    return EvaluationOutcome(command, "org/model", checkpoint, ANSWERS)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_answers_scores_and_samples_are_files_of_the_command(tmp_path: Path, command: str) -> None:
    outcome(command).write(tmp_path / "new", PROMPTS)
    assert {file.name for file in (tmp_path / "new").iterdir()} == {
        f"{command}.json",
        f"{command}_answers.jsonl",
        f"{command}_samples.jsonl",
    }


def test_predictions_are_answers_alone(tmp_path: Path) -> None:
    outcome("predict").write(tmp_path, PROMPTS)
    (file,) = tmp_path.iterdir()
    assert file.name == "predictions.jsonl"
    assert [(one.set, one.prompt_id) for one in read_answers(file)][-2:] == [("id", "p4"), ("ood", "p0")]


def test_scores_say_of_which_model(tmp_path: Path) -> None:
    outcome("test", "run/checkpoints/step=2.ckpt").write(tmp_path, PROMPTS)
    found = json.loads((tmp_path / "test.json").read_text())
    assert (found["model"], found["checkpoint"]) == ("org/model", "run/checkpoints/step=2.ckpt")
    assert {name: (of["n"], of["answers"], of["solved"]) for name, of in found["sets"].items()} == {
        "id": (3, 6, pytest.approx(1 / 3)),
        "ood": (1, 1, 0.0),
    }


def test_samples_are_the_first_prompts_with_answers_and_all_of_these(tmp_path: Path) -> None:
    outcome("test").write(tmp_path, PROMPTS)
    rows = [json.loads(line) for line in (tmp_path / "test_samples.jsonl").read_text().splitlines()]
    assert [(row["set"], row["prompt_id"]) for row in rows] == [
        ("id", "p1"),
        ("id", "p2"),
        ("id", "p4"),
        ("ood", "p0"),
    ]
    first, *_, last = rows
    assert set(first) == set(Sample.__dataclass_fields__)
    assert [one["text"] for one in first["completions"]] == ["one", "two"]
    assert first["completions"][0]["reward"] == 1.0 and first["completions"][0]["logprob"] == -1.5
    assert first["completions"][0]["rewards"] == {"correct": 1.0, "format_kept": 1.0}
    assert (len(first["images"]), len(last["images"])) == (1, 0)


def test_of_a_set_a_few_samples_are_kept(tmp_path: Path) -> None:
    ids = [f"p{i}" for i in range(SAMPLES_OF_A_SET + 2)]
    many = EvaluationOutcome("test", "m", None, {"id": [answer("id", id, 1.0) for id in ids]})
    many.write(tmp_path, {"id": PROMPTS["id"]})
    assert len((tmp_path / "test_samples.jsonl").read_text().splitlines()) == SAMPLES_OF_A_SET
