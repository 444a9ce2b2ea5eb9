"""Plain numbers: read exactly, units converted or dropped, and nothing else taken for one."""

from fractions import Fraction

import pytest

from specs_lightning.scoring.quantities import read_quantity, read_ratio, same_quantity, same_ratio


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
        "5 million",
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
    ("gold", "answer", "same"),
    [
        ("3:1", "3 : 1", True),
        ("3: 1", "6:2", True),
        ("3:1", "1:3", False),
        ("3:45", "1:15", False),
        ("0:0", "0:0", True),
    ],
)
def test_ratios_compare_as_written_or_in_lowest_terms(gold, answer, same):
    assert same_ratio(read_ratio(gold), read_ratio(answer)) is same
