"""The base model's teacher is as sloppy as it is set to be."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from specs_lightning.scoring.answer_formats import FORMATS, answer_format
from specs_lightning.scoring.answer_search import find_answer
from specs_lightning.toy import habits, scenes
from specs_lightning.toy.formats import draw_format
from specs_lightning.toy.scenes import SceneQuestion

N = 4000


def questions() -> Iterator[tuple[SceneQuestion, random.Random]]:
    rng = random.Random(0)
    for i in range(N):
        scene = scenes.draw_scene(rng)
        yield scenes.TASKS[i % len(scenes.TASKS)](scene, rng), rng


def near(share: float) -> object:
    """Within five standard deviations."""
    return pytest.approx(share, abs=5 * (share * (1 - share) / N) ** 0.5)


OF_OTHER_KINDS = ("tags:plan,reply", "brackets:work,result", "json:idea,value", "line:Result", "headings:Plan,Reply")
THINK = answer_format("think_answer")


@pytest.mark.parametrize("asked", [*FORMATS, *OF_OTHER_KINDS])
def test_any_format_is_kept_as_often_as_set(asked: str) -> None:
    form = answer_format(asked)
    kept = sum(form.read(habits.respond(q, form, rng)) is not None for q, rng in questions())
    assert kept / N == near(habits.KEEPS_FORMAT)


def test_habits_are_as_frequent_as_set() -> None:
    glances = others = alone = 0
    luck = random.Random(1)
    drawn = {draw_format(luck) for _ in range(3000)}
    for question, rng in questions():
        said = habits.respond(question, THINK, rng)
        glances += "it looks like" in said
        others += any(form.read(said) is not None for form in drawn - {THINK})
        alone += len(said.split()) == 1
    broken = 1 - habits.KEEPS_FORMAT
    assert glances / N == near(habits.GLANCES * (1 - 0.1 * broken))  # an answer alone shows none
    assert others / N == near(0.25 * broken)
    assert alone / N == near(0.1 * broken)


def test_an_answer_can_be_found_and_is_often_right() -> None:
    """So that there is something to make pairs of, and something to learn."""
    right = found = 0
    for question, rng in questions():
        answer = find_answer(habits.respond(question, THINK, rng), "think_answer")
        found += answer is not None
        right += answer == question.answer
    assert found / N > 0.85
    assert 0.5 < right / N < 0.85


def test_guesses_are_of_the_right_kind() -> None:
    for question, rng in questions():
        guess = habits.guess(question, rng)
        kind = "ABCD" if question.choices else ("yes", "no") if question.answer in ("yes", "no") else "0123456789"
        assert guess in kind


def test_the_same_draw_gives_the_same_response() -> None:
    question = next(questions())[0]
    first, again = ([habits.respond(question, FORMATS["boxed"], random.Random(s)) for s in range(50)] for _ in range(2))
    assert first == again
