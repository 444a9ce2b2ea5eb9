"""How an answer is compared with the gold answer, by rules, from the cheapest and safest to the most general.

The same notation; the label of an option; a number with its unit; times, ranges, sequences; words. What they cannot
decide is left to math-verify (`Comparison`) or to a judge (`OtherWords`). An answer that cannot be read, to a gold
answer that can, is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import lru_cache

from specs_lightning.groups import Prompt
from specs_lightning.scoring.answer_search import find_answer, last_sentence
from specs_lightning.scoring.boxes import finds_objects, read_boxes
from specs_lightning.scoring.choices import LETTERS, picked_option
from specs_lightning.scoring.math_verify import Comparison, Verdict
from specs_lightning.scoring.quantities import (
    Quantity,
    close,
    is_name,
    is_numeric,
    read_quantity,
    same_quantity,
    value_of,
)
from specs_lightning.scoring.sequences import (
    Chain,
    Sequence,
    ratio_value,
    read_chain,
    read_range,
    read_sequence,
    read_time,
    same_chain,
    same_range,
    same_time,
)
from specs_lightning.scoring.text import (
    LONGEST,
    is_balanced,
    is_prose,
    is_vague,
    is_words,
    plain,
    same_notation,
    same_text,
    yes_or_no,
)
from specs_lightning.scoring.units import read_unit

ANSWER_TYPES = ("auto", "number", "choice", "text", "math", "boxes")
"""How answers are compared. "auto" decides by the gold answer; "text" compares words and never asks math-verify;
"number" and "math" compare values, and differ in what they take for a gold answer; "boxes" compares objects in an image
by IoU (`boxes`)."""
LONGEST_EXPRESSION = 300
"""Characters that math-verify is given: it takes time with the square of their number."""
_ORDER = re.compile(
    r"\b(?:order|arrange|rank|sort|sequence|respectively|ascending|descending|(?:smallest|least|lowest|shortest) to"
    r"|(?:largest|greatest|highest|longest) to)\b|依次|顺序|排列|从小到大|从大到小|分别",
    re.IGNORECASE,
)
_EQUALS = re.compile(r"(?<![<>!:])=(?!=)")
_INEQUALITY = re.compile(r"[<>]|\\(?:le|ge|neq)(?![A-Za-z])")
_BARE_DENOMINATOR = re.compile(r"(\\frac\{[^{}]*\})\s*(\\[A-Za-z]+|\w)")
_LAST_WORD = re.compile(r"(?<=[\w})])\s*(?<![A-Za-z\\])[A-Za-z°μΩ€](?:[A-Za-z°μΩ€/·-]|\^\{?-?\d\}?)*$")


@dataclass(frozen=True, slots=True)
class OtherWords:
    """An answer in other words than the gold's: only a judge can say whether they mean the same."""

    gold: str
    answer: str


Judged = Verdict | Comparison | OtherWords
"""A verdict, or a question for math-verify or a judge."""


def check_gold(answer: str | None, answer_type: str, choices: Seq[str] = ()) -> str | None:
    """Why a gold answer can't be used; `None` of one that can."""
    return _check_gold(answer, answer_type, tuple(choices))


@lru_cache(maxsize=4096)
def _check_gold(answer: str | None, answer_type: str, choices: tuple[str, ...]) -> str | None:
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
        return _check_value(answer)
    return None


def resolve_type(answer: str, answer_type: str, choices: Seq[str] = ()) -> str:
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
    if read_quantity(answer) is not None:
        return "number"
    if not is_prose(answer) or read_time(answer) or read_range(answer) or _EQUALS.search(answer):
        return "math"
    parts = read_sequence(answer)
    return "math" if parts and not any(is_prose(part) and not read_quantity(part) for part in parts.parts) else "text"


def judge_by_rules(response: str, prompt: Prompt) -> Judged:
    """What the rules say of a response, or the question that they leave to math-verify or a judge."""
    if cause := check_gold(prompt.answer, prompt.answer_type, prompt.choices):
        return Verdict(None, cause)
    assert prompt.answer is not None
    answer = find_answer(response, prompt.answer_format)
    if answer is None and prompt.answer_type == "boxes":
        answer = response  # a list over several lines
    if answer is None or not plain(answer):
        return Verdict(False)
    if prompt.choices and picked_option(answer, prompt.choices) is None:
        answer = _sentence_that_is_an_option(response, prompt.choices) or answer
    in_order = asks_for_order(prompt.text)
    return judge_answer(answer, prompt.answer, prompt.answer_type, prompt.choices, prompt.precision, in_order)


def _sentence_that_is_an_option(response: str, choices: Seq[str]) -> str | None:
    """The last sentence, if it says no more than what one option says: "Therefore, all figures are possible." """
    sentence = last_sentence(response)
    return sentence if sentence is not None and picked_option(sentence, choices) is not None else None


@lru_cache(maxsize=4096)
def asks_for_order(question: str) -> bool:
    """Whether a question asks to put things in an order, so that a list is no set."""
    return _ORDER.search(question) is not None


def judge_answer(
    answer: str,
    gold: str,
    answer_type: str = "auto",
    choices: Seq[str] = (),
    precision: int | None = None,
    in_order: bool = False,
) -> Judged:
    """The same for an answer that stands alone. The gold answer must be usable (`check_gold`).

    Args:
        precision: decimal places that must agree.
        in_order: the question asks for an order, so that a list is no set.
    """
    kind = resolve_type(gold, answer_type, choices)
    if kind == "boxes":
        return Verdict(finds_objects(answer, gold))
    if kind == "choice":
        return _judge_option(answer, gold, choices)
    if same_notation(answer, gold):
        return Verdict(True)
    if len(answer) > LONGEST:
        return Verdict(False)
    if kind == "text":
        return _judge_words(answer, gold)
    return _judge_value(answer, gold, precision, in_order)


def _judge_option(answer: str, gold: str, choices: Seq[str]) -> Judged:
    right = picked_option(gold, choices)
    picked = picked_option(answer, choices)
    if picked is not None or not choices or right is None:
        return Verdict(picked is not None and (picked == right or _are_one_option(picked, right, choices)))
    text = choices[right]
    if same_text(answer, text):  # the words of two options, which are the same
        return Verdict(True)
    # no label and no option's very words: the right option's value in another form still counts
    if resolve_type(text, "auto") in ("choice", "text"):
        return Verdict(False)
    return judge_answer(answer, text, "math")


def _are_one_option(picked: int, right: int | None, choices: Seq[str]) -> bool:
    """Whether two options have the same text, as one row of MathVista has them."""
    return bool(choices) and right is not None and choices[picked] == choices[right]


def _judge_words(answer: str, gold: str) -> Judged:
    if (said := yes_or_no(gold)) is not None:
        return Verdict(yes_or_no(answer) is said)
    quantity, gold_quantity = read_quantity(answer), read_quantity(gold)
    if quantity is not None and gold_quantity is not None:
        return Verdict(same_quantity(gold_quantity, quantity))
    if (parts := read_sequence(answer)) and (gold_parts := read_sequence(gold)):
        return _judge_sequence(parts, gold_parts, answer, gold, None, in_order=False)
    return Verdict(True) if same_text(answer, gold) else OtherWords(gold, answer)


def _judge_value(answer: str, gold: str, precision: int | None, in_order: bool) -> Judged:
    """By what both are: the first of the kinds that the gold answer is decides."""
    gold_quantity, quantity = read_quantity(gold), read_quantity(answer)
    if gold_quantity and quantity:
        return Verdict(not _names_differ(answer, gold) and same_quantity(gold_quantity, quantity, precision))
    if (gold_time := read_time(gold)) and (time := read_time(answer)):
        return Verdict(same_time(gold_time, time))
    if (gold_range := read_range(gold)) and (a_range := read_range(answer)):
        return Verdict(same_range(gold_range, a_range))
    if (verdict := _judge_chain(read_chain(answer), read_chain(gold), quantity, gold_quantity)) is not None:
        return verdict
    parts, gold_parts = read_sequence(answer), read_sequence(gold)
    if parts and gold_parts:
        return _judge_sequence(parts, gold_parts, answer, gold, precision, in_order)
    if any((gold_time, gold_range, read_time(answer), read_range(answer))):
        return Verdict(False)  # one of them is no single value, and the other is
    if is_words(answer) or not is_balanced(answer) or (gold_quantity and parts):
        return Verdict(False)
    return _judge_expression(answer, gold, precision)


def _judge_chain(
    answer: Chain | None, gold: Chain | None, quantity: Quantity | None, gold_quantity: Quantity | None
) -> Verdict | None:
    if gold and answer:
        return Verdict(same_chain(gold, answer))
    chain, number = gold or answer, gold_quantity or quantity
    if chain is None:
        return None
    value = ratio_value(chain)
    # a ratio of two is also a number; any other chain is no value at all
    return Verdict(value is not None and number is not None and close(value, number.value))


def _judge_sequence(
    answer: Sequence, gold: Sequence, text: str, gold_text: str, precision: int | None, in_order: bool
) -> Judged:
    if len(answer.parts) != len(gold.parts) or not _brackets_agree(answer, gold):
        return Verdict(False)

    def judge(part: str, gold_part: str) -> Judged:
        return judge_answer(part, gold_part, "text" if is_words(gold_part) else "math", precision=precision)

    pairs = list(zip(answer.parts, gold.parts, strict=True))
    ordered = in_order or gold.ordered or (answer.ordered and answer.brackets != "")
    if not ordered:
        pairs = _matched(list(answer.parts), list(gold.parts), judge)
    judged = [judge(part, gold_part) for part, gold_part in pairs]
    if any(one == Verdict(False) for one in judged):
        return Verdict(False)
    open_questions = [one for one in judged if isinstance(one, Comparison)]
    if any(isinstance(one, OtherWords) for one in judged):
        return OtherWords(gold_text, text)
    if not open_questions:
        return next((one for one in judged if isinstance(one, Verdict) and one.correct is None), Verdict(True))
    if len(open_questions) == 1:
        return open_questions[0]
    left, right = ("(", ")") if ordered else (r"\{", r"\}")
    golds, answers = (", ".join(parts) for parts in zip(*((q.gold, q.answer) for q in open_questions), strict=True))
    return Comparison(f"{left}{golds}{right}", f"{left}{answers}{right}", precision)


def _brackets_agree(answer: Sequence, gold: Sequence) -> bool:
    """An interval has its ends, a set is no tuple; a bare list may be anything."""
    one, other = answer.brackets, gold.brackets
    if not one or not other or one == other:
        return True
    return len(gold.parts) > 2 and {one, other} == {"()", "[]"}


def _matched(answer: list[str], gold: list[str], judge: Callable[[str, str], Judged]) -> list[tuple[str, str]]:
    """Each part of the gold answer with the answer's part that is right, in whatever order; the others as they come."""
    pairs, left = [], []
    for gold_part in gold:
        place = next((i for i, part in enumerate(answer) if judge(part, gold_part) == Verdict(True)), None)
        if place is None:
            left.append(gold_part)
        else:
            pairs.append((answer.pop(place), gold_part))
    return [*pairs, *zip(answer, left, strict=True)]


def _judge_expression(answer: str, gold: str, precision: int | None) -> Judged:
    """By math-verify, if both are expressions, both equations or both inequalities."""
    is_equation = [_is_equation(text) for text in (gold, answer)]
    if is_equation[0] != is_equation[1] or _names_differ(answer, gold):
        return Verdict(False)
    if not is_equation[0]:
        gold, answer = value_of(plain(gold)), value_of(plain(answer))
    is_inequality = [_INEQUALITY.search(text) is not None for text in (gold, answer)]
    if is_inequality[0] != is_inequality[1] and not any(
        read_sequence(text) or "cup" in text for text in (gold, answer)
    ):
        return Verdict(False)
    expressions = [_expression(text) for text in (gold, answer)]
    if same_notation(*expressions):
        return Verdict(True)
    if max(map(len, expressions)) > LONGEST_EXPRESSION:
        return Verdict(False)
    return Comparison(expressions[0], expressions[1], places=precision)


def _is_equation(text: str) -> bool:
    """Whether an equals sign is part of what the answer says: x - y = 5, not x = 5."""
    text = plain(text)
    return _EQUALS.search(value_of(text)) is not None


def _names_differ(answer: str, gold: str) -> bool:
    """Whether both say what their value is of, and it isn't the same: AB = 5, CD = 5. An angle has several names."""
    names = []
    for text in (gold, answer):
        left, equals, _ = plain(text).partition("=")
        if not equals or not is_name(left):
            return False
        names.append(re.sub(r"\\[A-Za-z]+|[\s{}_]", "", left))
    if len(names[0]) != len(names[1]) or not all(re.fullmatch(r"[A-Za-z]{1,4}", name) for name in names):
        return False
    return sorted(names[0]) != sorted(names[1])


def _check_value(answer: str) -> str | None:
    if read_quantity(answer) is not None or read_chain(answer) is not None:
        return None
    if not is_balanced(answer):
        return f"the gold answer {answer!r} has unbalanced braces"
    if not any(character.isalnum() for character in answer):
        return f"the gold answer {answer!r} is not an expression"
    return None


def _expression(text: str) -> str:
    r"""An answer for math-verify: a number as such, anything else without the unit behind it."""
    if (quantity := read_quantity(text)) is not None:
        return str(quantity.value)
    text = _BARE_DENOMINATOR.sub(r"\1{\2}", plain(text).replace(" degrees", r"^\circ"))
    if (unit := _LAST_WORD.search(text)) is None:
        return text
    number, read = text[: unit.start()], read_unit(unit[0])
    # variables stand for what they like: only behind a number is a letter a unit
    is_unit = read is not None and not read[1].strip() and re.search(r"\d|\\pi", number) and is_numeric(number)
    return number.strip() if is_unit else text
