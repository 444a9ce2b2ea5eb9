"""Preference pairs as training data: plain `prompt, chosen, rejected, images` rows in the conversational format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from specs_lightning.data.pairs import PairSource, load_pairs
from specs_lightning.data.policy_data import PolicyDataModule, check_rows, rows_digest, shuffled
from specs_lightning.errors import DataError, check_positive
from specs_lightning.groups import EncodedPrompt, GroupBatch, prompt_digest
from specs_lightning.policy.dealing import idle_note
from specs_lightning.prompts.encoder import UNUSABLE, try_encode
from specs_lightning.records.pairs import PreferencePair


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPair:
    """A pair as token ids, or a demonstration."""

    prompt: EncodedPrompt
    chosen: list[int]
    rejected: list[int] | None

    @property
    def sides(self) -> list[list[int]]:
        """The chosen one first."""
        return [self.chosen] if self.rejected is None else [self.chosen, self.rejected]

    @property
    def digest(self) -> str:
        """Of all that training takes of it."""
        return prompt_digest(self.prompt.question, self.chosen, self.rejected)


class PreferenceDataModule(PolicyDataModule):
    """The cold start's data.

    Args:
        train: a parquet or JSONL file of pairs, as `specs distill` writes it or as TRL, LLaMA-Factory or ms-swift take
            it; for SFT, of demonstrations as well. Its `path`, or a `PairSource` that says more.
        batch_size: pairs in one optimizer step, on all ranks together.
        max_completion_tokens: pairs with a longer side are set aside (never cut), and counted.
        max_prompt_tokens: likewise for prompts.
        engine: answers evaluation prompts; the embedded transformers engine if not given.
        seed: of shuffling and sampling.
        judge: a language model for evaluation answers that rules cannot compare; without one, an answer in other words
            than the gold's is wrong.
        **kwargs: those of every `PolicyDataModule`.
    """

    def __init__(
        self, train: str | PairSource, batch_size: int = 64, max_completion_tokens: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_positive(batch_size=batch_size, max_completion_tokens=max_completion_tokens)
        self.source = PairSource(train) if isinstance(train, str) else train
        self.train = self.source.path
        self.batch_size = batch_size
        self.max_completion_tokens = max_completion_tokens
        self.pairs: list[PreferencePair] = []

    @property
    def steps_per_epoch(self) -> int:
        return self.steps_of(len(self.encoded))

    def steps_of(self, pairs: int) -> int:
        """How many steps an epoch of so many pairs has."""
        return -(-pairs // self.batch_size)

    def idle_note(self, processes: int) -> str | None:
        return idle_note(self.batch_size, processes, "a larger data.batch_size")

    @cached_property
    def encoded(self) -> list[EncodedPair]:
        """Every pair as token ids, made once; what is too long or has a broken image is set aside."""
        encoded = [found for pair in self.pairs if (found := self._encode(pair)) is not None]
        if not encoded:
            raise DataError(f"{self.train}: no pair can be used\n{self.set_aside.summary()}")
        return encoded

    @cached_property
    def digest(self) -> str:
        """Of all pairs that are trained on; taken once."""
        return rows_digest(self.encoded, lambda pair: pair.digest)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and not self.pairs:
            self.pairs = load_pairs(self.source, self.set_aside, self.module.completions_per_pair)

    def train_dataloader(self) -> PreferenceLoader:
        return PreferenceLoader(self)

    def in_order(self) -> Iterator[GroupBatch]:
        """All pairs once, in the order of `index_N`."""
        for start in range(0, len(self.encoded), self.batch_size):
            yield self.collate(range(start, min(start + self.batch_size, len(self.encoded))))

    def collate(self, indices: range | list[int]) -> GroupBatch:
        """The pairs of these indices, or their chosen sides alone where no more is used."""
        k = self.module.completions_per_pair
        pairs = [self.encoded[i] for i in indices]
        index_N = torch.tensor(indices).repeat_interleave(k)
        sides = [pair.sides[:k] for pair in pairs]
        return GroupBatch.from_token_ids([pair.prompt for pair in pairs], sides, index_N=index_N)

    def _encode(self, pair: PreferencePair) -> EncodedPair | None:
        prompt = try_encode(self.encoder, pair.prompt, self.set_aside)
        if prompt is None:
            return None
        try:
            chosen = self.encoder.encode_completion(pair.chosen, prompt.opened)
            rejected = pair.rejected and self.encoder.encode_completion(pair.rejected, prompt.opened)
        except UNUSABLE as error:
            self.set_aside.add_prompt(pair.prompt, str(error))
            return None
        encoded = EncodedPair(prompt, chosen, rejected or None)
        longest = max(map(len, encoded.sides))
        if self.max_completion_tokens is not None and longest > self.max_completion_tokens:
            reason = f"completion longer than {self.max_completion_tokens} tokens: {longest}"
            self.set_aside.add_prompt(pair.prompt, reason)
            return None
        return encoded


class PreferenceLoader:
    """Shuffled batches, another order each epoch. Sized, so that nothing is fetched ahead; resumes at its place."""

    def __init__(self, data: PreferenceDataModule) -> None:
        self.data = data
        self.taken = 0
        """Batches handed out, over all epochs; a checkpoint has those that were trained on."""

    def __len__(self) -> int:
        return self.data.steps_per_epoch

    def __iter__(self) -> Iterator[GroupBatch]:
        epoch, done = divmod(self.taken, len(self))
        order = shuffled(len(self.data.encoded), self.data.seed, epoch)
        for step in range(done, len(self)):
            self.taken += 1
            yield self.data.collate(order[step * self.data.batch_size : (step + 1) * self.data.batch_size])

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.data.module.steps, "content": self.data.digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        ids = (pair.prompt.id for pair in self.data.encoded)
        check_rows(state, "pairs", self.data.digest, ids, self.data.train)
        self.taken = state["taken"]
