"""Accuracy: right in any form, wrong without an answer, NaN where nobody can know."""

import json
import math
import threading
from pathlib import Path

import pytest

from specs_lightning.groups import Completion, Prompt
from specs_lightning.rewards import AccuracyReward, RewardSum, is_correct
from specs_lightning.rewards.accuracy import decide
from specs_lightning.scoring.comparison import OtherWords, judge_answer, judge_by_rules
from specs_lightning.scoring.math_verify import TIMED_OUT, Comparison, Verdict

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "mathvision-sample"
DISAGREEMENTS = Path(__file__).with_name("mathvision_disagreements.json")


def test_other_words_are_wrong_unless_a_judge_says_otherwise(verifier):
    words = judge_answer("yadnoM", "Monday")
    assert words == OtherWords("Monday", "yadnoM")
    assert decide([words], [Prompt("p", (), answer="Monday")], verifier, None) == [Verdict(False)]


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
    ],
)
def test_an_unusable_gold_is_unscored_even_for_the_same_answer(accuracy, ask, reply, prompt, cause):
    text = f"<answer>{prompt['answer'] or 'x'}</answer>"
    values, causes = accuracy.score([ask(**prompt)], [reply(text)])
    assert math.isnan(values[0])
    assert cause in causes[0]


def test_a_gold_that_math_verify_cannot_parse_is_right_in_its_own_words_and_unscored_in_others(accuracy, ask, reply):
    prompt = ask(r"\foo x", answer_type="math")
    values, causes = accuracy.score([prompt] * 2, [reply(r"<answer>$\foo x$</answer>"), reply("<answer>y^2</answer>")])
    assert values[0] == 1.0 and math.isnan(values[1])
    assert causes == [None, "math-verify cannot parse the gold answer"]


def test_is_correct_is_the_reward_for_one(verifier, ask):
    assert is_correct("so x+1", ask("1+x", "math"), verifier) == Verdict(True)


def test_an_answer_that_takes_too_long_is_unscored_one_that_is_too_long_wrong_and_the_others_are_judged(ask, reply):
    reward = AccuracyReward(timeout_seconds=1.0)
    texts = [f"<answer>{answer}</answer>" for answer in ("9^{9^{9^{9}}}", "(" * 10000 + "7" + ")" * 10000, "7", "8")]
    try:
        total_N, by_name = RewardSum([reward]).score([ask("7")] * 4, [reply(text) for text in texts])
    finally:
        reward.close()
    assert total_N.isnan().tolist() == [True, False, False, False]
    assert total_N[1:].tolist() == [0.0, 1.0, 0.0]
    assert by_name["accuracy"].causes == [TIMED_OUT, None, None, None]


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
