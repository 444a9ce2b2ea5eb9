"""Plain numbers, with or without a unit, and ratios: read exactly and compared without a computer algebra system."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from specs_lightning.scoring.text import plain

MAX_LENGTH = 200
"""Characters; anything longer isn't a plain number, and Python refuses to read integers of thousands of digits."""
TOLERANCE = Fraction(2, 10**6)
"""Between decimals, relative below 1 and absolute above: 0.333333 is 1/3. Two integers are equal or they are not."""

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*[€£¥]?\s*(?:"
    rf"(?:(?P<whole>\d+)\s*)?\\frac\s*\{{\s*(?P<top>-?\d+)\s*\}}\s*\{{\s*(?P<bottom>\d+)\s*\}}"
    rf"|\\frac\s*(?P<top1>\d)\s*(?P<bottom1>\d)"
    rf"|(?:(?P<whole2>\d+)\s+)?(?P<top2>\d+)\s*/\s*(?P<bottom2>\d+)"
    rf"|(?P<decimal>{_DIGITS}(?:\.\d+)?|\.\d+)"
    r"(?:[eE](?P<exponent>[+-]?\d{1,2})(?!\w)|\s*\\times\s*10\s*\^\s*\{?\s*(?P<exponent1>[+-]?\d{1,2})\s*\}?)?"
    rf")(?P<unit>(?P<gap>\s*)\S.*)?"
)
_SPELLED = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_EQUALS = re.compile(r"(?<![<>!:])=|\\approx\b")
_SEVERAL = re.compile(r"[,;](?!\d{3})|\b(?:and|or)\b")
_UNIT = re.compile(
    r"(?:square\s+(?P<square>))?(?P<name>[^\W\d_]+(?:\s+[^\W\d_]+){0,3})\.?\s*(?:\^?\{?(?P<power>[23])\}?)?"
)

_SCALES = {
    "m": {"mm": "1/1000", "cm": "1/100", "dm": "1/10", "m": "1", "km": "1000", "meter": "1", "metre": "1"},
    "inch": {"inch": "1", "in": "1", "ft": "12", "foot": "12", "feet": "12", "yard": "36"},
    "g": {"mg": "1/1000", "g": "1", "gram": "1", "kg": "1000"},
    "l": {"ml": "1/1000", "l": "1", "liter": "1", "litre": "1"},
    "s": {"s": "1", "sec": "1", "second": "1", "min": "60", "minute": "60", "h": "3600", "hour": "3600"},
    "degree": {"degree": "1", "deg": "1"},
    "dollar": {"cent": "1/100", "dollar": "1"},
}
_UNITS = {name: (kind, Fraction(scale)) for kind, scales in _SCALES.items() for name, scale in scales.items()}
_NOT_UNIT = re.compile(
    r"\b(?:and|or|to|from|of|by|over|plus|minus|times|divided|hundred|thousand|million|billion|trillion|dozen|half|halves"
    r"|thirds?|quarters?|fourths?|fifths?|sixths?|eighths?|tenths?|squared|cubed|factorial|root|more|less|not|none|if|but"
    r"|because|th|st|nd|rd|sqrt|sin|cos|tan|log|mod)\b"
)
"""Words after a number that change its value, or say that the answer isn't one number."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as written.

    Args:
        value: exact; 50 for "50 %".
        percent: whether a percent sign follows.
        kind: the physical kind of its unit with its power ("m^2"); `None` without a unit or with an unknown one.
        scale: the unit in its kind's base unit.
    """

    value: Fraction
    percent: bool = False
    kind: str | None = None
    scale: Fraction = Fraction(1)


def read_quantity(text: str) -> Quantity | None:
    r"""The one plain number that an answer is: "28 cm", "1,234", "50\%", "\frac{3}{4}", "1 1/2", "x = 5".

    `None` of anything else: a list, an expression, a number with a scale word ("5 million").
    """
    text = plain(text)
    if len(text) > MAX_LENGTH:
        return None
    if (spelled := text.casefold()) in _SPELLED:
        return Quantity(Fraction(_SPELLED.index(spelled)))
    if not _SEVERAL.search(text):
        text = _EQUALS.split(text)[-1].strip()
    if (match := _NUMBER.fullmatch(text)) is None or (value := _value(match)) is None:
        return None
    unit = (match["unit"] or "").strip()
    if not unit:
        return Quantity(value)
    if re.fullmatch(r"%|percent|per cent", unit):
        return Quantity(value, percent=True)
    return _with_unit(value, unit, glued=not match["gap"])


def same_quantity(gold: Quantity, answer: Quantity, precision: int | None = None) -> bool:
    """Whether two quantities are equal: units converted where both are known, and left out otherwise.

    "50 %" equals both 50 and 0.5, since golds leave the sign out as often as they divide. With a `precision` they need
    only agree to so many decimal places of the gold's unit.
    """
    if gold.kind and answer.kind:
        in_gold_unit = answer.value * answer.scale / gold.scale
        return gold.kind == answer.kind and _close(gold.value, in_gold_unit, precision)
    if _close(gold.value, answer.value, precision):
        return True
    if gold.percent == answer.percent:
        return False
    shares = [q.value / 100 if q.percent else q.value for q in (gold, answer)]
    return _close(shares[0], shares[1])


def read_ratio(text: str) -> tuple[int, ...] | None:
    """The whole terms of a ratio ("3 : 2", "1:2:3"); `None` of anything else."""
    text = plain(text)
    if len(text) > MAX_LENGTH or not re.fullmatch(r"\d+(?:\s*:\s*\d+)+", text):
        return None
    return tuple(int(term) for term in text.split(":"))


def same_ratio(gold: tuple[int, ...], answer: tuple[int, ...]) -> bool:
    """Whether the answer gives the gold's terms, as written or in lowest terms.

    The gold is never reduced: 3:45 may be a time of day, and is not 1:15 then.
    """
    divisor = math.gcd(*answer) or 1
    return gold in (answer, tuple(term // divisor for term in answer))


def _close(left: Fraction, right: Fraction, precision: int | None = None) -> bool:
    if precision is not None:
        return abs(left - right) <= Fraction(1, 2 * 10**precision)
    if left.denominator == right.denominator == 1:
        return left == right
    return abs(left - right) <= TOLERANCE * min(abs(left), Fraction(1))


def _value(match: re.Match[str]) -> Fraction | None:
    if match["decimal"]:
        value = Fraction(re.sub("[, ]", "", match["decimal"]))
        value *= Fraction(10) ** int(match["exponent"] or match["exponent1"] or 0)
    else:
        bottom = int(match["bottom"] or match["bottom1"] or match["bottom2"])
        if bottom == 0:
            return None
        whole = int(match["whole"] or match["whole2"] or 0)
        value = whole + Fraction(int(match["top"] or match["top1"] or match["top2"]), bottom)
    return -value if match["sign"] == "-" else value


def _with_unit(value: Fraction, unit: str, glued: bool) -> Quantity | None:
    above, per, below = unit.partition("/")
    if per:
        top, bottom = (_with_unit(Fraction(1), part.strip(), glued=False) for part in (above, below))
        if top is None or bottom is None or top.kind is None or bottom.kind is None:
            return None
        return Quantity(value, kind=f"{top.kind}/{bottom.kind}", scale=top.scale / bottom.scale)
    if (match := _UNIT.fullmatch(unit)) is None:
        return None
    name = match["name"].casefold()
    known = _UNITS.get(name) or _UNITS.get(name.removesuffix("s")) or _UNITS.get(name.removesuffix("es"))
    if known is None:
        # "2x" and "2 x" are products, "30 apples" is a number of apples
        is_unit = not glued and not _NOT_UNIT.search(name) and len(name) > 2
        return Quantity(value) if is_unit else None
    power = 2 if match["square"] is not None else int(match["power"] or 1)
    kind, scale = known
    return Quantity(value, kind=kind if power == 1 else f"{kind}^{power}", scale=scale**power)
