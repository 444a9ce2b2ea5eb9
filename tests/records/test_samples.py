"""Samples as a training and an evaluation write them."""

from __future__ import annotations

import json
import math
from pathlib import Path

from specs_lightning.groups import Prompt
from specs_lightning.records.samples import SAMPLES, Sample, SampledText


def test_what_could_not_be_given_is_none(tmp_path: Path) -> None:
    prompt = Prompt("p", ({"role": "user", "content": "How many?"},), answer="2", answer_format="boxed")
    completion = SampledText("two", False, 3, -1.5, math.nan, {"accuracy": math.nan, "format": 1.0})
    sample = Sample.of(prompt, ["png"], [completion], step=7)
    SAMPLES.write(tmp_path, [sample])
    SAMPLES.append(tmp_path, [sample])
    first, second = SAMPLES.read(tmp_path)
    assert first == second
    assert (first.step, first.prompt_id, first.prompt, first.images, first.answer) == (
        7,
        "p",
        "How many?",
        ("png",),
        "2",
    )
    assert first.completions == (SampledText("two", False, 3, -1.5, None, {"accuracy": None, "format": 1.0}),)


def test_without_a_word_on_it_a_completion_is_taken_as_finished(tmp_path: Path) -> None:
    row = {"step": 0, "prompt_id": "p", "prompt": "", "images": [], "answer": None, "answer_format": "boxed"}
    (tmp_path / SAMPLES.name).write_text(json.dumps({**row, "completions": [{"text": "two"}]}))
    assert SAMPLES.read(tmp_path)[0].completions == (SampledText("two"),)
