"""Accuracy: right in any form, wrong without an answer, NaN where nobody can know."""

import json
import math
import threading
from pathlib import Path

import pytest

from specs_lightning.groups import Completion, Prompt
from specs_lightning.rewards import ANSWER_TYPES, AccuracyReward, RewardSum, check_gold, is_correct
from specs_lightning.rewards.accuracy import decide
from specs_lightning.scoring.comparison import OtherWords, judge_answer, judge_by_rules, resolve_type
from specs_lightning.scoring.math_verify import TIMED_OUT, Comparison, Verdict

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "mathvision-sample"
DISAGREEMENTS = Path(__file__).with_name("mathvision_disagreements.json")


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


def test_other_words_are_wrong_unless_a_judge_says_otherwise(verifier):
    words = judge_answer("yadnoM", "Monday")
    assert words == OtherWords("Monday", "yadnoM")
    assert decide([words], [Prompt("p", (), answer="Monday")], verifier, None) == [Verdict(False)]


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


@pytest.mark.parametrize("text", ["<think>so 30</think><answer>30</answer>", "The answer is 30.", r"\boxed{30}", "30"])
def test_the_format_does_not_matter(accuracy, ask, reply, text):
    assert accuracy([ask("30")], [reply(text)]).tolist() == [1.0]


@pytest.mark.parametrize("text", ["", "<answer></answer>", "I cannot tell from this picture at all", r"\boxed{}"])
def test_no_answer_is_wrong(accuracy, ask, reply, text):
    assert accuracy([ask("30")], [reply(text)]).tolist() == [0.0]


@pytest.mark.parametrize(
    ("prompt", "cause"),
    [
        ({"answer": None}, "empty"),
        ({"answer": ""}, "empty"),
        ({"answer": "E", "answer_type": "choice", "choices": ("a", "b")}, "one of the 2 options"),
        ({"answer": r"\frac{1", "answer_type": "math"}, "unbalanced"),
        ({"answer": r"\foo", "answer_type": "math"}, "cannot parse the gold"),
    ],
)
def test_an_unusable_gold_is_unscored_even_for_the_same_answer(accuracy, ask, reply, prompt, cause):
    text = f"<answer>{prompt['answer'] or 'x'}</answer>"
    values, causes = accuracy.score([ask(**prompt)], [reply(text)])
    assert math.isnan(values[0])
    assert cause in causes[0]


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


def test_check_gold_asks_math_verify_where_it_may(verifier):
    assert "cannot parse" in check_gold(r"\foo", "math", (), verifier)
    assert check_gold(r"\sqrt{2}", "math", (), verifier) is None


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


def test_is_correct_is_the_reward_for_one(verifier, ask):
    assert is_correct("so x+1", ask("1+x", "math"), verifier) == Verdict(True)


def test_a_hostile_answer_is_unscored_and_the_others_are_not(ask, reply):
    reward = AccuracyReward(timeout_seconds=1.0)
    texts = [f"<answer>{answer}</answer>" for answer in ("9^{9^{9^{9}}}", "(" * 10000 + "7" + ")" * 10000, "7", "8")]
    try:
        scores = RewardSum([reward]).score([ask("7")] * 4, [reply(text) for text in texts])
    finally:
        reward.close()
    assert scores.total_N.isnan().tolist() == [True, True, False, False]
    assert scores.total_N[2:].tolist() == [1.0, 0.0]
    assert scores.causes["accuracy"] == [TIMED_OUT, TIMED_OUT, None, None]


def test_it_scores_off_the_main_thread(accuracy, ask, reply):
    values = []
    thread = threading.Thread(target=lambda: values.extend(accuracy([ask("x+1", "math")], [reply("1+x")]).tolist()))
    thread.start()
    thread.join()
    assert values == [1.0]


def mathvision() -> tuple[list[Prompt], list[Completion], list[bool]]:
    problems = {row["id"]: row for row in read_lines(SAMPLE / "problems.jsonl")}
    prompts, completions, recorded = [], [], []
    for row in read_lines(SAMPLE / "recorded_responses.jsonl"):
        problem = problems[row["id"]]
        messages = ({"role": "user", "content": problem["question"]},)
        kind = "choice" if problem["options"] else "math"
        choices = tuple(problem["options"])
        prompts.append(Prompt(row["id"], messages, answer=problem["answer"], answer_type=kind, choices=choices))
        completions.append(Completion((), (), row["response"], True))
        recorded.append(row["correct"])
    return prompts, completions, recorded


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the MATH-Vision sample isn't here")
def test_real_responses_are_judged_as_the_benchmark_judged_them(accuracy):
    prompts, completions, recorded = mathvision()
    values = accuracy(prompts, completions).tolist()
    disagreements = {p.id: bool(v) for p, v, r in zip(prompts, values, recorded, strict=True) if v != float(r)}
    known = json.loads(DISAGREEMENTS.read_text(encoding="utf-8"))
    assert not any(map(math.isnan, values))
    assert (len(prompts) - len(disagreements), len(prompts)) == (116, 120)
    assert all(row["why"] and row["who_is_right"] == "ours" for row in known)
    assert disagreements == {row["id"]: row["ours"] for row in known}


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the MATH-Vision sample isn't here")
def test_auto_judges_real_responses_as_their_own_types_do(accuracy):
    prompts, completions, _ = mathvision()
    auto = [Prompt(p.id, p.messages, answer=p.answer, choices=p.choices) for p in prompts]
    assert accuracy(auto, completions).tolist() == accuracy(prompts, completions).tolist()


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the MATH-Vision sample isn't here")
def test_the_rules_decide_most_real_responses():
    prompts, completions, _ = mathvision()
    judged = [judge_by_rules(c.text, p) for p, c in zip(prompts, completions, strict=True)]
    assert sum(isinstance(j, Comparison) for j in judged) < 0.2 * len(judged)
