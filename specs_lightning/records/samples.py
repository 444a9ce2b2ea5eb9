"""`samples.jsonl`: prompts with completions as they were sampled, to be looked at."""

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
    """A prompt, its images as small PNGs in base64, and judged completions."""

    step: int | None
    prompt_id: str
    prompt: str
    images: tuple[str, ...]
    answer: str | None
    answer_format: str
    completions: tuple[SampledText, ...]

    @classmethod
    def of(cls, prompt: Prompt, images: Sequence[str], step: int, completions: Sequence[SampledText]) -> Sample:
        """A prompt with its `images` made small (`prompts.images.preview`)."""
        return cls(step, prompt.id, prompt.text, tuple(images), prompt.answer, prompt.answer_format, tuple(completions))


SAMPLES = RowFile("samples.jsonl", Sample, ONLY_SHOWN, grows=True)
