"""The dressing of an answer is removed, and nothing of the answer itself."""

from __future__ import annotations

import pytest

from specs_lightning.scoring.text import clean, is_balanced, is_vague, is_words, plain, same_text, yes_or_no


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (r"so the final answer is \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("$ 30 $", "30"),
        ("approximately 3.5", "3.5"),
        ("**3.5**", "3.5"),
        ("2π", r"2\pi"),
        ("x\u22121", "x-1"),
        ("√3", r"\sqrt{3}"),
        ("about", "about"),  # nothing is left without it
        (r"\boxed{a \boxed{b", r"\boxed{a \boxed{b"),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r"\text{blue \mathrm{square}}", "blue square"),
        (r"20^{\circ}", "20 degrees"),
        (r"1{,}234\,\%", "1,234 %"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
    ],
)
def test_plain_undoes_the_latex_of_words_and_spaces(text: str, words: str) -> None:
    assert plain(text) == words


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [("The Square", "square", True), ("a", "A", True), ("red", "blue", False), ("", "", False)],
)
def test_words_are_compared_without_case_and_article(left: str, right: str, same: bool) -> None:
    assert same_text(left, right) is same


@pytest.mark.parametrize(("text", "said"), [("Yes, it is", True), ("FALSE", False), ("nothing", None), ("", None)])
def test_yes_or_no(text: str, said: bool | None) -> None:
    assert yes_or_no(text) is said


def test_kinds_of_text() -> None:
    assert is_words("blue square") and not is_words("xy") and not is_words("30 cm")
    assert is_vague("about half") and not is_vague("exactly half") and not is_vague("about 30")
    assert is_balanced("{a}{b}") and not is_balanced("}{") and not is_balanced("{")
