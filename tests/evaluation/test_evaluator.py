"""Answers are judged, written and read again; how freely they were chosen is what the whole logits say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.tiny_policies import mixed_prompts, plain_inputs, sharp_policy

from specs_lightning.evaluation.evaluator import Evaluator, judge, measure_choice
from specs_lightning.groups import Completion, Prompt
from specs_lightning.prompts.messages import build_messages
from specs_lightning.records.answers import Answer, read_answers, write_answers
from specs_lightning.rollout import HFEngine, SamplingSettings


def test_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    answers = [
        Answer("id", "p0", "x", 1, True, 1.0, math.nan, math.nan, None, math.nan, 2.5),
        Answer("id", "p1", "y", 2, False, 0.0, 1.0, 0.0, "7", 0.5, math.nan),
    ]
    write_answers(answers, tmp_path / "answers.jsonl")
    assert "NaN" not in (tmp_path / "answers.jsonl").read_text()
    assert repr(read_answers(tmp_path / "answers.jsonl")) == repr(answers)


@pytest.mark.parametrize(
    ("text", "finished", "kept", "answer"),
    [
        ("<think>a</think><answer>$7$.</answer>", True, 1.0, "7"),
        ("<think>a</think><answer>7</answer>", False, 0.0, "7"),
        ("the answer is seven", True, 0.0, "seven"),
        ("one two three four five six", True, 0.0, None),
        ("<answer>$$</answer>", True, 0.0, None),
    ],
)
def test_an_answer_is_judged_and_stripped_of_its_dressing(
    text: str, finished: bool, kept: float, answer: str | None
) -> None:
    prompt = Prompt("p", build_messages("How many?", 0), (), "7")
    judged = judge("id", prompt, Completion((1, 2), (0.0, 0.0), text, finished), (1.0, None))
    assert (judged.format_kept, judged.solved, judged.answer, judged.tokens) == (kept, kept, answer, 2)


def test_the_tag_that_a_template_opens_belongs_to_the_answer_also_when_it_is_judged_again() -> None:
    prompt = Prompt("p", build_messages("How many?", 0), (), "7")
    said = Completion((1,), (0.0,), "<think>\na</think><answer>7</answer>", True, opened="<think>\n")
    answer = judge("id", prompt, said, (1.0, None))
    boxed = judge(
        "id", replace(prompt, answer_format="boxed"), replace(said, text="<think>\na</think>\\boxed{7}"), (1.0, None)
    )
    assert (answer.format_kept, answer.solved, boxed.format_kept, boxed.solved) == (1.0, 1.0, 1.0, 1.0)
    evaluator = Evaluator(HFEngine(), SamplingSettings(1))
    again = evaluator.judge_again([prompt], [Answer(**answer.as_row() | {"format_kept": 0.0, "entropy": math.nan})])
    evaluator.close()
    assert (again[0].format_kept, again[0].solved, again[0].text) == (1.0, 1.0, said.text)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_the_choice_is_measured_on_the_distribution_that_was_sampled(
    tiny_model_path: Path, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the model's own forward on each sequence alone; in several micro-batches."""
    monkeypatch.setattr("specs_lightning.evaluation.evaluator.TOKENS_AT_ONCE", 200)
    policy = sharp_policy(tiny_model_path)
    engine = HFEngine()
    engine.sync(policy)
    prompts = mixed_prompts(policy)
    drawn = engine.generate(prompts, SamplingSettings(2, 6, temperature), "seed")
    measured = iter(measure_choice(policy, prompts, drawn, temperature))
    for prompt, group in zip(prompts, drawn, strict=True):
        for completion in group:
            ids = torch.tensor(completion.token_ids)
            with torch.no_grad():
                logits = policy.model(**plain_inputs(policy, prompt, ids), use_cache=False).logits[0]
            logits = logits[len(prompt) - 1 : -1].double() / (temperature or 1.0)
            probabilities = logits.index_fill(-1, policy.banned_ids, -math.inf).softmax(-1)
            entropy = torch.distributions.Categorical(probabilities).entropy().mean()
            sizes = [1 + int((p.sort(descending=True).values.cumsum(0) < 0.95).sum()) for p in probabilities]
            assert next(measured) == pytest.approx((entropy.item(), sum(sizes) / len(sizes)), rel=1e-4)
    assert next(measured, None) is None


def test_of_no_prompts_there_is_no_choice_to_measure(tiny_model_path: Path) -> None:
    assert measure_choice(sharp_policy(tiny_model_path), [], [], 1.0) == []
