"""The rules of published benchmarks, against recorded verdicts and by example."""

import json
import math
from pathlib import Path

import pytest

from specs_lightning.benchmarks import RULES, distance, judge_response
from specs_lightning.data.set_aside import SetAside
from specs_lightning.data.sources import BENCHMARK_TASKS, PromptSource, load_prompts
from specs_lightning.evaluation import Answer
from specs_lightning.groups import Prompt
from specs_lightning.rewards.accuracy import decide
from specs_lightning.rewards.workers import MathVerifier, Verdict
from specs_lightning.scores import score

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "mathvision-sample"
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
    assert len(recorded) == 120
    assert len(other) <= 0.03 * len(recorded)
    assert other == {row["id"]: row["ours"] for row in json.loads(DISAGREEMENTS.read_text())}
    assert {prompt.metadata["task"] for prompt in asked} >= {"counting", "algebra"}


def prompt(benchmark: str, answer: str, choices: tuple[str, ...] = (), **more: object) -> Prompt:
    metadata = {"benchmark": benchmark, "task": "t", **more}
    precision = metadata.pop("precision", None)
    return Prompt("p", (), answer=answer, choices=choices, precision=precision, metadata=metadata)  # type: ignore[arg-type]


OPTIONS = ("red apple", "green pear", "5.0")


@pytest.mark.parametrize(
    ("question", "response", "right"),
    [
        (prompt("mathvista", "red apple", OPTIONS), "<answer>(A) red apple</answer>", True),
        (prompt("mathvista", "green pear", OPTIONS), "<answer>B</answer>", True),
        (prompt("mathvista", "green pear", OPTIONS), "The answer is gren pear.", True),
        (prompt("mathvista", "red apple", OPTIONS), "", False),
        (prompt("mathvista", "3", published_answer_type="integer"), r"\boxed{3.9}", True),
        (prompt("mathvista", "1.2", published_answer_type="float", precision=1), r"\boxed{1.23}", True),
        (prompt("mathvista", "1.2", published_answer_type="float", precision=1), r"\boxed{1.3}", False),
        (prompt("mathvista", "1", published_answer_type="integer"), "none of it", False),
        (prompt("mmmu", "B", OPTIONS), "It is (A) or rather (B).", True),
        (prompt("mmmu", "A", OPTIONS), "I would say that it is the red apple of the two", True),
        (prompt("mmmu", "A", OPTIONS), "no idea", False),
        (prompt("mmmu", "2.5", alternatives='["5/2"]'), "so the result is 2.50 volts", True),
        (prompt("mmmu", "2.5", alternatives='["5/2"]'), "the answer is 5/2", True),
        (prompt("mmmu", "25"), "the answer is 250", False),
        (prompt("mathvision", "C", ("1", "2", r"\frac{1}{2}")), r"so \boxed{0.5}", True),
        (prompt("mathvision", "C", ("1", "2", "12 cm")), r"so \boxed{12}", False),
        (prompt("mathvision", "C", ("1", "2", "3")), "So the answer is (C).", True),
        (prompt("mathvision", "0.33"), r"\boxed{x = 0.334}", True),
        (prompt("mathverse", "B"), "<answer>B: 12</answer>", True),
    ],
)
def test_a_rule(question: Prompt, response: str, right: bool) -> None:
    assert judge_response(response, question) == Verdict(right)


def mega(fields: dict[str, str], metrics: dict[str, str], parse: str = "json", **joined: object) -> Prompt:
    info = {"field_score_function": metrics, "aggregation": joined, "response_parse_function": parse}
    return prompt("mega_bench", "x", fields=json.dumps(fields), metric_info=str(info))


@pytest.mark.parametrize(
    ("question", "response", "share"),
    [
        (mega({"answer": "B"}, {"answer": "exact_str_match"}, "answer_string"), "Answer: A\nAnswer: (B) two", 1.0),
        (mega({"a": "1", "b": "x y"}, {"a": "exact_str_match", "b": "simple_str_match"}), '{"a": 1, "b": "X-Y"}', 1.0),
        (mega({"a": "1", "b": "2"}, dict.fromkeys("ab", "exact_str_match")), 'Answer: {"a": "1", "b": "3"}', 0.5),
        (
            mega({"a": "1", "b": "2"}, dict.fromkeys("ab", "exact_str_match"), field_weights={"a": 3, "b": 1}),
            '{"a": "1"}',
            0.75,
        ),
        (mega({"a": "1", "b": "2"}, dict.fromkeys("ab", "exact_str_match"), function="min"), '{"a": "1"}', 0.0),
        (mega({"a": "100"}, {"a": "general_single_numerical_match"}, "answer_string"), "Answer: 100.9", 1.0),
        (mega({"a": "['x', 'y']"}, {"a": "set_equality"}, "answer_string"), "Answer: ['y', 'x']", 1.0),
        (mega({"a": "['x', 'y']"}, {"a": "jaccard_index"}, "answer_string"), "Answer: ['y', 'z']", 1 / 3),
        (mega({"a": "['x', 'Y']"}, {"a": "multi_ref_phrase"}, "answer_string"), "Answer: y", 1.0),
    ],
)
def test_mega_bench_scores_fields(question: Prompt, response: str, share: float) -> None:
    assert judge_response(response, question) == pytest.approx(share)


def test_mega_benchs_other_metrics_are_named() -> None:
    question = mega({"a": "1", "b": "2"}, {"a": "gpt_4o_as_judge", "b": "exact_str_match"})
    assert judge_response("1", question) == Verdict(None, "no rule for the metric gpt_4o_as_judge")


def test_a_benchmark_is_scored_by_task() -> None:
    def answer(task: str, number: int, correct: float) -> Answer:
        return Answer("b", f"{task}{number}", "", 1, True, 1.0, correct, correct, task=task)

    answers = [answer("a", 1, 1.0), answer("a", 2, 1.0), answer("a", 3, 1.0), answer("b", 1, 0.0)]
    scores = score([*answers, answer("b", 2, math.nan)])
    assert scores["tasks"] == {"a": 1.0, "b": 0.0}
    assert (scores["correct"], scores["macro_mean"]) == (0.75, 0.5)
    assert [Answer.from_row(a.as_row()).task for a in answers] == ["a", "a", "a", "b"]


def test_every_benchmark_has_a_rule_and_tasks() -> None:
    assert set(RULES) == set(BENCHMARK_TASKS)


def test_a_template_lays_out_question_and_choices(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("Q: {question}\n{choices}\nThink.")
    (tmp_path / "q.jsonl").write_text('{"question": "Is {choices} x?", "choices": ["a", "b"], "answer": "A"}')
    source = PromptSource(str(tmp_path / "q.jsonl"), template=str(tmp_path / "t.txt"), add_instruction=False)
    assert load_prompts(source, SetAside())[0].text == "Q: Is {choices} x?\n(A) a\n(B) b\nThink."


@pytest.mark.parametrize(("a", "b", "edits"), [("kitten", "sitting", 3), ("", "abc", 3), ("same", "same", 0)])
def test_edit_distance(a: str, b: str, edits: int) -> None:
    assert distance(a, b) == edits
