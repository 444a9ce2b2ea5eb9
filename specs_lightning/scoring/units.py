"""Units of measurement: read where they stand behind a number, and turned into one another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

Powers = dict[str, int]
"""Of base units: {"m": 1, "s": -2}."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as a multiple of base units.

    Args:
        scale: how many of its base units it is.
        powers: the base units with their powers, sorted; empty of a letter that several units share ("C").
    """

    scale: Fraction = Fraction(1)
    powers: tuple[tuple[str, int], ...] = ()

    def times(self, other: Unit, power: int = 1) -> Unit:
        """The product with a power of another."""
        powers = dict(self.powers)
        for name, own in other.powers:
            powers[name] = powers.get(name, 0) + own * power
        return Unit(self.scale * other.scale**power, tuple(sorted((n, p) for n, p in powers.items() if p)))


_PREFIXES = {"n": "1e-9", "μ": "1e-6", "m": "1e-3", "c": "1e-2", "d": "1e-1", "k": "1e3", "M": "1e6", "G": "1e9"}
_BASES: dict[str, tuple[str, str, Powers]] = {
    # symbol: the prefixes that it is used with, its scale, base units
    "m": ("nμmcdk", "1", {"m": 1}),
    "g": ("μmk", "1", {"g": 1}),
    "s": ("nμm", "1", {"s": 1}),
    "A": ("μmk", "1", {"A": 1}),
    "K": ("m", "1", {"K": 1}),
    "mol": ("μmk", "1", {"mol": 1}),
    "L": ("μmcd", "1e-3", {"m": 3}),
    "l": ("mcd", "1e-3", {"m": 3}),
    "Hz": ("kMG", "1", {"s": -1}),
    "N": ("mkM", "1000", {"g": 1, "m": 1, "s": -2}),
    "J": ("mkM", "1000", {"g": 1, "m": 2, "s": -2}),
    "eV": ("kMG", "1.602176634e-16", {"g": 1, "m": 2, "s": -2}),
    "cal": ("k", "4184", {"g": 1, "m": 2, "s": -2}),
    "W": ("mkMG", "1000", {"g": 1, "m": 2, "s": -3}),
    "Wh": ("kMG", "3600000", {"g": 1, "m": 2, "s": -2}),
    "Pa": ("hkMG", "1000", {"g": 1, "m": -1, "s": -2}),
    "V": ("μmkM", "1000", {"g": 1, "m": 2, "s": -3, "A": -1}),
    "Ω": ("mkM", "1000", {"g": 1, "m": 2, "s": -3, "A": -2}),
    "T": ("μm", "1000", {"g": 1, "s": -2, "A": -1}),
    "Wb": ("m", "1000", {"g": 1, "m": 2, "s": -2, "A": -1}),
    "bit": ("", "1", {"bit": 1}),
}
_LENGTH, _MASS, _TIME = {"m": 1}, {"g": 1}, {"s": 1}
_OTHERS: dict[str, tuple[str, Powers]] = {
    "h": ("3600", _TIME),
    "min": ("60", _TIME),
    "in": ("0.0254", _LENGTH),
    "ft": ("0.3048", _LENGTH),
    "yd": ("0.9144", _LENGTH),
    "mi": ("1609.344", _LENGTH),
    "oz": ("28.349523125", _MASS),
    "lb": ("453.59237", _MASS),
    "t": ("1e6", _MASS),
    "atm": ("101325000", {"g": 1, "m": -1, "s": -2}),
    "rad": ("1", {"radian": 1}),
    "rpm": ("1", {"rpm": 1}),
    "mph": ("0.44704", {"m": 1, "s": -1}),
    "€": ("1", {"euro": 1}),
    "£": ("1", {"pound sterling": 1}),
    "¥": ("1", {"yuan": 1}),
    "$": ("1", {"dollar": 1}),
    "hPa": ("100000", {"g": 1, "m": -1, "s": -2}),
}
_NAMES: dict[str, str] = {
    # symbol: the words for it; without case and in the plural, too
    "m": "meter metre 米",
    "mm": "millimeter millimetre 毫米",
    "cm": "centimeter centimetre 厘米",
    "dm": "decimeter decimetre 分米",
    "km": "kilometer kilometre 千米 公里",
    "in": "inch",
    "ft": "foot feet",
    "yd": "yard",
    "mi": "mile",
    "g": "gram gm 克",
    "mg": "milligram 毫克",
    "kg": "kilogram kilo 千克 公斤",
    "t": "ton tonne 吨",
    "lb": "lbs",
    "oz": "ounce",
    "L": "liter litre 升",
    "mL": "milliliter millilitre 毫升",
    "s": "second sec 秒",
    "ms": "millisecond",
    "min": "minute 分钟 分",
    "h": "hour hr 小时 时",
    "A": "ampere amp 安",
    "V": "volt 伏",
    "W": "watt 瓦",
    "kW": "kilowatt",
    "kWh": "kwh",
    "Hz": "hertz 赫兹",
    "N": "newton 牛",
    "J": "joule 焦",
    "kJ": "kilojoule",
    "Pa": "pascal 帕",
    "K": "kelvin",
    "Ω": "ohm 欧",
    "T": "tesla",
    "mol": "mole 摩尔",
    "cal": "calorie",
    "kcal": "kilocalorie",
    "rad": "radian",
    "€": "euro eur 欧元",
    "£": "gbp",
    "¥": "yuan yen rmb cny 元",
    "$": "dollar usd 美元",
}
_WORDS: dict[str, tuple[str, Powers]] = {
    "degree": ("1", {"degree": 1}),
    "deg": ("1", {"degree": 1}),
    "度": ("1", {"degree": 1}),
    "degrees C": ("1", {"Celsius": 1}),
    "degrees F": ("1", {"Fahrenheit": 1}),
    "degrees celsius": ("1", {"Celsius": 1}),
    "degrees fahrenheit": ("1", {"Fahrenheit": 1}),
    "celsius": ("1", {"Celsius": 1}),
    "摄氏度": ("1", {"Celsius": 1}),
    "fahrenheit": ("1", {"Fahrenheit": 1}),
    "cent": ("1/100", {"dollar": 1}),
    "day": ("86400", _TIME),
    "天": ("86400", _TIME),
    "week": ("604800", _TIME),
    "month": ("1", {"month": 1}),
    "year": ("1", {"year": 1}),
    "年": ("1", {"year": 1}),
    "gallon": ("1", {"gallon": 1}),
}
_SHARED = "C F H S"
"""Letters of several units (coulomb, Celsius): read as a unit, of which nothing is known."""


def _table() -> tuple[dict[str, Unit], dict[str, Unit]]:
    """Units by symbol, and by word in lower case."""

    def unit(scale: str, powers: Powers) -> Unit:
        return Unit(Fraction(scale), tuple(sorted(powers.items())))

    symbols = {name: unit(scale, powers) for name, (scale, powers) in _OTHERS.items()}
    for name, (prefixes, scale, powers) in _BASES.items():
        symbols[name] = unit(scale, powers)
        symbols |= {
            prefix + name: Unit(symbols[name].scale * Fraction(_PREFIXES[prefix]), symbols[name].powers)
            for prefix in prefixes
            if prefix in _PREFIXES
        }
    words = {word: symbols[symbol] for symbol, text in _NAMES.items() for word in text.split()}
    words |= {word.lower(): unit(scale, powers) for word, (scale, powers) in _WORDS.items()}
    plurals = {word + end: one for word, one in words.items() if word.isascii() for end in ("s", "es")}
    ambiguous = {letter: Unit() for letter in _SHARED.split()}
    return ambiguous | symbols, plurals | words


_SYMBOLS, _BY_WORD = _table()
_NAME = "|".join(
    [
        *(re.escape(name) for name in sorted(_SYMBOLS, key=len, reverse=True)),
        *(f"(?i:{re.escape(word)})" for word in sorted(_BY_WORD, key=len, reverse=True)),
    ]
)
_ONE = re.compile(
    rf"(?P<before>(?i:square|sq\.?|cubic|平方|立方)\s*)?(?!in\s[a-z]{{3}})(?P<name>{_NAME})(?![A-Za-z])\.?"
    r"(?:\s?\^?\s?\{?(?P<power>-?[1-9])\}?(?!\d))?(?:\s(?P<behind>squared|cubed)\b)?"
)
_JOIN = re.compile(r"\s?(?P<per>/|per\b|每)\s?\(?|\s?(?:\\cdot|\\times|\*|-)\s?|(?P<space>\s)(?=[A-Za-zμΩ])")
_POWERS = {"square": 2, "sq": 2, "平方": 2, "cubic": 3, "立方": 3, "squared": 2, "cubed": 3}


@lru_cache(maxsize=4096)
def read_unit(text: str) -> tuple[Unit, str] | None:
    """The unit that a text begins with and what stands behind it; `None` where it begins with none.

    The text is as `scoring.text.plain` gives it: "cm^2", "degrees C", "kg \\cdot m/s^2", "mol/L", "square feet". All
    that follows a stroke is divided by.
    """
    text = re.sub(r"\\Omega\s*", "Ω", re.sub(r"\\mu\s*", "μ", text)).strip()
    if (one := _ONE.match(text)) is None:
        return None
    unit, per = _power(Unit(), one), False
    while join := _JOIN.match(text, one.end()):
        following = _ONE.match(text, join.end())
        # symbols may stand side by side, words do not: in "30 degrees N" the second is no unit
        if following is None or (join["space"] and not {one["name"], following["name"]} <= _SYMBOLS.keys()):
            break
        one, per = following, per or join["per"] is not None
        unit = _power(unit, one, -1 if per else 1)
    rest = text[one.end() :]
    return unit, rest.removeprefix(")") if per and "(" not in rest else rest


def _power(unit: Unit, one: re.Match[str], sign: int = 1) -> Unit:
    power = sign * int(one["power"] or 1)
    for word in (one["before"], one["behind"]):
        if word is not None:
            power *= _POWERS[word.strip().rstrip(".").lower()]
    return unit.times(_SYMBOLS.get(one["name"]) or _BY_WORD[one["name"].lower()], power)
