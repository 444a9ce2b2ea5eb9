"""What a rollout engine is: it takes the policy's weights, and samples completions with their log-probabilities.

The contract, tested for every engine: the log-probability that an engine reports for a sampled token is the one that
`Policy.token_logprobs` gives it at the same temperature; where sampling is truncated, that of the distribution which is
left of it.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from specs_lightning.errors import check_positive
from specs_lightning.groups import Completion, EncodedPrompt
from specs_lightning.policy.policy import Policy

_FIRST = ("completions_per_prompt", "max_tokens", "temperature")
"""The settings of sampling that every version has."""


@dataclass(frozen=True)
class SamplingSettings:
    """How completions are drawn."""

    completions_per_prompt: int = 8
    """How many completions each prompt gets."""
    max_tokens: int = 1024
    """The longest completion; one that reaches it is cut off and counts as unfinished."""
    temperature: float = 1.0
    """0 takes the most likely token each time."""
    top_p: float = 1.0
    """Draw from the most likely tokens alone that have this much of the probability together; 1: from all."""
    top_k: int | None = None
    """Draw from so many most likely tokens alone; from all if not given."""
    min_p: float = 0.0
    """Draw from tokens alone that have at least this share of the most likely one's probability; 0: from all. Of what
    this leaves `top_k` is taken, and of that `top_p`, as in vLLM."""
    stop: list[str] = field(default_factory=list)
    """Texts that end a completion where it writes one of them; it counts as finished, as with the end token."""
    include_stop: bool = False
    """Leave that text at the completion's end. Otherwise the completion's text ends before it, as in vLLM."""

    def __post_init__(self) -> None:
        check_positive(completions_per_prompt=self.completions_per_prompt, max_tokens=self.max_tokens)
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 or a positive number, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1 (all tokens), not {self.top_p}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be positive, not {self.top_k}: leave it out for all tokens")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be between 0 (all tokens) and 1, not {self.min_p}")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"stop must be a list of texts, none of them empty, not {self.stop!r}")

    @property
    def truncated(self) -> bool:
        """Whether some tokens are never drawn. At temperature 0 nothing is: the most likely one is always left."""
        return self.temperature > 0 and (self.top_p < 1 or self.top_k is not None or self.min_p > 0)

    @property
    def decisive(self) -> dict[str, Any]:
        """What completions depend on; settings that the first versions do not have where they are not left out."""
        unset = asdict(SamplingSettings())
        return {name: value for name, value in asdict(self).items() if name in _FIRST or value != unset[name]}


class RolloutEngine(ABC):
    """Samples completions from the policy."""

    runs_beside_training: ClassVar[bool] = False
    """Whether `generate` may go on in another thread while the policy trains."""

    @property
    def decisive(self) -> dict[str, Any]:
        """What its completions depend on: the class; a subclass adds settings that change more than speed."""
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}"}

    @property
    def max_length(self) -> int | None:
        """How many tokens a prompt and its completion may have together, known after a `sync`; `None`: any number."""
        return None

    def longest_prompt(self, sampling: SamplingSettings) -> int | None:
        """How many tokens a prompt may have that leaves room for its completion; `None`: any number."""
        return None if self.max_length is None else max(1, self.max_length - sampling.max_tokens)

    @abstractmethod
    def sync(self, policy: Policy) -> None:
        """Take over the policy's current weights; completions carry its version from here on."""

    @abstractmethod
    def generate(
        self, prompts: Sequence[EncodedPrompt], sampling: SamplingSettings, seed: str
    ) -> list[list[Completion]]:
        """Completions for each prompt, in order, their texts from what the prompt opened on (`with_opened`).

        The seed, a prompt's id and its occurrence determine that prompt's completions, whatever else is in the call
        and whatever was drawn before.
        """

    def release(self) -> None:
        """Give memory to the training until the next `sync`. Nothing, for most."""
        return None

    def close(self) -> None:
        """Release what the engine holds. Nothing, for most."""
        return None


def with_opened(prompts: Sequence[EncodedPrompt], drawn: Sequence[Sequence[Completion]]) -> list[list[Completion]]:
    """The completions that were drawn for prompts, their texts made whole by what each prompt opened."""
    return [
        [replace(c, text=prompt.opened + c.text, opened=prompt.opened) for c in group] if prompt.opened else [*group]
        for prompt, group in zip(prompts, drawn, strict=True)
    ]


def prompt_seed(seed: str, prompt_id: str, occurrence: int = 0) -> int:
    """A 63-bit seed from a call's seed, a prompt's id and its occurrence; the same on every machine."""
    salt = occurrence.to_bytes(8, "big")
    digest = hashlib.blake2b(f"{seed}/{prompt_id}".encode(), digest_size=8, salt=salt).digest()
    return int.from_bytes(digest, "little") >> 1


def stop_ids(policy: Policy) -> list[int]:
    """The ids that end a completion: the generation config's, or the tokenizer's end token."""
    configured = policy.model.generation_config.eos_token_id
    if configured is None and (configured := policy.tokenizer.eos_token_id) is None:
        raise ValueError(f"{policy.source}: neither its generation config nor its tokenizer names an end token")
    return configured if isinstance(configured, list) else [configured]
