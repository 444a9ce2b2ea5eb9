"""Answers are compared with the gold answer by rules; what they cannot decide is math-verify's or a judge's."""

import pytest

from specs_lightning.rewards import ANSWER_TYPES, check_gold
from specs_lightning.scoring.comparison import judge_answer, resolve_type
from specs_lightning.scoring.math_verify import Comparison, Verdict


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        ("30", "$30$", True),
        ("28", "28 cm", True),
        ("200", r"200\mathrm{~cm}", True),
        ("20", r"20^{\circ}", True),
        (r"\boxed{30}", "30", True),
        ("30", "31", False),
        ("1500", r"1.5 \times 10^{3}", True),
        ("1e3", "1000", True),
        ("10 m/s", "10", True),
        ("10 m/s", "36 km/h", True),
        ("2", "two", True),
        ("yes", "Yes, because it is red", True),
        ("no", r"\text{No}", True),
        ("no", "not sure", False),
        ("Monday", "monday.", True),
        ("C", "(C)", True),
        ("C", "A", False),
        ("3: 1", "3: 2", False),
        ("1:2:3", "1/6", False),
        ("6", r"5} \boxed{6", False),
        ("the square", "square", True),
    ],
)
def test_rules_decide_without_math_verify(gold, answer, correct):
    assert judge_answer(answer, gold) == Verdict(correct)


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        (r"\frac{\sqrt{3}}{2}", "√3/2", True),
        (r"2\pi", "2π cm", True),
        (r"9\pi", r"9 \pi \text{ cm}^2", True),
        ("5", r"\sqrt{25}", True),
        ("x^2+1", "1+x^{2}", True),
        ("6", "5 or 6", False),
        ("6", "x=5, y=6", False),
        ("1:3", r"\frac13", True),
        ("5", r"x \geq 5", False),
        ("(0, 1]", "(0,1]", True),
        ("(0, 1]", "[0, 1]", False),
        (r"\{1, 2, 3\}", r"\{3, 1, 2\}", True),
        ("(1, 2)", "(2, 1)", False),
    ],
)
def test_expressions_go_to_math_verify(verifier, gold, answer, correct):
    question = judge_answer(answer, gold, "math")
    assert question == Verdict(correct) or verifier.compare([question])[0].correct is correct


@pytest.mark.parametrize(
    ("answer", "precision", "correct"),
    [("1.23", 1, True), ("1.26", 1, False), ("1.2", None, True), ("1.23", None, False), ("120 mm", 0, False)],
)
def test_decimals_are_compared_to_the_precision(answer, precision, correct):
    assert judge_answer(answer, "1.2 cm", "number", (), precision) == Verdict(correct)


def test_the_right_option_may_be_given_by_value(verifier):
    choices = (r"$\sqrt{2}$", r"$\frac{\sqrt{3}}{2}$")
    question = judge_answer(r"\sqrt{3}/2", "B", "choice", choices)
    assert isinstance(question, Comparison)
    assert verifier.compare([question])[0].correct is True
    assert judge_answer(r"$\sqrt{2}$", "B", "choice", choices) == Verdict(False)


@pytest.mark.parametrize(
    ("answer", "answer_type", "choices", "reason"),
    [
        ("30", "auto", (), None),
        ("C", "choice", (), None),
        ("C", "choice", ("a", "b", "c"), None),
        ("second", "choice", ("first", "second"), None),
        ("28 cm", "number", (), None),
        (r"\sqrt{2}", "math", (), None),
        (" ", "text", (), "empty"),
        (r"\boxed{}", "math", (), "empty"),
        ("D", "choice", ("a", "b", "c"), "not one of the 3 options"),
        ("no letter", "choice", (), "not an option letter"),
        (r"\boxed{\frac{1}{2}", "math", (), "unbalanced"),
        ("?!", "math", (), "not an expression"),
        ("30", "integer", (), "auto, number, choice, text, math"),
        ("about half", "auto", (), "says about what"),
        ("about 30 cm", "number", (), None),
        ("several", "number", (), "not a number"),
    ],
)
def test_check_gold_says_why(answer, answer_type, choices, reason):
    found = check_gold(answer, answer_type, choices)
    assert (found is None) if reason is None else (reason in found)


@pytest.mark.parametrize(
    ("answer", "choices", "kind"),
    [
        ("C", (), "choice"),
        ("(C)", (), "choice"),
        ("x", (), "math"),
        ("12", ("10", "12"), "choice"),
        ("12", (), "number"),
        ("yes", (), "text"),
        ("blue square", (), "text"),
        (r"2\pi", (), "math"),
    ],
)
def test_auto_decides_by_the_gold_answer(answer, choices, kind):
    assert resolve_type(answer, "auto", choices) == kind
    assert kind in ANSWER_TYPES
