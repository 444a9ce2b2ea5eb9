"""Evaluations of this project while a policy trains, by their class paths in specs.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specs_lightning.callbacks import EvaluationCallback, Measured
from specs_lightning.data import PromptSource
from specs_lightning.evaluation import Answered


class Overthinking(EvaluationCallback):
    """Are wrong answers longer than right ones?

    Args:
        prompts: the questions.
        settings: `every_n_steps`, `sampling`, `engine` and `batch_size`, as every `EvaluationCallback` has them.
    """

    def __init__(self, prompts: PromptSource, **settings: Any) -> None:
        super().__init__("overthinking", {"all": prompts}, **settings)

    def measure(self, answered: dict[str, list[Answered]]) -> Mapping[str, Measured]:
        answers = [one.answer for one in answered["all"]]
        return {
            "tokens_if_right": [answer.tokens for answer in answers if answer.correct == 1 and answer.tokens],
            "tokens_if_wrong": [answer.tokens for answer in answers if answer.correct == 0 and answer.tokens],
        }
