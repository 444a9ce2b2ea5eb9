"""Answers of several parts: times of day, ranges, scores, dates and ratios; tuples, intervals, sets and lists.

They are never calculated: 10-20 is no difference, 3:30 PM no ratio, 2021-03-05 no sum.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from specs_lightning.scoring.quantities import MAX_LENGTH, Quantity, read_quantity, same_quantity
from specs_lightning.scoring.text import plain

_TIME = re.compile(
    r"(?:at\s+)?(?P<hour>\d{1,2})(?::(?P<minute>[0-5]\d))?(?::(?P<second>[0-5]\d))?\s*(?P<half>[ap])\.?\s?m\b\.?",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"(?P<hour>\d{1,2}):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?")
_NUMBER = r"\d+(?:\.\d+)?"
_CHAIN = re.compile(rf"{_NUMBER}(?:\s*(?P<mark>[:/-])\s*{_NUMBER})(?:\s*(?P=mark)\s*{_NUMBER})*")
_RANGE = re.compile(r"(?<=[\w%)}.°])\s*(?:-|\bto\b|至|到)\s*(?=[-€£¥$]?\s?[\d.])")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_PARTS = re.compile(r"\\[{}]|[()\[\]{}]|(?P<mark>[,;&]|\\\\|\n|\b(?:and|or)\b|和|或)", re.IGNORECASE)

_GROUPS_DIGITS = re.compile(r"\d,\d{3}(?!\d)")


@dataclass(frozen=True, slots=True)
class Time:
    """A time of day, in seconds from midnight; by a clock of twelve hours, where nothing says which half is meant."""

    seconds: int
    half: Literal["a", "p"] | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """Numbers joined by one mark: a ratio or score ("3:2"), a date ("2021-03-05")."""

    numbers: tuple[Fraction, ...]
    mark: str


@dataclass(frozen=True, slots=True)
class Range:
    """From one quantity to another: "10-20 cm", "7 am to 5 pm"."""

    low: str
    high: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """Parts between brackets, or in a row.

    Args:
        parts: as they are written.
        brackets: the opening and the closing one; empty of a bare list.
        ordered: whether the order says something, as far as the brackets and the parts tell.
    """

    parts: tuple[str, ...]
    brackets: str
    ordered: bool


@lru_cache(maxsize=4096)
def read_time(text: str) -> Time | None:
    """The time of day that an answer is: "3:30 PM", "7 a.m.", "15:30"."""
    text = plain(text)
    if (match := _TIME.fullmatch(text)) is None and (match := _CLOCK.fullmatch(text)) is None:
        return None
    half = (match.groupdict().get("half") or "").lower()
    hour = int(match["hour"])
    if hour > (12 if half else 23):
        return None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    return Time(3600 * hour + 60 * int(match["minute"] or 0) + int(match["second"] or 0), half or None)  # type: ignore[arg-type]


def same_time(gold: Time, answer: Time) -> bool:
    """Whether two times are the same; the half of the day may be left out on one side."""
    if gold.half and answer.half:
        return gold.seconds == answer.seconds
    return (gold.seconds - answer.seconds) % (12 * 3600) == 0 if gold.half or answer.half else gold == answer


@lru_cache(maxsize=4096)
def read_chain(text: str) -> Chain | None:
    """Numbers joined by one mark; `None` of anything else, a fraction included."""
    text = plain(text)
    if len(text) > MAX_LENGTH or (match := _CHAIN.fullmatch(text)) is None:
        return _in_words(text)
    numbers = tuple(map(Fraction, re.findall(_NUMBER, text)))
    return None if match["mark"] == "/" and len(numbers) == 2 else Chain(numbers, match["mark"])


def _in_words(text: str) -> Chain | None:
    match = re.fullmatch(rf"({_NUMBER})\s+to\s+({_NUMBER})", text)
    return None if match is None else Chain((Fraction(match[1]), Fraction(match[2])), "to")


def same_chain(gold: Chain, answer: Chain) -> bool:
    """Whether two chains are the same numbers; an answer's ratio may be reduced to the gold's.

    The gold is never reduced: 3:45 may be a time of day, and is not 1:15 then.
    """
    marks = {gold.mark, answer.mark}
    if len(marks) > 1 and marks != {"-", "/"} and "to" not in marks:
        return False
    if gold.numbers == answer.numbers:
        return True
    if "-" in marks or "/" in marks or any(number.denominator > 1 for number in answer.numbers):
        return False
    divisor = math.gcd(*(number.numerator for number in answer.numbers)) or 1
    return gold.numbers == tuple(number / divisor for number in answer.numbers)


def ratio_value(chain: Chain) -> Fraction | None:
    """What a ratio of two numbers is as a number."""
    if chain.mark not in (":", "to") or len(chain.numbers) != 2 or chain.numbers[1] == 0:
        return None
    return chain.numbers[0] / chain.numbers[1]


@lru_cache(maxsize=4096)
def read_range(text: str) -> Range | None:
    """From one quantity or time to another; `None` of anything else."""
    text = plain(text)
    if len(text) > MAX_LENGTH:
        return None
    text = re.sub(r"^(?:from|between)\s+", "", text)
    parts = _RANGE.split(text)
    if len(parts) != 2 or not all(read_quantity(part) or read_time(part) for part in parts):
        return None
    return Range(*parts)


def same_range(gold: Range, answer: Range) -> bool:
    """Whether both ends are the same. A unit at the end of one is that of its beginning as well."""
    return all(
        _same_end(one, other, gold.high, answer.high)
        for one, other in ((gold.low, answer.low), (gold.high, answer.high))
    )


def _same_end(gold: str, answer: str, gold_high: str, answer_high: str) -> bool:
    times = read_time(gold), read_time(answer)
    if times[0] and times[1]:
        return same_time(times[0], times[1])
    quantities = _with_unit_of(gold, gold_high), _with_unit_of(answer, answer_high)
    return quantities[0] is not None and quantities[1] is not None and same_quantity(quantities[0], quantities[1])


def _with_unit_of(text: str, high: str) -> Quantity | None:
    quantity, other = read_quantity(text), read_quantity(high)
    if quantity is None or other is None or quantity.unit or quantity.percent or quantity.words:
        return quantity
    return Quantity(quantity.value, other.percent, other.unit, other.words)


@lru_cache(maxsize=4096)
def read_sequence(text: str) -> Sequence | None:
    r"""The parts of a tuple, an interval, a set or a list: "(1, 2)", "[0, 1)", "\{1, 2\}", "1, 2 and 3", lines.

    `None` of an answer of one part.
    """
    lines = [plain(line) for line in text.splitlines() if plain(line)]
    text = "\n".join(lines) if 1 < len(lines) <= 50 else plain(text)
    text = text.replace("\\{", "{").replace("\\}", "}").strip()
    brackets = ""
    if (closes := _outer_bracket(text)) is not None:
        brackets, text = text[0] + closes, text[1:-1].strip()
    parts, marks = _split(text)
    if len(parts) < 2 or not all(parts):
        return None
    ordered = bool(brackets) and brackets != "{}"
    if not brackets and not {"and", "or", "和", "或"} & {mark.lower() for mark in marks}:
        ordered = _says_an_order(parts)
    return Sequence(tuple(parts), brackets, ordered)


def _outer_bracket(text: str) -> str | None:
    """What closes the bracket that the text begins with, if that is at its end; (0, 1] closes as an interval does."""
    if text[:1] not in _CLOSING or len(text) < 2:
        return None
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return character if place == len(text) - 1 else None
    return None


def _split(text: str) -> tuple[list[str], list[str]]:
    """The parts between commas and their kin outside of all brackets, and what separates them."""
    parts, marks, depth, start = [], [], 0, 0
    for match in _PARTS.finditer(text):
        if match["mark"] is None:
            depth += (match[0][-1] in "([{") - (match[0][-1] in ")]}")
        elif depth == 0 and not (
            match[0] == "," and re.match(r"\d{3}(?!\d)", text[match.end() :]) and text[: match.start()][-1:].isdigit()
        ):
            parts.append(text[start : match.start()].strip())
            marks.append(match[0])
            start = match.end()
    parts.append(text[start:].strip())
    if len(parts) > 2 and not parts[-2] and marks[-1].lower() in ("and", "or"):  # "1, 2, and 3"
        del parts[-2]
    return parts, marks


def _says_an_order(parts: list[str]) -> bool:
    """Whether a bare list of three parts or more is one that nobody would write of a set: neither up nor down."""
    if len(parts) < 3:
        return False
    keys: list[Fraction] | list[str]
    quantities = [read_quantity(part) for part in parts]
    if all(quantities):
        keys = [quantity.value for quantity in quantities if quantity is not None]
    elif all(re.fullmatch(r"\(?[A-Za-z]\)?", part) for part in parts):
        keys = [part.strip("()").lower() for part in parts]
    else:
        return False
    return keys != sorted(keys) and keys != sorted(keys, reverse=True)  # type: ignore[type-var]
