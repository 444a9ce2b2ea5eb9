"""How long prompts and completions are: what a step's micro-batches are made of, and what a run adds up to."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import TypeVar

import torch
from torch import Tensor

from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.errors import DataError
from specs_lightning.groups import EncodedPrompt, GroupBatch
from specs_lightning.prompts.encoder import PromptEncoder, encode_all
from specs_lightning.prompts.set_aside import SetAside

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Images:
    """The images of one prompt: what the vision tower takes, and the tokens that it makes of them."""

    tensors: Mapping[str, Tensor]
    tokens: int


@dataclass(frozen=True)
class Groups:
    """A sample of prompts, each with its completions' numbers of tokens.

    Args:
        rows: prompts or pairs in the data.
        prompts: the sample; their token ids alone.
        completions: tokens of each completion of each prompt.
        images: of a prompt with many, if any has one.
    """

    rows: int
    prompts: tuple[EncodedPrompt, ...]
    completions: tuple[tuple[int, ...], ...] = ()
    images: Images | None = field(default=None, compare=False)

    @classmethod
    def of(cls, rows: int, prompts: Sequence[EncodedPrompt], image_token: int | None) -> Groups:
        """Prompts without completions."""
        counts = [_count(prompt, image_token) for prompt in prompts]
        most = max(counts)
        images = Images(dict(prompts[counts.index(most)].vision), most) if most else None
        return cls(rows, tuple(EncodedPrompt(prompt.id, prompt.input_ids) for prompt in prompts), (), images)

    def answered(self, tokens: int, k: int) -> Groups:
        """The same prompts with k completions of so many tokens each."""
        return replace(self, completions=((tokens,) * k,) * len(self.prompts))

    @property
    def tokens(self) -> float:
        """Of all completions of a prompt, in the mean."""
        return sum(map(sum, self.completions)) / len(self.completions)

    @property
    def passed(self) -> float:
        """Tokens of a prompt and all its completions, in the mean."""
        return sum(map(len, self.prompts)) / len(self.prompts) + self.tokens

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its longest completion."""
        return max(len(p) + max(c) for p, c in zip(self.prompts, self.completions, strict=True))

    def batch(self, groups: int) -> GroupBatch:
        """So many groups of these lengths."""
        completions = [[[0] * length for length in group] for group in islice(cycle(self.completions), groups)]
        return GroupBatch.from_token_ids(list(islice(cycle(self.prompts), groups)), completions)


def read_prompts(
    source: PromptSource, make_encoder: Callable[[], PromptEncoder], image_token: int | None, sample: int
) -> Groups:
    """A source's prompts, without completions: those that are too long are left out."""
    set_aside = SetAside()
    prompts = load_prompts(source, set_aside, thorough=False)
    encoded = encode_all(make_encoder(), some(prompts, sample), set_aside)  # made once there is something to encode
    if not encoded:
        raise DataError(f"{source.path}: no prompt can be used\n{set_aside.summary()}")
    return Groups.of(len(prompts), encoded, image_token)


def made_up_prompts(rows: int, tokens: int) -> Groups:
    """Prompts of so many tokens, of data that is not there."""
    return Groups(rows, (EncodedPrompt("", torch.zeros(tokens, dtype=torch.long)),))


def some(items: Sequence[T], number: int) -> list[T]:
    """So many of the items, the same each time. Not at even distances: data often repeats itself in a rhythm."""
    return random.Random(0).sample(items, min(number, len(items)))


def row_lengths(batch: GroupBatch, shared_prefix: bool) -> list[int]:
    """Tokens of each row that a batch is packed into, padding left out."""
    if shared_prefix:
        return [sum(map(len, batch.prompts)) + int(batch.lengths_N.sum())]
    return [len(batch.prompts[g]) + n for g, n in zip(batch.group_N.tolist(), batch.lengths_N.tolist(), strict=True)]


def image_tokens(batch: GroupBatch, shared_prefix: bool, image_token: int) -> int:
    """Tokens of the images that are run for a batch; rows with one completion each repeat them."""
    rows = [1] * len(batch.prompts) if shared_prefix else batch.group_sizes
    return sum(_count(prompt, image_token) * n for prompt, n in zip(batch.prompts, rows, strict=True))


def _count(prompt: EncodedPrompt, token: int | None) -> int:
    return prompt.input_ids.tolist().count(token)
