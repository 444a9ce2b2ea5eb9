"""Options in every form in which they stand, without labels of their own, and golds that name one of them."""

from __future__ import annotations

from typing import Any

import pytest

from specs_lightning.data.options import lettered_options, named_twice, read_options, without_labels


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (["cat", 2, 1.5], ("cat", "2", "1.5")),
        ("['it\\'s', \"b\", 3]", ("it's", "b", "3")),
        ('["a", "b"]', ("a", "b")),
        ("['a',\n 'b']", ("a", "b")),
        ("one\n\n two\r\n", ("one", "two")),
        ('[["1", "2"], "3"]', "choice is not text or a number: list"),
        (None, ()),
        ("", ()),
        ([], ()),
        ("[]", ()),
        ("red or blue", "choices are not a list"),
        ({"A": "x"}, "choices are not a list: dict"),
        (["only"], "one choice only: 'only'"),
        ("['only, this']", "one choice only: 'only, this'"),
        ("['cat' 'dog' 'cow']", "array as numpy prints it"),
        ("['cat'\n 'dog']", "array as numpy prints it"),
        ("[\"it's\" 'b']", "array as numpy prints it"),
        ("[1.5 2.5]", "array as numpy prints it"),
        ("array(['a', 'b'], dtype=object)", "array as numpy prints it"),
    ],
)
def test_options_are_read_or_refused_by_name(value: Any, options: tuple[str, ...] | str) -> None:
    if isinstance(options, tuple):
        assert read_options(value) == options
    else:
        with pytest.raises(ValueError, match=options):
            read_options(value)


def test_a_column_an_option_is_read_up_to_the_first_empty_one() -> None:
    assert lettered_options({"A": "cat", "B": 2, "C": float("nan"), "D": "dog"}) == ("cat", "2")
    with pytest.raises(ValueError, match="one choice only"):
        lettered_options({"A": "cat", "B": ""})


@pytest.mark.parametrize(
    ("options", "bare"),
    [
        (("A. the cat", "B. the dog"), ("the cat", "the dog")),
        (("A) 12 cm", "B) 15 cm", "C) 18 cm"), ("12 cm", "15 cm", "18 cm")),
        (("(a) x", "(b) y"), ("x", "y")),
        (("[A] x", "[B] y"), ("x", "y")),
        (("A: 1", "B: 2"), ("1", "2")),
        (("(A). x", "(B). y"), ("x", "y")),
        (("A．猫", "B．狗"), ("猫", "狗")),
        (("A、猫", "B、狗"), ("猫", "狗")),
        (("B. the dog", "A. the cat"), ("B. the dog", "A. the cat")),
        (("A. the cat", "the dog"), ("A. the cat", "the dog")),
        (("A", "B"), ("A", "B")),
        (("(A)", "(B)"), ("(A)", "(B)")),
        (("a cat", "b dog"), ("a cat", "b dog")),
        (("1. x", "2. y"), ("1. x", "2. y")),
        ((), ()),
    ],
)
def test_labels_that_run_from_a_are_taken_off(options: tuple[str, ...], bare: tuple[str, ...]) -> None:
    assert without_labels(options) == bare


@pytest.mark.parametrize(
    ("gold", "options", "twice"),
    [
        ("(b)", ("(c)", "(a)", "(b)"), True),
        ("b", ("(c)", "(a)", "(b)"), True),
        ("B", ("B. the dog", "A. the cat"), True),
        ("A", ("C", "F", "A", "B"), True),
        (r"\text{(B)}", ("B", "A"), True),
        ("(b)", ("(a)", "(b)", "(c)"), False),
        ("C", ("(a)", "(b)"), False),
        ("(c)", ("(c)", "(a)"), False),
        ("B", ("the cat", "the dog"), False),
        ("the dog", ("B. the dog", "A. the cat"), False),
        ("B", ("I", "II", "III"), False),
        ("B", (), False),
    ],
)
def test_a_gold_that_is_a_label_here_and_a_text_there_is_not_guessed(
    gold: str, options: tuple[str, ...], twice: bool
) -> None:
    assert (named_twice(gold, options) is not None) is twice
