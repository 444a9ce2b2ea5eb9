"""The accuracy reward: whether a response's answer is the gold answer, in whatever form it stands.

Rules come first, in process and cheap: options, yes and no, words, plain numbers. What they cannot decide goes to
math-verify in killable processes (`workers`), and answers in other words than the gold's to a judge (`judge`), if
there is one: without, they are wrong. Departure from the paper: a gold answer that can't be read leaves its completions
unscored, where the framework that the paper trained on gave them 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from specs_lightning.groups import Completion, Prompt
from specs_lightning.judge import AnswerQuestion, Judge
from specs_lightning.rewards.base import Reward, Scored
from specs_lightning.scoring.comparison import Judged, OtherWords, judge_by_rules
from specs_lightning.scoring.math_verify import Comparison, MathVerifier, Verdict


class AccuracyReward(Reward):
    """1 for a right answer, 0 for a wrong one or none, NaN where that could not be found out.

    The answer is looked for leniently (`find_answer`): keeping the format is `FormatReward`'s business. A comparison
    that runs out of time is unscored, as is every completion of a prompt without a usable gold answer.

    Args:
        timeout_seconds: processor time that one comparison by math-verify may take.
        workers: math-verify processes, started when first needed.
        judge: is asked of answers in other words than the gold's; without one they are wrong.
    """

    name = "accuracy"

    def __init__(self, timeout_seconds: float = 1.0, workers: int = 1, judge: Judge | None = None) -> None:
        self.verifier = MathVerifier(timeout_seconds, workers)
        self.judge = judge

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        return self.score(prompts, completions).values_N

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scored:
        judged = [judge_by_rules(c.text, p) for p, c in zip(prompts, completions, strict=True)]
        return Scored.of(decide(judged, prompts, self.verifier, self.judge))

    def close(self) -> None:
        self.verifier.close()
        super().close()


def is_correct(response: str, prompt: Prompt, verifier: MathVerifier, judge: Judge | None = None) -> Verdict:
    """Whether a response answers its prompt correctly: the whole of accuracy for a single response."""
    return decide([judge_by_rules(response, prompt)], [prompt], verifier, judge)[0]


def decide(
    judged: Sequence[Judged],
    prompts: Sequence[Prompt],
    verifier: MathVerifier,
    judge: Judge | None,
) -> list[Verdict]:
    """The verdicts, with those that the rules left open by math-verify and the judge."""
    by_value = {i: one for i, one in enumerate(judged) if isinstance(one, Comparison)}
    found = dict(zip(by_value, verifier.compare(list(by_value.values())), strict=True))
    if judge is not None:
        by_meaning = {i: one for i, one in enumerate(judged) if isinstance(one, OtherWords)}
        questions = [AnswerQuestion(prompts[i].text, one.gold, one.answer) for i, one in by_meaning.items()]
        found.update(zip(by_meaning, judge.ask(questions), strict=True))
    return [one if isinstance(one, Verdict) else found.get(i, Verdict(False)) for i, one in enumerate(judged)]
