"""How an answer is compared with the gold answer, by rules: options, yes and no, words, plain numbers.

What they cannot decide is left to math-verify (`Comparison`) or to a judge (`OtherWords`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specs_lightning.groups import Prompt
from specs_lightning.scoring.answer_formats import find_answer
from specs_lightning.scoring.boxes import finds_objects, read_boxes
from specs_lightning.scoring.choices import LETTERS, picked_option
from specs_lightning.scoring.math_verify import Comparison, MathVerifier, Verdict
from specs_lightning.scoring.quantities import read_quantity, read_ratio, same_quantity, same_ratio
from specs_lightning.scoring.text import clean, is_balanced, is_vague, is_words, plain, same_text, yes_or_no

ANSWER_TYPES = ("auto", "number", "choice", "text", "math", "boxes")
"""How answers are compared. "auto" decides by the gold answer; "text" compares words and never asks math-verify;
"number" and "math" compare values, and differ in what they take for a gold answer; "boxes" compares objects in an image
by IoU (`boxes`)."""


@dataclass(frozen=True, slots=True)
class OtherWords:
    """An answer in other words than the gold's: only a judge can say whether they mean the same."""

    gold: str
    answer: str


def check_gold(
    answer: str | None, answer_type: str, choices: Sequence[str] = (), verifier: MathVerifier | None = None
) -> str | None:
    """Why a gold answer can't be used; `None` of one that can.

    With a verifier, math-verify must also be able to parse an expression that the rules can't compare.
    """
    if answer_type not in ANSWER_TYPES:
        return f"unknown answer type {answer_type!r}; there are: {', '.join(ANSWER_TYPES)}"
    if answer is None or not plain(answer):
        return "the gold answer is empty"
    if answer_type == "boxes":
        return None if read_boxes(answer) else f"the gold answer {answer[:80]!r} is no list of boxes with labels"
    kind = resolve_type(answer, answer_type, choices)
    if kind != "choice" and is_vague(answer):
        return f"the gold answer {answer!r} says about what, not what"
    if answer_type == "number" and kind == "text" and yes_or_no(answer) is None:
        return f"the gold answer {answer!r} is not a number"
    if kind == "choice" and picked_option(answer, choices) is None:
        known = f"one of the {len(choices)} options" if choices else "an option letter"
        return f"the gold answer {answer!r} is not {known}"
    if kind in ("number", "math"):
        return _check_value(answer, kind, verifier)
    return None


def resolve_type(answer: str, answer_type: str, choices: Sequence[str] = ()) -> str:
    """The type by which to compare: what "auto" stands for given this gold answer, and "text" for words anywhere.

    Words never go to math-verify, which reads them as products of letters and finds anagrams equal.
    """
    if answer_type in ("choice", "text", "boxes"):
        return answer_type
    bare_letter = plain(answer).strip("(). ") in set(LETTERS)
    is_option = bool(choices) and picked_option(answer, choices) is not None
    if answer_type == "auto" and (bare_letter or is_option):
        return "choice"
    if yes_or_no(answer) is not None or is_words(answer):
        return "text"
    return "number" if read_quantity(answer) is not None else "math"


def judge_by_rules(response: str, prompt: Prompt) -> Verdict | Comparison | OtherWords:
    """What the rules say of a response, or the question that they leave to math-verify or a judge."""
    if cause := check_gold(prompt.answer, prompt.answer_type, prompt.choices):
        return Verdict(None, cause)
    assert prompt.answer is not None
    answer = find_answer(response, prompt.answer_format)
    if answer is None and prompt.answer_type == "boxes":
        answer = response  # a list over several lines
    if answer is None or not plain(answer):
        return Verdict(False)
    return judge_answer(answer, prompt.answer, prompt.answer_type, prompt.choices, prompt.precision)


def judge_answer(
    answer: str, gold: str, answer_type: str = "auto", choices: Sequence[str] = (), precision: int | None = None
) -> Verdict | Comparison | OtherWords:
    """The same for an answer that stands alone. The gold answer must be usable (`check_gold`)."""
    kind = resolve_type(gold, answer_type, choices)
    if kind == "boxes":
        return Verdict(finds_objects(answer, gold))
    if kind == "choice":
        return _judge_option(answer, gold, choices)
    if kind == "text":
        return _judge_words(answer, gold)
    gold_quantity, quantity = read_quantity(gold), read_quantity(answer)
    if gold_quantity is not None and quantity is not None:
        return Verdict(same_quantity(gold_quantity, quantity, precision))
    gold_ratio, ratio = read_ratio(gold), read_ratio(answer)
    if gold_ratio is not None and ratio is not None:
        return Verdict(same_ratio(gold_ratio, ratio))
    several_terms = max(len(gold_ratio or ()), len(ratio or ())) > 2  # 1:2:3 has no one value
    if several_terms or is_words(answer) or not is_balanced(answer):
        return Verdict(False)
    return Comparison(_expression(gold), _expression(answer))


def _judge_option(answer: str, gold: str, choices: Sequence[str]) -> Verdict | Comparison | OtherWords:
    right = picked_option(gold, choices)
    picked = picked_option(answer, choices)
    if picked is not None or not choices or right is None:
        return Verdict(picked is not None and picked == right)
    # no label and no option's very words: the right option's value in another form still counts
    text = choices[right]
    if resolve_type(text, "auto") in ("choice", "text"):
        return Verdict(False)
    return judge_answer(answer, text, "math")


def _judge_words(answer: str, gold: str) -> Verdict | OtherWords:
    if (said := yes_or_no(gold)) is not None:
        return Verdict(yes_or_no(answer) is said)
    quantity, gold_quantity = read_quantity(answer), read_quantity(gold)
    if quantity is not None and gold_quantity is not None:
        return Verdict(same_quantity(gold_quantity, quantity))
    return Verdict(True) if same_text(answer, gold) else OtherWords(gold, answer)


def _check_value(answer: str, kind: str, verifier: MathVerifier | None) -> str | None:
    if read_quantity(answer) is not None or read_ratio(answer) is not None:
        return None
    if not is_balanced(answer):
        return f"the gold answer {answer!r} has unbalanced braces"
    if not any(character.isalnum() for character in answer):
        return f"the gold answer {answer!r} is not an expression"
    if verifier is None:
        return None
    expression = _expression(answer)
    return verifier.compare([Comparison(expression, expression)])[0].cause


def _expression(text: str) -> str:
    r"""An answer for math-verify: without spaces around a ratio's colon, which it would stop reading at."""
    return ":".join(part.strip() for part in clean(text).split(":"))
