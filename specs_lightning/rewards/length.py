"""Rewards of a completion's length and of what it repeats, to be summed with those of its answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from specs_lightning.groups import Completion, Prompt
from specs_lightning.judge import Judge
from specs_lightning.rewards.accuracy import AccuracyReward
from specs_lightning.rewards.base import Reward, Scored


class SoftOverlongPenalty(Reward):
    """0 for a completion up to `max_tokens` − `buffer_tokens`, from there falling to −1 at `max_tokens`, and −1 beyond
    (DAPO, arXiv 2503.14476, equation 13).

    Args:
        max_tokens: the length from which on the whole penalty is due, usually `sampling.max_tokens`.
        buffer_tokens: over how many tokens before it the penalty grows.
    """

    name = "overlong"

    def __init__(self, max_tokens: int, buffer_tokens: int) -> None:
        if not 0 < buffer_tokens <= max_tokens:
            raise ValueError(f"buffer_tokens must be in 1 to max_tokens ({max_tokens}), not {buffer_tokens}")
        self.max_tokens, self.buffer_tokens = max_tokens, buffer_tokens

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        length_N = torch.tensor([len(completion.token_ids) for completion in completions], dtype=torch.float32)
        return ((self.max_tokens - self.buffer_tokens - length_N) / self.buffer_tokens).clamp(-1, 0)


class RepetitionPenalty(Reward):
    """−`penalty` times the share of a completion's n-grams of tokens that came before in it ("Demystifying long
    chain-of-thought", arXiv 2502.03373, appendix C.2, by completion as in TRL).

    Args:
        ngram_tokens: how many tokens an n-gram has.
        penalty: of a completion that repeats all the time.
    """

    name = "repetition"

    def __init__(self, ngram_tokens: int = 3, penalty: float = 1.0) -> None:
        if ngram_tokens < 1 or penalty <= 0:
            raise ValueError(f"ngram_tokens ({ngram_tokens}) and penalty ({penalty}) must be positive")
        self.ngram_tokens, self.penalty = ngram_tokens, penalty

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        repeated = [repeated_share(completion.token_ids, self.ngram_tokens) for completion in completions]
        return -self.penalty * torch.tensor(repeated, dtype=torch.float32)


def repeated_share(ids: Sequence[int], n: int) -> float:
    """The share of the n-grams that are not the first of their kind; 0 where there are none."""
    ngrams = list(zip(*(ids[i:] for i in range(n)), strict=False))
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


class CosineLengthReward(AccuracyReward):
    """Accuracy by length: a right answer is worth less the longer it took, a wrong one is less bad the longer it was
    tried, each along half a cosine ("Demystifying long chain-of-thought", arXiv 2502.03373, appendix C.1). The default
    values are TRL's; the accuracy reward is not needed beside it.

    Args:
        max_tokens: the length at which the long values are reached, usually `sampling.max_tokens`.
        right_short: of a right answer in no tokens.
        right_long: of one in `max_tokens`.
        wrong_short: of a wrong answer in no tokens.
        wrong_long: of one in `max_tokens`.
        unfinished: of a completion that was cut off, right or wrong; if not given, it is as any other.
        timeout_seconds: processor time that one comparison by math-verify may take.
        workers: math-verify processes, started when first needed.
        judge: is asked of answers in other words than the gold's; without one they are wrong.
    """

    name = "cosine_length"

    def __init__(
        self,
        max_tokens: int,
        right_short: float = 1.0,
        right_long: float = 0.5,
        wrong_short: float = -1.0,
        wrong_long: float = -0.5,
        unfinished: float | None = None,
        timeout_seconds: float = 1.0,
        workers: int = 1,
        judge: Judge | None = None,
    ) -> None:
        super().__init__(timeout_seconds, workers, judge)
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be positive, not {max_tokens}")
        self.max_tokens, self.unfinished = max_tokens, unfinished
        self.right, self.wrong = (right_short, right_long), (wrong_short, wrong_long)

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scored:
        verdicts_N, causes = super().score(prompts, completions)
        values = map(self._value, verdicts_N.tolist(), completions)
        return Scored(torch.tensor(list(values), dtype=torch.float32), causes)

    def _value(self, verdict: float, completion: Completion) -> float:
        if math.isnan(verdict):
            return verdict
        if self.unfinished is not None and not completion.finished:
            return self.unfinished
        short, long = self.right if verdict else self.wrong
        progress = min(len(completion.token_ids) / self.max_tokens, 1.0)
        return long + (short - long) * (1 + math.cos(progress * math.pi)) / 2
