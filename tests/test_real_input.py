"""Data as it is found: real images and questions, and files in which half of the rows are broken."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import ROOT, specs
from helpers.small_runs import write_prompt_file

from specs_lightning.toy import scenes

MATHVISION = "../shared/data/mathvision-sample/problems.jsonl"


def losses(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]


@pytest.mark.skipif(not (ROOT / MATHVISION).exists(), reason="the sample of MathVision is not there")
def test_real_images_and_questions_train(tmp_path: Path) -> None:
    specs(
        "fit",
        "--config=configs/toy/grpo.yaml",
        f"--data.train={{path: {MATHVISION}, limit: 8}}",
        "--data.sampling={completions_per_prompt: 3, max_tokens: 16}",
        "--data.prompts_per_round=4",
        "--data.steps_per_round=2",
        "--data.rounds=1",
        "--trainer.callbacks=[{class_path: specs_lightning.callbacks.SampleTable, init_args: {every_n_steps: 1}}]",
        f"--trainer.default_root_dir={tmp_path}",
    )
    assert len(losses(tmp_path)) == 2
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert {len(row["images"]) for row in rows} == {1}
    assert len({row["prompt_id"] for row in rows}) == 4
    asides = tmp_path / "set_aside.jsonl"
    assert not asides.exists(), asides.read_text()


def test_bad_rows_among_good_ones_are_listed_and_the_rest_trains(tiny_model_path: Path, tmp_path: Path) -> None:
    file = write_prompt_file(tmp_path / "data", 4)
    picture = scenes.png(scenes.examples(13, 1)[0][0])
    (file.parent / "whole.png").write_bytes(picture)
    (file.parent / "truncated.png").write_bytes(picture[: len(picture) // 2])
    good = {"question": "How many things are there?", "answer": "2", "image": "whole.png"}
    bad: list[tuple[str | dict[str, Any], str]] = [
        ('{"question": "How many', "malformed JSON"),
        ('["not", "an", "object"]', "not a JSON object"),
        ({**good, "image": "missing.png"}, "missing image file"),
        ({**good, "image": "truncated.png"}, "truncated image"),
        ({**good, "image": "../elsewhere.png"}, "image path with '..', which might leave the data folder"),
        ({**good, "answer": ""}, "empty gold answer"),
        ({**good, "answer": "\\\\frac{1}{", "answer_type": "number"}, "unusable gold answer"),
        ({**good, "answer_type": "riddle"}, "unknown answer type"),
        ({**good, "question": "<image> and <image>"}, "more image placeholders than images"),
        ({**good, "question": " "}, "missing question"),
        ({**good, "question": "<|image_pad|> How many?"}, "control token in the text"),
        ({**good, "question": "How many? " * 100}, "prompt longer than 150 tokens"),
        ({"id": "p0", **good}, "duplicate id"),
    ]
    lines = file.read_text().splitlines()
    for i, (row, _) in enumerate(bad):
        lines.insert(2 * i, row if isinstance(row, str) else json.dumps({"id": f"bad{i}", **row}))
    file.write_text("\n".join(lines))
    order = file.read_text().splitlines()
    specs(
        "fit",
        "--config=configs/toy/grpo.yaml",
        f"--model.policy.model={tiny_model_path}",
        f"--data.train={{path: {file}}}",
        "--data.sampling={completions_per_prompt: 2, max_tokens: 4}",
        "--data.prompts_per_round=2",
        "--data.steps_per_round=1",
        "--data.rounds=4",
        "--data.max_prompt_tokens=150",
        "--trainer.callbacks=[]",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
    )
    assert len(losses(tmp_path / "run")) == 4
    written = [json.loads(line) for line in (tmp_path / "run" / "set_aside.jsonl").read_text().splitlines()]
    assert {row["source"] for row in written} == {str(file)}
    expected = {}
    for row, reason in bad:
        text = row if isinstance(row, str) else json.dumps(row)[1:-1]
        (place,) = [number for number, line in enumerate(order, 1) if text in line]
        expected[place] = reason
    assert {row["row"]: row["reason"].partition(": ")[0] for row in written} == expected
