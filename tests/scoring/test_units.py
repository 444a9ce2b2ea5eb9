"""Units are read where they stand, and turned into one another exactly."""

from fractions import Fraction

import pytest

from specs_lightning.scoring.units import read_unit


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("cm", "centimeters"),
        ("m/s", "m s^{-1}"),
        ("m/s", "meters per second"),
        ("N", r"kg \cdot m/s^2"),
        ("J", "N m"),
        ("W", "J/s"),
        ("V", "W/A"),
        (r"\Omega", "V/A"),
        ("square feet", "ft^2"),
        ("cm squared", "cm^{2}"),
        ("平方厘米", "cm^2"),
        ("mL", "cm^3"),
        (r"\mu m", "μm"),
        (r"J/(kg \cdot K)", "J/kg/K"),
        ("hours", "小时"),
        ("degrees C", "degrees Celsius"),
        ("€", "euros"),
    ],
)
def test_two_names_of_one_unit(text: str, same: str) -> None:
    one, other = read_unit(text), read_unit(same)
    assert one is not None and other is not None
    assert one == other and not one[1]


@pytest.mark.parametrize(
    ("text", "scale"), [("km", Fraction(1000)), ("kW", Fraction(10**6)), ("mi", Fraction("1609.344")), ("week", 604800)]
)
def test_units_are_multiples_of_base_units(text: str, scale: Fraction) -> None:
    unit = read_unit(text)
    assert unit is not None and unit[0].scale == scale


@pytest.mark.parametrize(("text", "rest"), [("km west", " west"), ("degrees N", " N"), ("cm, then", ", then")])
def test_what_stands_behind_a_unit_is_kept(text: str, rest: str) -> None:
    unit = read_unit(text)
    assert unit is not None and unit[1] == rest


@pytest.mark.parametrize("text", ["apples", "x", "in total", "members", "", "3", "kmh", "xy"])
def test_words_that_begin_like_a_unit_are_none(text: str) -> None:
    assert read_unit(text) is None


def test_a_letter_of_several_units_says_nothing_of_which() -> None:
    unit = read_unit("C")
    assert unit is not None and unit[0].powers == ()
