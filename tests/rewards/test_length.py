"""Rewards of length and repetition, by hand and against TRL's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from trl.rewards import get_cosine_scaled_reward, get_repetition_penalty_reward, get_soft_overlong_punishment

from specs_lightning.groups import Completion, Prompt
from specs_lightning.rewards import CosineLengthReward, RepetitionPenalty, Reward, SoftOverlongPenalty


def of_tokens(*ids: int, finished: bool = True, text: str = "") -> Completion:
    return Completion(ids, (), text, finished)


def long(tokens: int) -> Completion:
    return of_tokens(*range(tokens))


def scores(reward: Reward, completions: Sequence[Completion]) -> list[float]:
    prompt = Prompt("p", ({"role": "user", "content": "How many?"},))
    return reward([prompt] * len(completions), completions).tolist()


class TestSoftOverlongPenalty:
    def test_by_hand(self) -> None:
        """Of at most 10 tokens, with a buffer of 4."""
        measured = scores(SoftOverlongPenalty(10, 4), [long(n) for n in (0, 6, 7, 8, 9, 10, 11, 40)])
        assert measured == [0, 0, -0.25, -0.5, -0.75, -1, -1, -1]

    def test_it_is_that_of_trl(self) -> None:
        completions = [long(n) for n in range(30)]
        theirs = get_soft_overlong_punishment(20, 7)(completion_ids=[c.token_ids for c in completions])
        assert scores(SoftOverlongPenalty(20, 7), completions) == pytest.approx(theirs)

    @pytest.mark.parametrize("buffer_tokens", [0, 11])
    def test_the_buffer_is_within_the_length(self, buffer_tokens: int) -> None:
        with pytest.raises(ValueError, match="buffer_tokens must be in 1 to max_tokens"):
            SoftOverlongPenalty(10, buffer_tokens)


class TestRepetitionPenalty:
    def test_by_hand(self) -> None:
        """Of the pairs of 1 2 1 2 1, two of four came before; of five times the same token, three of four."""
        completions = [of_tokens(1, 2, 1, 2, 1), of_tokens(*[5] * 5), of_tokens(1, 2, 3), of_tokens(1), of_tokens()]
        assert scores(RepetitionPenalty(2, penalty=2), completions) == [-1, -1.5, 0, 0, 0]

    def test_it_is_that_of_trl(self) -> None:
        completions = [of_tokens(*(n * n % modulus for n in range(30))) for modulus in (2, 3, 5, 7, 100)]
        theirs = get_repetition_penalty_reward(3, -1.0)(completion_ids=[c.token_ids for c in completions])
        assert scores(RepetitionPenalty(), completions) == pytest.approx(theirs)

    @pytest.mark.parametrize("wrong", [{"ngram_tokens": 0}, {"penalty": 0.0}])
    def test_settings_out_of_range(self, wrong: Any) -> None:
        with pytest.raises(ValueError, match="must be positive"):
            RepetitionPenalty(**wrong)


RIGHT, WRONG = "<think>so</think><answer>2</answer>", "<think>so</think><answer>3</answer>"


class TestCosineLengthReward:
    @pytest.fixture
    def score(self, ask: Callable[..., Prompt]) -> Callable[..., list[float]]:
        def measured(reward: CosineLengthReward, *completions: Completion, answer: str | None = "2") -> list[float]:
            return reward([ask(answer)] * len(completions), completions).tolist()

        return measured

    def test_by_hand(self, score: Any) -> None:
        """The cosine is 1 at the start, ½ after a third, 0 half way, −1 at the end, and there it stays."""
        reward = CosineLengthReward(12, right_short=2, right_long=1, wrong_short=-10, wrong_long=0)
        lengths = (0, 4, 6, 12, 30)
        right, wrong = ([replace(long(n), text=text) for n in lengths] for text in (RIGHT, WRONG))
        assert score(reward, *right) == pytest.approx([2, 1.75, 1.5, 1, 1])
        assert score(reward, *wrong) == pytest.approx([-10, -7.5, -5, 0, 0], abs=1e-6)

    def test_it_is_that_of_trl(self, score: Any) -> None:
        texts = [r"\boxed{2}", r"\boxed{3}"] * 4
        completions = [replace(long(3 * n), text=text) for n, text in enumerate(texts)]
        theirs = get_cosine_scaled_reward(max_len=15)(
            [[{"content": text}] for text in texts], ["2"] * len(texts), [c.token_ids for c in completions]
        )
        assert score(CosineLengthReward(15), *completions) == pytest.approx(theirs)

    def test_what_was_cut_off_may_have_a_value_of_its_own(self, score: Any) -> None:
        cut = of_tokens(1, 2, finished=False, text=RIGHT)
        assert score(CosineLengthReward(4, unfinished=-3), cut) == [-3]
        assert score(CosineLengthReward(4), cut) == pytest.approx([0.75])

    def test_what_cannot_be_judged_is_unscored(self, score: Any) -> None:
        assert math.isnan(score(CosineLengthReward(4), of_tokens(1, text=RIGHT), answer=None)[0])

    def test_the_length_is_positive(self) -> None:
        with pytest.raises(ValueError, match="max_tokens must be positive"):
            CosineLengthReward(0)
