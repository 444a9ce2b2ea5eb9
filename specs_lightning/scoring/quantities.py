"""Plain numbers with whatever unit and words stand beside them: read exactly, compared without a computer algebra
system."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from specs_lightning.scoring.text import plain
from specs_lightning.scoring.units import Unit, read_unit

MAX_LENGTH = 200
"""Characters; anything longer isn't a plain number, and Python refuses to read integers of thousands of digits."""
TOLERANCE = Fraction(2, 10**6)
"""Between decimals, relative below 1 and absolute above: 0.333333 is 1/3. Two integers are equal or they are not."""

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?!\d)|\d+)"
_TIMES = r"(?:\\times|\\cdot|\*|x)"
NUMBER = re.compile(
    r"(?:(?P<whole>\d+)\s*)?\\frac\s*\{\s*(?P<top>-?\d+)\s*\}\s*\{\s*(?P<bottom>\d+)\s*\}"
    r"|\\frac\s*(?P<top1>\d)\s*(?P<bottom1>\d)"
    r"|(?:(?P<whole2>\d+)\s+)?(?P<top2>\d+)\s*/\s*(?P<bottom2>\d+)"
    rf"|(?P<decimal>{_DIGITS}(?:\.\d+)?|\.\d+)"
    rf"(?:[eE](?P<exponent>[+-]?\d{{1,2}})(?!\w)|\s*{_TIMES}\s*10\s*\^\s*\{{?\s*(?P<exponent1>[+-]?\d{{1,2}})\s*\}}?)?"
)
_SIGN = re.compile(r"(?P<sign>[+-]|\b(?:negative|minus|positive)\b)?\s?(?P<currency>[€£¥$])?\s?$", re.IGNORECASE)
"""What belongs to the number that follows."""


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_SPELLED = (
    {word: value for value, word in enumerate(_SMALL)}
    | _TENS
    | {f"{ten}-{_SMALL[digit]}": value + digit for ten, value in _TENS.items() for digit in range(1, 10)}
    | {word: value for value, word in enumerate("零一二三四五六七八九十")}
)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "万": 4, "亿": 8}
_SCALE = re.compile(rf"\s*(?:(?P<scale>{'|'.join(_SCALES)})(?![A-Za-z])|(?P<dozen>dozen)\b)", re.IGNORECASE)
_NUMERIC_COMMAND = re.compile(r"\\(?:frac|sqrt|pi|cdot|times|div|pm|circ|%)(?![A-Za-z])|degrees")
_SEVERAL = re.compile(r"[,;](?!\d{3})|\b(?:and|or)\b")
_PERCENT = re.compile(r"\s*(?:%|percent\b|per cent\b)", re.IGNORECASE)
_VALUE_WORDS = _words_of(
    "and or to from over plus times divided dozen half halves third thirds quarter quarters fourth fourths fifth fifths"
    " sixth sixths eighth eighths tenth tenths squared cubed factorial root more less fewer greater than least most under"
    " above below between not no none never without if but because th st nd rd sqrt sin cos tan log mod am pm"
    " hundred thousand million billion trillion"
)
"""Words beside a number that change its value, or say that the answer isn't one number."""
_EMPTY_WORDS = _words_of(
    "the a an is are was were be there it its that this so thus has have had about approximately exactly roughly around"
    " only just in total all altogether square cubic unit units of by i we you they he she can see equals equal"
)
"""Words that say nothing of which number it is."""
_COPULAS = _words_of("is are was were be equals equal")
_CHANGES = _words_of(
    "increase decrease increased decreased increases decreases rise fall gain loss profit up down deficit surplus"
)
_MOST_WORDS = 12
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as written.

    Args:
        value: exact; 50 for "50 %".
        percent: whether a percent sign follows.
        unit: of measurement, where one is known.
        words: what else is said beside it ("red apples", "west", "increase"), in lower case and the singular.
    """

    value: Fraction
    percent: bool = False
    unit: Unit | None = None
    words: frozenset[str] = frozenset()


@lru_cache(maxsize=4096)
def read_quantity(text: str) -> Quantity | None:
    r"""The one plain number that an answer is: "28 cm", "1,234", "50\%", "\frac{3}{4}", "5 million", "x = 5".

    `None` of anything else: a list, an expression, words that make another number of it ("less than 5").
    """
    text = plain(text)
    if len(text) > MAX_LENGTH:
        return None
    text = value_of(text)
    if (spelled := text.casefold()) in _SPELLED:
        return Quantity(Fraction(_SPELLED[spelled]))
    match = next((m for m in NUMBER.finditer(text) if (value := number_value(m)) is not None), None)
    if match is None or (value := number_value(match)) is None:
        return None
    before = text[: match.start()]
    if re.search(r"[^\w\s':,+€£¥$-]|[\d_]|[A-Za-z]$", before):
        return None  # no words, or glued to them: the 1 of "A1" is no number
    return _with_words(value, before, text[match.end() :])


def value_of(text: str) -> str:
    """What stands behind the equals sign of "x = 5", "AB = 7 - 2 = 5" or "2 + 3 = 5"; an equation as it is.

    Only a single name, or nothing but numbers, may be left out on the left: the right side of x - y = 5 is not what it
    says.
    """
    *left, right = re.split(r"(?<![<>!:])=(?!=)|\\approx\b", text)
    if not left or not right.strip() or len(left) > 8 or (len(left) > 1 and _SEVERAL.search(text)):
        return text
    return right.strip() if is_name(left[0]) or all(map(is_numeric, left)) else text


def is_numeric(text: str) -> bool:
    """Whether an expression has no variables."""
    return re.search(r"[A-Za-z\\]", _NUMERIC_COMMAND.sub("", text)) is None


def is_name(text: str) -> bool:
    r"""Whether a text is the name of one value: x, AB, \angle ABC, S_{\triangle ABC}, f(x), area of ABC."""
    text = re.sub(r"_(?:\{[^{}]*\}|\w)", "", text)
    text = re.sub(r"(?<=\w)\([A-Za-z](?:,\s?[A-Za-z])*\)", "", text)
    return re.fullmatch(r"[\\\w\s'{}]{1,60}", text) is not None and not re.search(r"\d", text) and bool(text.strip())


def same_quantity(gold: Quantity, answer: Quantity, precision: int | None = None) -> bool:
    """Whether two quantities are equal: units converted where both are known, and left out otherwise.

    Words on both sides must not contradict each other: 3 apples are 3 red apples, not 3 pears. "50 %" equals both 50
    and 0.5, since golds leave the sign out as often as they divide. With a `precision` they need only agree to so many
    decimal places of the gold's unit.
    """
    if gold.words and answer.words and not (gold.words <= answer.words or answer.words <= gold.words):
        return False
    if gold.unit and answer.unit and gold.unit.powers and answer.unit.powers:
        in_gold_unit = answer.value * answer.unit.scale / gold.unit.scale
        return gold.unit.powers == answer.unit.powers and close(gold.value, in_gold_unit, precision)
    if (gold.unit and answer.words and not answer.unit) or (answer.unit and gold.words and not gold.unit):
        return False  # 5 km are not 5 people
    if close(gold.value, answer.value, precision):
        return True
    if gold.percent == answer.percent:
        return False
    shares = [q.value / 100 if q.percent else q.value for q in (gold, answer)]
    return close(shares[0], shares[1])


def close(left: Fraction, right: Fraction, precision: int | None = None) -> bool:
    """Whether two numbers are equal, as far as they are written; or to so many decimal places."""
    if precision is not None:
        return abs(left - right) <= Fraction(1, 2 * 10**precision)
    if left.denominator == right.denominator == 1:
        return left == right
    return abs(left - right) <= TOLERANCE * min(abs(left), Fraction(1))


def number_value(match: re.Match[str]) -> Fraction | None:
    """The value of what `NUMBER` has found; `None` of a division by zero."""
    if match["decimal"]:
        value = Fraction(re.sub("[, ]", "", match["decimal"]))
        return value * Fraction(10) ** int(match["exponent"] or match["exponent1"] or 0)
    bottom = int(match["bottom"] or match["bottom1"] or match["bottom2"])
    if bottom == 0:
        return None
    whole = int(match["whole"] or match["whole2"] or 0)
    return whole + Fraction(int(match["top"] or match["top1"] or match["top2"]), bottom)


def _with_words(value: Fraction, before: str, behind: str) -> Quantity | None:
    """A number with what stands on both sides of it; `None` where that makes something else of it."""
    sign = _SIGN.search(before)
    assert sign is not None  # it may be empty
    if (sign["sign"] or "").lower() in ("-", "negative", "minus"):
        value = -value
    before = before[: sign.start()]
    glued = bool(behind) and not behind[0].isspace()
    if scale := _SCALE.match(behind):
        value *= 12 if scale["dozen"] else 10 ** _SCALES[scale["scale"].lower()]
        behind = behind[scale.end() :]
    percent = _PERCENT.match(behind)
    if percent:
        behind = behind[percent.end() :]
    unit = None if percent else read_unit(behind)
    rest = unit[1] if unit else behind
    if glued and not (percent or scale or unit) and not _is_script_without_spaces(rest):
        return None  # "2x" is a product, "5th" is no number
    if unit is None and sign["currency"]:
        unit = read_unit(sign["currency"])
    words = _words(before, rest, after_unit=unit is not None)
    return None if words is None else Quantity(value, percent is not None, unit[0] if unit else None, words)


def _words(before: str, rest: str, after_unit: bool) -> frozenset[str] | None:
    """The words that say something; `None` where what stands there is not words, or words that change the number."""
    if re.search(r"[^\w\s(),.'-]|[\d_]", rest) or re.search(r"[^\w\s',:-]", before):
        return None
    leading, following = ([word.casefold() for word in _WORD.findall(part)] for part in (before, rest))
    words = {*leading, *following}
    if len(leading) + len(following) > _MOST_WORDS or not words.isdisjoint(_VALUE_WORDS):
        return None
    if not {"of", "by"}.isdisjoint(following):
        return None
    points_of_the_compass = after_unit and len(following) == 1 and following[0] in "nsew"
    if not points_of_the_compass and any(len(w) < 3 and w.isascii() and w not in _EMPTY_WORDS for w in following):
        return None  # "2 x" is a product
    if not _COPULAS.isdisjoint(leading):  # "the area is": what the number is of
        words = {*_CHANGES.intersection(leading), *following}
    elif any(len(word) == 1 and word.isascii() and word not in _EMPTY_WORDS for word in leading):
        return None  # "C 12" is a label and an option
    return frozenset(_singular(word) for word in words - _EMPTY_WORDS)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _is_script_without_spaces(text: str) -> bool:
    return bool(text) and not text[0].isascii()
