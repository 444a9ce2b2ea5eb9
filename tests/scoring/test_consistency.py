"""Consistency: the reasoning's last conclusion is the answer, or the response is not consistent."""

import pytest

from specs_lightning.rewards import is_consistent

OPTIONS = ("square", "square root", "circle")


@pytest.mark.parametrize(
    ("reasoning", "answer", "consistent"),
    [
        ("a1 red circle 1 ; b2 blue square 1 ; so 1", "1", True),
        ("a1 red circle 1 ; b2 blue square 1 ; so 1", "2", False),
        ("a1 red ; b2 blue", "2", False),  # the 2 of b2 is no number
        ("2 red, 3 blue ; so 3 > 2 ; so yes", "yes", True),
        ("2 red, 3 blue ; so yes", "no", False),
        ("There are 3 circles and 2 squares, so 3 + 2 = 5.", "5", True),
        ("So there are 5 shapes in the 3x3 grid.", "5", True),
        ("So 4 are left, which is the answer.", "4", True),
        ("5-3=2", "2", True),
        ("x = -2", "2", False),
        (r"thus the ratio is \frac{1}{2}", "0.5", True),
        ("so it costs 1,234", "1234", True),
        ("one, two, 3", "3", True),
        ("I count the shapes.", "3", False),
        ("", "3", False),
        ("so 3", "", False),
        ("so the left one is red", "red", True),
        ("so the left one is red", "blue", False),
        ("the one that bordered it", "red", False),
        (r"so the area is 9 \pi", r"9\pi", True),
        ("no, wait; so true", "yes", True),
    ],
)
def test_the_conclusion_decides(reasoning, answer, consistent):
    assert is_consistent(reasoning, answer) is consistent


@pytest.mark.parametrize(
    ("reasoning", "answer", "consistent"),
    [
        ("it has four sides, so it is a square", "A", True),
        ("so it is a square", "(A) square", True),
        ("so the square root", "B", True),
        ("so the square root", "A", False),
        ("not (A), so (C)", "circle", True),
        ("so c", "C", True),
        ("(A) fails. (B) fails.", "C", False),
        ("looking at it", "C", False),
    ],
)
def test_letters_and_option_texts_are_one(reasoning, answer, consistent):
    assert is_consistent(reasoning, answer, "choice", OPTIONS) is consistent
