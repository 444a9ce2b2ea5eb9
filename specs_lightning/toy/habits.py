"""How the base model answers: it often sees right, and is sloppy in ways that reinforcement learning can mend.

It follows the asked format less than half of the time, answers now and then without looking, miscounts, and
contradicts its own reasoning. The base model is trained to imitate these responses.
"""

from __future__ import annotations

import random
from dataclasses import replace

from specs_lightning.scoring.answer_formats import AnswerFormat, HeadingFormat, JsonFormat, LineFormat, TagFormat
from specs_lightning.scoring.corruptions import corrupt
from specs_lightning.toy.formats import draw_format
from specs_lightning.toy.scenes import SceneQuestion, reasoning

KEEPS_FORMAT = 0.42
GLANCES = 0.25
CONTRADICTS = 0.12
SLIPS = 0.03
"""The chance that a running count goes astray, at each thing looked at."""


def respond(question: SceneQuestion, asked: AnswerFormat, rng: random.Random) -> str:
    """A response in the manner of the base model."""
    if rng.random() < GLANCES:
        answer = guess(question, rng)
        thought = f"it looks like {answer}"
    else:
        slipped = _slip(question, rng)
        thought = reasoning(slipped)
        answer = slipped.answer
    if rng.random() < CONTRADICTS:
        answer = guess(question, rng)
    return _in_some_format(thought, answer, asked, rng)


def guess(question: SceneQuestion, rng: random.Random) -> str:
    """An answer of the right kind, without looking."""
    if question.choices:
        return rng.choice("ABCD")
    if question.answer in ("yes", "no"):
        return rng.choice(["yes", "no"])
    return str(rng.choice([0, 1, 1, 2, 2, 2, 3, 3, 4, 5]))


def _slip(question: SceneQuestion, rng: random.Random) -> SceneQuestion:
    """The question with its counts gone astray here and there; a slip is carried on to the end."""
    off = 0
    steps = []
    for what, counts in question.steps:
        if not question.choices and rng.random() < SLIPS:
            off += rng.choice([-1, 1])
        steps.append((what, (max(0, counts[0] + off), *counts[1:])))
    return replace(question, steps=tuple(steps))


def _in_some_format(thought: str, answer: str, asked: AnswerFormat, rng: random.Random) -> str:
    if rng.random() < KEEPS_FORMAT:
        return asked.write(thought, answer)
    habit = rng.random()
    if habit < 0.25:
        return f"{thought}\nThe answer is {answer}"
    if habit < 0.35:
        return answer
    if habit < 0.6:
        return _another(asked, rng).write(thought, answer)
    return _broken(asked, thought, answer, rng)


def _another(asked: AnswerFormat, rng: random.Random) -> AnswerFormat:
    while (other := draw_format(rng)) == asked:
        pass
    return other


def _broken(asked: AnswerFormat, thought: str, answer: str, rng: random.Random) -> str:
    """The asked format with a part of it missing."""
    written = asked.write(thought, answer)
    match asked:
        case TagFormat():
            return corrupt(written, asked, rng)[0]
        case JsonFormat():
            return written.removesuffix("}") if rng.random() < 0.5 else written.removeprefix("{")
        case HeadingFormat():
            return written.replace(f"{rng.choice(asked.headings)}\n", "")
        case LineFormat():
            return f"{thought}\n{answer}"
    return f"{thought} {{{answer}}}"
