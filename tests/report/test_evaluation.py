"""The page of `specs test`: figures of both models, what is unscored, and samples, all of it escaped."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest
from helpers.synthetic_run import ATTACK, write_evaluated


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_evaluated(tmp_path_factory.mktemp("page") / "test.html").read_text(encoding="utf-8")


def words_of(page: str) -> str:
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", page[page.index("<main>") :]).split()))


def test_both_models_stand_beside_each_other_with_intervals_and_the_paired_difference(page: str) -> None:
    words = words_of(page)
    assert "vision Correct 40 74.4 58.9 to 85.4 50.0 35.2 to 64.8 25.6" in words
    assert "Correct, mean over tasks" in words and "n = 39" in words
    assert "runs/final/model" in page and "org/base" in page


def test_its_title_says_which_models_and_its_first_sentence_the_generalization_factor(page: str) -> None:
    assert "<title>runs/final/model beside org/base · SPECS evaluation</title>" in page
    assert "<h1>runs/final/model beside org/base</h1>" in page
    told = "The model gains 25.0 points in distribution and 20.0 out of it: Γ 20.8 (10.0 to 40.0)."
    assert words_of(page).startswith(f"Results {told}")


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
    words = words_of(write_evaluated(tmp_path / "test.html", with_base=False).read_text(encoding="utf-8"))
    assert "Difference" not in words and "base" not in words and "Γ" not in words
