"""The ways in which `toy_training` asks a base model to write its answers: formats, their words, and wordings.

What it never asks (`NEW_TAGS`, `NEW_WORDING`), and what no training stage asks, is out of distribution.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from specs_lightning.scoring.answer_formats import (
    AnswerFormat,
    BoxedFormat,
    HeadingFormat,
    JsonFormat,
    LineFormat,
    TagFormat,
)

REASONING_WORDS = ("think", "reasoning", "work", "thought", "steps", "notes", "plan", "idea")
ANSWER_WORDS = ("answer", "solution", "result", "final", "reply", "value", "output", "verdict")
NEW_TAGS = ("draft", "outcome")
"""Words that it has the base say, but not as tags."""
OTHER_WORDS = ("red", "green", "blue", "yellow", "circle", "square", "triangle", "things", "more", "left", "match")
"""Words of questions, which a lesson of clean formats has for tags, too: so that a tag is copied and not recalled."""

WORDINGS: dict[type[AnswerFormat], tuple[str, ...]] = {
    TagFormat: (
        "Put the reasoning in {0} {1} and the answer in {2} {3}.",
        "First {0} your reasoning {1}, then {2} your answer {3}.",
        "Write it like this: {0} reasoning {1} {2} answer {3}",
        "Use {0} {1} for the reasoning and {2} {3} for the answer.",
    ),
    BoxedFormat: (
        r"Reason, and put the answer in \boxed{{}} at the end.",
        r"Write the reasoning, then \boxed{{}} with the answer in it.",
    ),
    JsonFormat: (
        'Answer with a JSON object of two keys, "{0}" and "{1}".',
        'Write JSON like this: {{"{0}": "...", "{1}": "..."}}',
    ),
    LineFormat: (
        "Reason, and write {0}: and the answer on the last line.",
        "Let the last line be {0}: and the answer.",
    ),
    HeadingFormat: (
        "Write {0} and the reasoning, then {1} and the answer.",
        "Use the headings {0} and {1}.",
    ),
}
"""Besides the formats' own instructions."""
NEW_WORDING = "Begin with {0}, reason, and close it with {1}. The answer stands between {2} and {3}."
"""One in which the base was never asked."""


class Asked(NamedTuple):
    """A format, and how it is asked for."""

    form: AnswerFormat
    instruction: str


def draw_format(rng: random.Random, reasoning: Sequence[str] = REASONING_WORDS) -> AnswerFormat:
    """Tags in half of the cases; their reasoning words are these."""
    one, other = rng.choice(reasoning), rng.choice(ANSWER_WORDS)
    kind = rng.random()
    if kind < 0.5:
        return TagFormat(one, other)
    if kind < 0.6:
        return TagFormat(one, other, "[]")
    if kind < 0.72:
        return BoxedFormat()
    if kind < 0.84:
        return JsonFormat() if rng.random() < 0.5 else JsonFormat(one, other)
    if kind < 0.92:
        return LineFormat(other.capitalize())
    return HeadingFormat(one.capitalize(), other.capitalize())


def ask(form: AnswerFormat, rng: random.Random) -> Asked:
    """One of its wordings; the form's own instruction as often as all others together."""
    if rng.random() < 0.5:
        return Asked(form, form.instruction)
    return Asked(form, rng.choice(WORDINGS[type(form)]).format(*words_of(form)))


def words_of(form: AnswerFormat) -> tuple[str, ...]:
    """What an instruction names, in the order of its gaps."""
    match form:
        case TagFormat():
            return form.tags
        case JsonFormat():
            return form.reasoning_key, form.answer_key
        case LineFormat():
            return (form.word,)
        case HeadingFormat():
            return form.headings
    return ()
