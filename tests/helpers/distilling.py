"""What a base and its teacher say, by script."""

from __future__ import annotations

from collections.abc import Sequence

from helpers.small_runs import ScriptedEngine

from specs_lightning.groups import Prompt
from specs_lightning.scoring.answer_formats import FORMATS

THINK = FORMATS["think_answer"]
SAYS_2 = THINK.write("one and one, so 2", "2")
SAYS_3 = THINK.write("one and two, so 3", "3")
UNTAGGED = "<think>one and one, so 2</think>\nAnswer: 2"
WORDS = "one and one, so 2.\nThe answer is 2"
Script = dict[str, Sequence[str]]


def engine(zero: Script | Sequence[str], base: Script | Sequence[str]) -> ScriptedEngine:
    """What each model says; to each prompt by its id, or the same to all."""

    def say(prompt: Prompt, seed: str) -> Sequence[str]:
        texts = zero if seed.startswith("zero") else base
        return texts[prompt.id] if isinstance(texts, dict) else texts

    return ScriptedEngine(say)
