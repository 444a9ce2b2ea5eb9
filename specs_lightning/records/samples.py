"""`samples.jsonl` and `answer_samples.jsonl`: prompts with completions as they were sampled, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from specs_lightning.records.record import ONLY_SHOWN, RowFile

if TYPE_CHECKING:
    from specs_lightning.groups import Prompt


@dataclass(frozen=True)
class SampledText:
    """A completion as it was sampled; a reward that is None, or NaN before it is written, could not be given.

    `logprob` is the sum over its tokens, by the policy that sampled it, in nats.
    """

    text: str
    finished: bool = True
    tokens: int | None = None
    logprob: float | None = None
    reward: float | None = None
    rewards: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """A prompt, its images as small PNGs in base64, and judged completions.

    `step` is that of the training, None in an evaluation; `set` the evaluation set, empty in a training.
    """

    step: int | None
    prompt_id: str
    prompt: str
    images: tuple[str, ...]
    answer: str | None
    answer_format: str
    completions: tuple[SampledText, ...]
    set: str = ""

    @classmethod
    def of(
        cls,
        prompt: Prompt,
        images: Sequence[str],
        completions: Sequence[SampledText],
        step: int | None = None,
        set: str = "",
    ) -> Sample:
        """A prompt with its `images` made small (`prompts.images.preview`)."""
        asked = prompt.id, prompt.text, tuple(images), prompt.answer, prompt.answer_format
        return cls(step, *asked, tuple(completions), set)


SAMPLES = RowFile("samples.jsonl", Sample, ONLY_SHOWN, grows=True)
ANSWER_SAMPLES = RowFile("answer_samples.jsonl", Sample, ONLY_SHOWN)
