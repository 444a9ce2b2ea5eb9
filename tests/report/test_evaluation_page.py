"""The page of `specs test`: figures of both models, what is unscored, and samples, all of it escaped."""

from __future__ import annotations

import math
import re
from html import unescape
from pathlib import Path

import pytest
from report.synthetic_run import ATTACK

from specs_lightning.data.prompts import build_messages
from specs_lightning.data.set_aside import SetAside
from specs_lightning.evaluation import Answer
from specs_lightning.groups import Prompt
from specs_lightning.paired_scores import paired_differences
from specs_lightning.report.evaluation import EvaluatedModel, write_evaluation
from specs_lightning.toy import scenes


def answer(number: int, correct: float, text: str = "<answer>1</answer>", cause: str | None = None) -> Answer:
    task = "counting" if number % 2 else "algebra"
    return Answer("vision", f"p{number}", text, 9, number > 1, 1.0, correct, correct, "1", task=task, cause=cause)


def write(file: Path, with_base: bool = True) -> str:
    picture = scenes.png(scenes.examples(13, 1)[0][0])
    prompts = [Prompt(f"p{i}", build_messages("How many?", 1), (picture,), "1") for i in range(40)]
    mine = [answer(i, float(i < 30)) for i in range(40)]
    mine[0] = answer(0, math.nan, ATTACK, "no rule for the metric gpt_4o_as_judge")
    other = [answer(i, float(i < 20)) for i in range(40)]
    models = [EvaluatedModel("runs/final/model", {"vision": mine}), EvaluatedModel("org/base", {"vision": other})]
    set_aside = SetAside()
    set_aside.add("data/MathVision", 3, "truncated image: 3.png")
    apart = {"vision": paired_differences(mine, other)} if with_base else {}
    models = models if with_base else models[:1]
    write_evaluation(file, models, apart, {"vision": prompts}, {"seed": 0, "sampling": {"max_tokens": 7}}, set_aside)
    return file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("page") / "test.html")


def words_of(page: str) -> str:
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", page[page.index("<main>") :]).split()))


def test_both_models_stand_beside_each_other_with_intervals_and_the_paired_difference(page: str) -> None:
    words = words_of(page)
    assert "vision Correct 40 74.4 58.9 to 85.4 50.0 35.2 to 64.8 25.6" in words
    assert "Correct, mean over tasks" in words and "n = 39" in words
    assert "runs/final/model" in page and "org/base" in page


def test_tasks_unscored_answers_and_what_was_set_aside_are_told(page: str) -> None:
    words = words_of(page)
    assert "algebra 20 73.7" in words and "counting 20 75.0" in words
    assert "model 40 2 1 no rule for the metric gpt_4o_as_judge (1) 9" in words
    assert "base 40 2 0 – 9" in words
    assert "truncated image 1" in words and "sampling.max_tokens 7" in words


def test_samples_are_sorted_by_how_the_models_did(page: str) -> None:
    kinds = [unescape(kind) for kind in re.findall(r"<details><summary>([^<]+)</summary>", page)]
    assert kinds == [
        "model right; base right: 19",
        "model right; base wrong: 10",
        "model unscored; base right: 1",
        "model wrong; base wrong: 10",
    ]
    assert page.count("<article>") == 6 + 6 + 1 + 6


def test_what_a_model_wrote_is_text(page: str) -> None:
    assert "<script" not in page and "<img src=x" not in page
    assert ATTACK in unescape(re.sub(r"</?b[^>]*>", "", page))  # tags are set in bold


def test_without_a_base_there_is_one_column(tmp_path: Path) -> None:
    words = words_of(write(tmp_path / "test.html", with_base=False))
    assert "Difference" not in words and "base" not in words
