"""Plain numbers: read exactly, units converted or dropped, and nothing else taken for one."""

from fractions import Fraction

import pytest

from specs_lightning.scoring.quantities import is_name, read_quantity, same_quantity, value_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30", 30),
        ("$30$", 30),
        ("-7", -7),
        ("−7", -7),
        ("1,234,567", 1234567),
        ("1{,}234", 1234),
        (r"10\,100", 10100),
        ("3.50", Fraction(7, 2)),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        (r"\dfrac{3}{4}", Fraction(3, 4)),
        (r"\frac12", Fraction(1, 2)),
        (r"5\frac{1}{2}", Fraction(11, 2)),
        ("5 1/2", Fraction(11, 2)),
        ("28 cm", 28),
        ("28cm", 28),
        (r"200\mathrm{~cm}", 200),
        (r"12 \mathrm{~cm}^{2}", 12),
        (r"20^{\circ}", 20),
        (r"\$ 5", 5),
        ("30 apples", 30),
        ("about 30 square units.", 30),
        ("x = 5", 5),
        (r"\sqrt{25} = 5", 5),
        (r"\boxed{42}", 42),
        ("**42**", 42),
    ],
)
def test_plain_numbers_are_read(text, value):
    quantity = read_quantity(text)
    assert quantity is not None
    assert quantity.value == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "2x",
        "2 x",
        r"2\pi",
        "3 pi",
        "5 or 6",
        "5, 6",
        "x=5, y=6",
        "half",
        "1/0",
        "x \\geq 5",
        "(1,2)",
        "9" * 10000,
        "3:2",
        "5 6",
        "2^3",
        "5 thirds",
        "x >= 5",
        "x != 5",
    ],
)
def test_anything_else_is_not_a_number(text):
    assert read_quantity(text) is None


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("30", "30 cm", True),
        ("2 m", "200 cm", True),
        ("2 m", "2 cm", False),
        ("2 m", r"2 \mathrm{~m}^2", False),
        ("3 apples", "3 red apples", True),
        ("50%", "50", True),
        ("50", r"50\%", True),
        ("50%", "0.5", True),
        ("0.5", "50 percent", True),
        ("50%", "5%", False),
        ("12345678", "12345679", False),
        ("1/3", "0.333333", True),
        ("1/3", "0.33", False),
        ("12345.6", "12345.7", False),
        ("5", "5.0", True),
    ],
)
def test_quantities_compare_by_value(gold, answer, same):
    assert same_quantity(read_quantity(gold), read_quantity(answer)) is same


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5 million", 5_000_000),
        ("5万", 50_000),
        ("2 dozen", 24),
        ("negative 3", -3),
        ("minus 1/2", Fraction(-1, 2)),
        ("½", Fraction(1, 2)),
        ("3½", Fraction(7, 2)),
        ("1.2×10⁻³", Fraction(12, 10_000)),
        ("３．5", Fraction(7, 2)),
        ("x＝5", 5),
        ("5元", 5),
        ("5 €", 5),
        ("€5", 5),
        ("5厘米", 5),
        ("12 V", 12),
        ("12Ω", 12),
        ("60*\\degree", 60),
        ("$20{}^\\circ$", 20),
        ("There are 5 apples.", 5),
        ("The area of the triangle is 12 cm^2", 12),
        ("twenty-five", 25),
        ("2 + 3 = 5", 5),
        ("AB = 7 - 2 = 5", 5),
    ],
)
def test_numbers_are_read_in_other_notations(text, value):
    quantity = read_quantity(text)
    assert quantity is not None and quantity.value == value


@pytest.mark.parametrize(
    "text",
    ["x - 2y + 3 = 0", "less than 5", "at least 5", "not 5", "A1", "C 12", "7 am", "5th", "10-20", "5 of 6", "3:30"],
)
def test_what_makes_another_number_of_it_is_read(text):
    assert read_quantity(text) is None


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("5 km east", "5 km west", False),
        ("5 km east", "5 km", True),
        ("30°N", "30°S", False),
        ("25 °C", "25 °F", False),
        ("25 °C", "25℃", True),
        ("5% increase", "decrease of 5%", False),
        ("3 dogs", "3 cats", False),
        ("3 dogs", "3 big dogs", True),
        ("3 dogs", "3 km", False),
        ("30 cm^2", "30 square units", True),
        ("12 V", "12", True),
        ("12 kW", "12000 W", True),
        ("12 kW", "12 W", False),
        ("2 mol/L", "0.002 mol/mL", True),
        ("5 N·m", "5 N m", True),
        ("$5", "5 dollars", True),
        ("5 €", "£5", False),
        ("Room 5", "Table 5", False),
        ("1 in", "2.54 cm", True),
        ("5 mW", "5 MW", False),
    ],
)
def test_units_and_words_count_where_both_have_them(gold, answer, same):
    assert same_quantity(read_quantity(gold), read_quantity(answer)) is same
    assert same_quantity(read_quantity(answer), read_quantity(gold)) is same


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x = 5", "5"),
        (r"\angle ABC = 50^\circ", r"50^\circ"),
        ("f(x) = 2x", "2x"),
        (r"S_{\triangle ABC} = 6", "6"),
        ("x - y = 5", "x - y = 5"),
        ("x^2 = 4", "x^2 = 4"),
        ("x >= 5", "x >= 5"),
        ("x = 5, y = 6", "x = 5, y = 6"),
        (r"\alpha + \beta = 90", r"\alpha + \beta = 90"),
    ],
)
def test_only_a_single_name_may_be_lost_on_the_left(text, value):
    assert value_of(text) == value


def test_names_have_no_operators_or_digits():
    assert is_name("x_1") and is_name("AB") and is_name("area of ABC") and is_name(r"m\angle A")
    assert not any(map(is_name, ["2x", "x+y", "x^2", "", "a/b"]))
