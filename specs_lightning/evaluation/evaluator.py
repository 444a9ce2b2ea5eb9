"""Evaluation: a policy answers prompts, and each answer is judged by whether it is right and in the asked format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from specs_lightning.groups import Completion, EncodedPrompt, GroupBatch, Prompt
from specs_lightning.metrics import nucleus_sizes, rollout_branching_factor
from specs_lightning.policy.policy import Policy
from specs_lightning.records.answers import Answer
from specs_lightning.rewards import AccuracyReward, Judge
from specs_lightning.rewards.accuracy import decide
from specs_lightning.rollout.engine import RolloutEngine, SamplingSettings
from specs_lightning.scoring.answer_formats import read_asked
from specs_lightning.scoring.answer_search import find_answer
from specs_lightning.scoring.benchmarks import judge_response
from specs_lightning.scoring.math_verify import Verdict
from specs_lightning.scoring.text import plain
from specs_lightning.system.ranks import failing_together

TOKENS_AT_ONCE = 16384

Judgement = tuple[float, str | None]
"""1 of a right answer, 0 of a wrong one, a share of one that is right in part; NaN, with its cause, of one that could
not be judged."""


class Answered(NamedTuple):
    """A judged answer with what was asked and what was sampled."""

    prompt: Prompt
    completion: Completion
    answer: Answer


class AnswerJudge:
    """Judges answers by rules, and by a language model where there is one.

    Args:
        judge: is asked of answers in other words than the gold's; without one they are wrong.
    """

    def __init__(self, judge: Judge | None = None) -> None:
        self.accuracy = AccuracyReward(judge=judge)

    def judge_again(self, questions: Sequence[Prompt], answers: Sequence[Answer]) -> list[Answer]:
        """Answers that were drawn before, by today's rules and judge."""
        verdicts = self.verdicts(questions, [answer.text for answer in answers])
        triples = zip(questions, answers, verdicts, strict=True)
        return [replace(a, **_judged(a, question, verdict)) for question, a, verdict in triples]

    def verdicts(self, questions: Sequence[Prompt], texts: Sequence[str]) -> list[Judgement]:
        """What is to be said of responses to these questions, by the rules of each prompt's benchmark."""
        judged = [judge_response(text, question) for question, text in zip(questions, texts, strict=True)]
        open_questions = [Verdict(None) if isinstance(j, float) else j for j in judged]
        verdicts = decide(open_questions, questions, self.accuracy.verifier, self.accuracy.judge)
        known = [(math.nan if v.correct is None else float(v.correct), v.cause) for v in verdicts]
        return [(j, None) if isinstance(j, float) else verdict for j, verdict in zip(judged, known, strict=True)]

    def close(self) -> None:
        """End the processes that judge."""
        self.accuracy.close()


class Evaluator(AnswerJudge):
    """Answers prompts with an engine, each perhaps several times, and judges the answers.

    Args:
        seed: with a prompt's id it determines the sampling, so that two policies meet the same luck.
        with_choice: also measure each answer's entropy and branching factor, by a forward pass of the policy.
        judge: is asked of answers in other words than the gold's; without one they are wrong.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        sampling: SamplingSettings,
        seed: int = 0,
        with_choice: bool = False,
        judge: Judge | None = None,
    ) -> None:
        self.engine, self.sampling, self.seed, self.with_choice = engine, sampling, seed, with_choice
        super().__init__(judge)

    def ask(self, policy: Policy, prompts: Sequence[EncodedPrompt], set_name: str) -> list[Answered]:
        """Judged answers, those to one prompt next to each other, with the prompts and completions.

        All processes of a training must ask, each with its share of the prompts.
        """
        with failing_together():
            self.engine.sync(policy)
            drawn = self.engine.generate(prompts, self.sampling, seed=f"evaluation-{self.seed}-{set_name}")
            questions = [encoded.question for encoded, group in zip(prompts, drawn, strict=True) for _ in group]
            completions = [completion for group in drawn for completion in group]
            choice = self._choice(policy, prompts, drawn)
            verdicts = self.verdicts(questions, [completion.text for completion in completions])
        judged = zip(questions, completions, verdicts, choice, strict=True)
        return [Answered(q, c, judge(set_name, q, c, verdict, *measured)) for q, c, verdict, measured in judged]

    def _choice(
        self, policy: Policy, prompts: Sequence[EncodedPrompt], drawn: Sequence[Sequence[Completion]]
    ) -> list[tuple[float, float]]:
        if not self.with_choice:
            return [(math.nan, math.nan)] * sum(map(len, drawn))
        policy.gather_weights()  # processes have different numbers of answers to go through
        choice = measure_choice(policy, prompts, drawn, self.sampling.temperature)
        policy.free_weights()
        return choice


def judge(
    set_name: str,
    prompt: Prompt,
    completion: Completion,
    verdict: Judgement,
    entropy: float = math.nan,
    branching_factor: float = math.nan,
) -> Answer:
    """What there is to know of a completion, given whether it is right."""
    return Answer(
        set=set_name,
        prompt_id=prompt.id,
        text=completion.text,
        tokens=len(completion.token_ids),
        finished=completion.finished,
        entropy=entropy,
        branching_factor=branching_factor,
        logprob=math.fsum(completion.logprobs),
        opened=completion.opened,
        **_judged(completion, prompt, verdict),
    )


def _judged(said: Completion | Answer, prompt: Prompt, verdict: Judgement) -> dict[str, Any]:
    """All of an answer that follows from its text."""
    kept = said.finished and read_asked(said.text, prompt.answer_format, said.opened) is not None
    found = find_answer(said.text, prompt.answer_format)
    correct, cause = verdict
    return {
        "format_kept": float(kept),
        "correct": correct,
        "solved": correct * kept,
        "answer": plain(found) or None if found else None,
        "task": prompt.metadata.get("task") if "benchmark" in prompt.metadata else None,
        "cause": cause,
    }


@torch.no_grad()
def measure_choice(
    policy: Policy, prompts: Sequence[EncodedPrompt], drawn: Sequence[Sequence[Completion]], temperature: float
) -> list[tuple[float, float]]:
    """Entropy (nats) and branching factor of each completion that was drawn, both the mean over its tokens.

    The temperature is that of the sampling; 0 (the likeliest token each time) is measured at 1.
    """
    if not prompts:
        return []
    batch = GroupBatch.from_token_ids(prompts, [[c.token_ids for c in group] for group in drawn])
    measured: list[tuple[float, float]] = []
    for part in batch.micro_batches(TOKENS_AT_ONCE, policy.shared_prefix):
        part = part.to(policy.device)
        scored = policy.token_logprobs(part, temperature or 1.0, with_entropy=True, observe=nucleus_sizes)
        assert scored.entropy is not None and scored.observed is not None  # both were asked for
        entropy_N = scored.entropy.double().sum(-1) / part.mask_NT.sum(-1)
        factor_N = rollout_branching_factor(scored.observed, part.mask_NT)
        measured += zip(entropy_N.tolist(), factor_N.tolist(), strict=True)
    return measured
