"""Consistency of reasoning and answer: does the reasoning end where the answer says it does?

The paper asks an external evaluator (Gemini-2.5-flash), which is `judge` here. Without one, a rule compares what the
reasoning concludes with the answer; it sees nothing of whether the steps between are sound.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from specs_lightning.groups import Completion, Prompt
from specs_lightning.judge import ConsistencyQuestion, Judge
from specs_lightning.rewards.base import Reward, Scored
from specs_lightning.scoring.answer_formats import Parts
from specs_lightning.scoring.consistency import is_consistent, read_parts
from specs_lightning.scoring.math_verify import Verdict


class ConsistencyReward(Reward):
    """1 where the reasoning's own conclusion is the answer given, 0 where it isn't, or where either is missing.

    Whether the answer is right plays no part. The parts are read in the format that the prompt asks for, else in any
    other format, else as the answer that `find_answer` finds and the text before it.

    Args:
        judge: decides; a rule does without one.
    """

    name = "consistency"

    def __init__(self, judge: Judge | None = None) -> None:
        self.judge = judge

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        return self.score(prompts, completions).values_N

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scored:
        parts = [read_parts(c.text, p.answer_format) for p, c in zip(prompts, completions, strict=True)]
        readable = [(prompt, p) for prompt, p in zip(prompts, parts, strict=True) if p is not None]
        known = iter(check_consistency(readable, self.judge))
        return Scored.of([Verdict(False) if p is None else next(known) for p in parts])


def check_consistency(responses: Sequence[tuple[Prompt, Parts]], judge: Judge | None) -> list[Verdict]:
    """Whether each response's reasoning leads to its answer: by the judge, or by rule without one."""
    if judge is not None:
        return judge.ask([ConsistencyQuestion(prompt.text, *parts) for prompt, parts in responses])
    return [
        Verdict(is_consistent(parts.reasoning, parts.answer, prompt.answer_type, prompt.choices))
        for prompt, parts in responses
    ]
