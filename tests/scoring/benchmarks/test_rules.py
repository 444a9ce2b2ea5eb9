"""The rules of published benchmarks, against recorded verdicts and by example."""

import json
from pathlib import Path

import pytest
from helpers.benchmark_prompts import prompt

from specs_lightning.data.sources import BENCHMARK_TASKS, PromptSource, load_prompts
from specs_lightning.groups import Prompt
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.rewards.accuracy import decide
from specs_lightning.scoring.benchmarks import RULES, judge_response
from specs_lightning.scoring.math_verify import MathVerifier, Verdict

SAMPLE = Path(__file__).parents[4] / "shared" / "data" / "mathvision-sample"
DISAGREEMENTS = Path(__file__).with_name("benchmark_disagreements.json")


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of MathVision is not there")
def test_recorded_responses_get_the_benchmarks_own_verdicts() -> None:
    source = PromptSource(str(SAMPLE / "problems.jsonl"), schema="mathvision", benchmark="mathvision")
    prompts = {prompt.id: prompt for prompt in load_prompts(source, SetAside())}
    lines = (SAMPLE / "recorded_responses.jsonl").read_text(encoding="utf-8").splitlines()
    recorded = [json.loads(line) for line in lines]
    asked = [prompts[row["id"]] for row in recorded]
    judged = [judge_response(row["response"], prompt) for row, prompt in zip(recorded, asked, strict=True)]
    verifier = MathVerifier()
    verdicts = decide([j for j in judged if not isinstance(j, float)], asked, verifier, None)
    verifier.close()
    other = {row["id"]: v.correct for row, v in zip(recorded, verdicts, strict=True) if v.correct != row["correct"]}
    assert (len(recorded) - len(other), len(recorded)) == (120, 120)  # the issue asks for 97 %
    assert other == {row["id"]: row["ours"] for row in json.loads(DISAGREEMENTS.read_text())}
    assert {prompt.metadata["task"] for prompt in asked} >= {"counting", "algebra"}


OPTIONS = ("red apple", "green pear", "5.0")


@pytest.mark.parametrize(
    ("question", "response", "right"),
    [
        (prompt("mmmu", "B", OPTIONS), "It is (A) or rather (B).", True),
        (prompt("mmmu", "A", OPTIONS), "I would say that it is the red apple of the two", True),
        (prompt("mmmu", "A", OPTIONS), "no idea", False),
        (prompt("mmmu", "2.5", alternatives='["5/2"]'), "so the result is 2.50 volts", True),
        (prompt("mmmu", "2.5", alternatives='["5/2"]'), "the answer is 5/2", True),
        (prompt("mmmu", "25"), "the answer is 250", False),
        (prompt("mathvision", "C", ("1", "2", r"\frac{1}{2}")), r"so \boxed{0.5}", True),
        (prompt("mathvision", "C", ("1", "2", "12 cm")), r"so \boxed{12}", False),
        (prompt("mathvision", "C", ("1", "2", "3")), "So the answer is (C).", True),
        (prompt("mathvision", "B", ("$x+y=90$", "$x-y=90$")), "<answer>$x+y=90$</answer>", False),
        (prompt("mathvision", "B", ("1 cm", "2 cm")), "<answer>(B) 2 cm</answer>", True),
        (prompt("mathvision", "B", ("1 cm", "2 cm")), "Sure. <answer>Option B: 2 cm</answer>", True),
        (prompt("mathvision", "B", ("1 cm", "2 cm")), r"so \boxed{\text{(B) }}", True),
        (prompt("mmmu", "B", OPTIONS), "Sure.\n<think>x</think>\n<answer>B</answer>", True),
        (prompt("mathvision", "0.33"), r"\boxed{x = 0.334}", True),
        (prompt("mathverse", "B"), "<answer>B: 12</answer>", True),
    ],
)
def test_a_rule(question: Prompt, response: str, right: bool) -> None:
    assert judge_response(response, question) == Verdict(right)


def test_every_benchmark_has_a_rule_and_tasks() -> None:
    assert set(RULES) == set(BENCHMARK_TASKS)
