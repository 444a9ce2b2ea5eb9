"""Options: the label first, then the option's own words, and only one of them."""

import pytest

from specs_lightning.scoring.choices import picked_option

DAYS = ("Monday", "Wednesday", "Thursday")
LENGTHS = (r"$10 \mathrm{~cm}$", r"$11 \mathrm{~cm}$", r"$12 \mathrm{~cm}$")


@pytest.mark.parametrize(
    ("answer", "choices", "index"),
    [
        ("C", DAYS, 2),
        ("c", DAYS, 2),
        ("(C)", DAYS, 2),
        ("C.", DAYS, 2),
        ("**C**", DAYS, 2),
        ("C. 12", LENGTHS, 2),
        ("C) anything", DAYS, 2),
        ("(B). Wednesday", DAYS, 1),
        (r"\text{B}", DAYS, 1),
        (r"\text{(B)}\ 180 \mathrm{~m}^{3}", LENGTHS, 1),
        (r"\boxed{(B) Wednesday}", DAYS, 1),
        ("B Wednesday", DAYS, 1),
        ("Option B", DAYS, 1),
        ("The answer is (B)", DAYS, 1),
        ("It must be (B), since it rained", DAYS, 1),
        ("wednesday", DAYS, 1),
        ("so B", DAYS, 1),
        ("12", LENGTHS, 2),
        (r"12 \text{ cm}", LENGTHS, 2),
        ("D", (), 3),
        ("G", ("B", "G", "O"), 1),
        ("B", ("G", "R", "B"), 1),
    ],
)
def test_one_option_is_picked(answer, choices, index):
    assert picked_option(answer, choices) == index


@pytest.mark.parametrize(
    "answer", ["D", "A or B", "(A) or (B)", "A. or B.", "Friday", "13", "", "A day", "Monday Wednesday"]
)
def test_no_option_is_picked(answer):
    assert picked_option(answer, DAYS if answer != "13" else LENGTHS) is None


def test_a_text_that_two_options_share_picks_neither():
    assert picked_option("same", ("same", "Same", "other")) is None
