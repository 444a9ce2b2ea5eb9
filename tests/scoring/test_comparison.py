"""Answers are compared with the gold answer by rules; what they cannot decide is math-verify's or a judge's."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.cpu_time import cpu_seconds
from hypothesis import given
from hypothesis import strategies as st

from specs_lightning.groups import Prompt
from specs_lightning.rewards.accuracy import decide
from specs_lightning.scoring.benchmarks import judge_response
from specs_lightning.scoring.comparison import ANSWER_TYPES, check_gold, judge_answer, judge_by_rules, resolve_type
from specs_lightning.scoring.math_verify import Comparison, MathVerifier, Verdict
from specs_lightning.scoring.text import is_balanced


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
    ("answer", "right"),
    [("B", True), ("C", True), ("(C) a dog", True), ("a dog", True), ("A", False), ("a cat", False)],
)
def test_of_an_option_that_stands_there_twice_either_is_right(answer: str, right: bool) -> None:
    assert judge_answer(answer, "B", "choice", ("a cat", "a dog", "a dog")) == Verdict(right)


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


VERDICTS = [json.loads(line) for line in Path(__file__).with_name("verdicts.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("kind", dict.fromkeys(row["kind"] for row in VERDICTS))
def test_verdicts_of_a_kind(verifier: MathVerifier, kind: str) -> None:
    """Each line of the table: a gold answer, an answer, and whether it is right."""
    rows = [row for row in VERDICTS if row["kind"] == kind]
    prompts = [prompt(row["gold"], row.get("choices", ()), row.get("question", "What is it?")) for row in rows]
    judged = [judge_by_rules(f"<answer>{row['answer']}</answer>", p) for row, p in zip(rows, prompts, strict=True)]
    verdicts = decide(judged, prompts, verifier, None)
    assert [row for row, verdict in zip(rows, verdicts, strict=True) if verdict.correct != row["right"]] == []


def test_cases_from_the_field(verifier: MathVerifier) -> None:
    file = Path(__file__).parents[3] / "shared" / "cases" / "scoring" / "faults.jsonl"
    if not file.is_file():
        pytest.skip("the cases are not there")
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    prompts = []
    for row in rows:
        asked = prompt(row["gold"], row["choices"], "?", row["type"])
        published = {"published_answer_type": "integer"} if row["type"] == "number" else {}
        rule = {} if row["rule"] == "accuracy reward" else {"benchmark": row["rule"], **published}
        prompts.append(replace(asked, metadata=rule))
    judged = [judge_response(row["response"], p) for row, p in zip(rows, prompts, strict=True)]
    verdicts = decide(judged, prompts, verifier, None)
    other = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict.correct != row["expected"]]
    assert other == []


def prompt(gold: str, choices: Sequence[str], question: str, answer_type: str = "auto") -> Prompt:
    messages = ({"role": "user", "content": question},)
    return Prompt("p", messages, answer=gold, answer_type=answer_type, choices=tuple(choices))


ANSWERS = st.sampled_from([row["gold"] for row in VERDICTS])


@given(ANSWERS, st.sampled_from(["{}", " {} ", "${}$", r"\boxed{{{}}}", "**{}**", "{}.", "The answer is {}"]))
def test_a_gold_is_right_in_whatever_dress(gold: str, dress: str) -> None:
    if check_gold(gold, "auto") is None and is_balanced(gold):
        assert judge_answer(dress.format(gold), gold) == Verdict(True)


@given(
    st.sampled_from("ABCD"),
    st.sampled_from("ABCD"),
    st.sampled_from(["{}", "({})", "{}.", "[{}]", "Option {}", "It is {}"]),
)
def test_another_label_is_never_right(gold: str, answer: str, dress: str) -> None:
    verdict = judge_answer(dress.format(answer), gold, "choice", ("1 cm", "2 cm", "3 cm", "4 cm"))
    assert verdict == Verdict(gold == answer)


@given(ANSWERS, ANSWERS)
def test_rules_are_symmetric(one: str, other: str) -> None:
    if check_gold(one, "auto") is None and check_gold(other, "auto") is None:
        types = resolve_type(one, "auto"), resolve_type(other, "auto")
        judged = judge_answer(one, other), judge_answer(other, one)
        if types[0] == types[1] and all(isinstance(verdict, Verdict) for verdict in judged):
            assert judged[0] == judged[1]


@pytest.mark.parametrize(
    "piece", [r"\quad", "~", "1 ", "{", r"\text{", "^{", "(", "is ", "A) ", "x=", "½", "-", "1,", "√(", "a "]
)
@pytest.mark.parametrize("gold", ["55°", "x+1", "(1, 2)", "north", "10-20"])
def test_hostile_answers_cost_no_time(gold: str, piece: str) -> None:
    assert cpu_seconds(lambda: judge_answer(piece * (20_000 // len(piece)), gold)) < 0.25
    assert cpu_seconds(lambda: judge_answer(piece * (1_999 // len(piece)), gold)) < 0.25


def test_rules_are_fast() -> None:
    """5,000 a second are asked for; what is measured includes finding the answer."""
    asked = [prompt(row["gold"], row.get("choices", ()), "?") for row in VERDICTS]
    said = [f"So it is <answer>{row['answer']}</answer>" for row in VERDICTS]
    seconds = cpu_seconds(lambda: [judge_by_rules(*pair) for pair in zip(said, asked, strict=True)], tries=5)
    assert len(said) / seconds > 2_000  # a busy machine
