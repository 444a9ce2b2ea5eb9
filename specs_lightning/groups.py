"""The words that every part shares: a prompt, its completions, the group they form, and the batch of groups.

Everything trains on groups: SFT has one completion a prompt, DPO two (chosen, then rejected), GRPO many.
Shape suffixes: `_N` completions of the batch, `_T` completion tokens (right-padded), `_P` tokens of one prompt, `_K`
rewards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")
"""What processors call it when they say of each token of a prompt what it is: of text, or of an image."""

Image = bytes | Path
"""An encoded image file, in memory or on disk: decoded only where it is used."""


PLACE = frozenset({"source_file", "source_row"})
"""What of a prompt's metadata says where it stands, and not what it is."""


def image_bytes(image: Image) -> bytes:
    return image.read_bytes() if isinstance(image, Path) else image


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as the data set tells it, with what is needed to score an answer.

    Args:
        id: unique within its data set; seeds the sampling of this prompt's completions.
        messages: chat messages; each image stands as a `{"type": "image"}` content part.
        images: the images, in the order of their parts.
        answer: the gold answer; `None` where there is none to verify against.
        answer_type: how answers are compared, one of `rewards.accuracy.ANSWER_TYPES`.
        answer_format: the name of the format that the prompt asks for (`answer_formats.FORMATS`).
        choices: the texts of the options of a multiple-choice question, A first.
        precision: how many decimal places of a number count; `None` where all do.
        metadata: anything else worth keeping beside the prompt (its source row, its task).
    """

    id: str
    messages: tuple[dict[str, Any], ...]
    images: tuple[Image, ...] = ()
    answer: str | None = None
    answer_type: str = "auto"
    answer_format: str = "think_answer"
    choices: tuple[str, ...] = ()
    precision: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The text of all messages, images left out: for reports and judges."""
        parts: list[str] = []
        for content in (message["content"] for message in self.messages):
            parts += [content] if isinstance(content, str) else [p["text"] for p in content if p["type"] == "text"]
        return "\n".join(parts)


def prompt_digest(prompt: Prompt, *more: Any) -> str:
    """Tells by content what a model is asked: its texts and the bytes of its images, with plain values beside them.

    The id counts, too: it seeds the sampling. An image that cannot be read is told from any that can.
    """
    digest = hashlib.sha256(json.dumps([*more, prompt.id, prompt.messages]).encode())
    for image in prompt.images:
        try:
            digest.update(hashlib.sha256(image_bytes(image)).digest())
        except OSError:
            digest.update(b"unreadable")
    return digest.hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Completion:
    """What a policy answered to a prompt.

    Args:
        token_ids: the sampled ids, the end token included where there was one.
        logprobs: the engine's log-probability of each sampled id, in nats, at the sampling temperature.
        text: the response: what the prompt `opened`, then the decoded ids without special tokens.
        finished: whether the policy ended it, rather than the length limit.
        policy_version: the version of the policy that sampled it.
        opened: the beginning of `text` that stands at the prompt's end (`EncodedPrompt.opened`).
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finished: bool
    policy_version: int = 0
    opened: str = ""

    def as_row(self) -> dict[str, Any]:
        """Plain values by name: for checkpoints, files and the wire."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Completion:
        """The completion of `as_row`, whose tuples JSON has made lists."""
        return cls(**{**row, "token_ids": tuple(row["token_ids"]), "logprobs": tuple(row["logprobs"])})


@dataclass(slots=True, eq=False, weakref_slot=True)
class EncodedPrompt:
    """A prompt as the model takes it: token ids with every image placeholder expanded, and its images' tensors.

    Args:
        id: the prompt's id.
        input_ids: (P,) token ids.
        vision: the processor's image tensors (`pixel_values`, `image_grid_thw`, …), images along the first axis.
        position_ids: (rows, P) positions, filled in by the policy at first use, since they depend on its family.
        token_types: (P,) by its name (`TOKEN_TYPES`), what the processor says of each token.
        prompt: what was encoded; engines that encode for themselves start from it.
        occurrence: how often the prompt came before among those that are sampled together; with its id it seeds the
            sampling, so that a second time brings other completions.
        opened: the reasoning tag that the chat template opens at its end, with the white space behind it; mostly none.
    """

    id: str
    input_ids: Tensor
    vision: Mapping[str, Tensor] = field(default_factory=dict)
    position_ids: Tensor | None = None
    token_types: Mapping[str, Tensor] = field(default_factory=dict)
    prompt: Prompt | None = None
    occurrence: int = 0
    opened: str = ""

    @property
    def question(self) -> Prompt:
        """What was encoded.

        Raises:
            ValueError: it was encoded without keeping it.
        """
        if self.prompt is None:
            raise ValueError(f"the encoded prompt {self.id} does not hold what it was made of")
        return self.prompt

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def to(self, device: torch.device) -> EncodedPrompt:
        """The same with its ids there; image tensors, which may not be needed, stay where they are."""
        return self if self.input_ids.device == device else replace(self, input_ids=self.input_ids.to(device))


@dataclass(slots=True, eq=False)
class Group:
    """A prompt and its K completions, scored: what a rollout hands to training."""

    prompt: EncodedPrompt
    completions: list[Completion]
    rewards: Tensor = field(default_factory=lambda: torch.empty(0))
    """(K,) weighted sums, none before they are scored; NaN marks a completion that could not be."""
    rewards_by_name: dict[str, Tensor] = field(default_factory=dict)
    old_logprobs: list[Tensor] | None = None
    """The trainer's own log-probabilities of each completion's tokens at the start of the round, where needed."""

    def state(self) -> dict[str, Any]:
        """Plain values and tensors for a checkpoint; the prompt is kept by its id."""
        return _values(self) | {"prompt": self.prompt.id, "completions": [_values(c) for c in self.completions]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], prompts: Mapping[str, EncodedPrompt]) -> Group:
        """What `state` kept, given its prompt by id."""
        completions = [Completion.from_row(row) for row in state["completions"]]
        return cls(**{**state, "prompt": prompts[state["prompt"]], "completions": completions})


@dataclass(slots=True, eq=False)
class GroupBatch:
    """Groups ready to train on: prompts once, completions right-padded.

    Completions of one group stand next to each other. Optional tensors are `None` where an objective has no use
    for them; every tensor whose name ends in `_N`, `_NK` or `_NT` follows `select` and `to`.
    """

    prompts: list[EncodedPrompt]
    group_N: Tensor
    """The index into `prompts` of each completion."""
    completion_ids_NT: Tensor
    lengths_N: Tensor
    """Tokens in each completion; what lies beyond is padding."""
    mask_NT: Tensor
    """True where a token counts in the loss."""
    advantages_N: Tensor | None = None
    rewards_N: Tensor | None = None
    """NaN marks a completion that could not be scored."""
    rewards_NK: Tensor | None = None
    """Each reward's own values, before weights."""
    reward_weights: tuple[float, ...] = ()
    """One for each of these rewards."""
    finished_N: Tensor | None = None
    """Whether the policy ended the completion, rather than the length limit."""
    sampler_logprobs_NT: Tensor | None = None
    """What the rollout engine reported for each token."""
    old_logprobs_NT: Tensor | None = None
    """The trainer's own at the start of the round."""
    reference_logprobs_NT: Tensor | None = None
    reference_logprobs_N: Tensor | None = None
    """Summed over each completion."""
    index_N: Tensor | None = None
    """Each completion's row in its data set, for what is cached by row."""
    temperature: float = 1.0
    """At which the completions were sampled."""
    truncation: Callable[[Tensor], Tensor] | None = None
    """What their sampling made of logits at that temperature before it drew, as `rollout.truncation` has it; `None`:
    nothing."""
    kept_logmass_NT: Tensor | None = None
    """The log of the probability that it keeps of the policy's distribution at each token."""
    fresh: bool = False
    """Whether it is the first step of a round: the policy is still the one that the round began with."""
    dummy_prompt: EncodedPrompt | None = None
    """What the policy runs beside the groups and takes nothing from: see `micro_batches`."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What the data module measured while making the batch, to be logged with its step."""

    def __len__(self) -> int:
        return self.group_N.shape[0]

    @property
    def group_sizes(self) -> list[int]:
        return torch.bincount(self.group_N, minlength=len(self.prompts)).tolist()

    @classmethod
    def from_token_ids(
        cls, prompts: Sequence[EncodedPrompt], completions: Sequence[Sequence[Sequence[int]]], **tensors: Any
    ) -> GroupBatch:
        """Pack `completions[g]`, the token ids of each completion of `prompts[g]`. Every token counts in the loss."""
        flat = [torch.as_tensor(ids, dtype=torch.long) for group in completions for ids in group]
        sizes = torch.tensor([len(group) for group in completions])
        lengths_N = torch.tensor([len(ids) for ids in flat])
        completion_ids_NT = torch.nn.utils.rnn.pad_sequence(flat, batch_first=True)
        mask_NT = torch.arange(completion_ids_NT.shape[1]) < lengths_N[:, None]
        group_N = torch.repeat_interleave(torch.arange(len(prompts)), sizes)
        return cls(list(prompts), group_N, completion_ids_NT, lengths_N, mask_NT, **tensors)

    @classmethod
    def from_groups(cls, groups: Sequence[Group], **tensors: Any) -> GroupBatch:
        """Pack scored groups, with the engine's log-probs and, where every group has them, the old policy's."""
        batch = cls.from_token_ids(
            [group.prompt for group in groups],
            [[completion.token_ids for completion in group.completions] for group in groups],
            **tensors,
        )
        completions = [completion for group in groups for completion in group.completions]
        logprobs = [torch.tensor(completion.logprobs) for completion in completions]
        batch.sampler_logprobs_NT = torch.nn.utils.rnn.pad_sequence(logprobs, batch_first=True)
        old = [group.old_logprobs for group in groups if group.old_logprobs is not None]
        if len(old) == len(groups):
            batch.old_logprobs_NT = torch.nn.utils.rnn.pad_sequence(list(chain(*old)), batch_first=True)
        batch.rewards_N = torch.cat([group.rewards for group in groups])
        if names := list(groups[0].rewards_by_name):
            by_name = [torch.cat([group.rewards_by_name[name] for group in groups]) for name in names]
            batch.rewards_NK = torch.stack(by_name, -1)
        batch.finished_N = torch.tensor([completion.finished for completion in completions])
        return batch

    def select(self, indices: Sequence[int] | Tensor) -> GroupBatch:
        """The batch of these completions alone (in rising order), their prompts renumbered, padding trimmed."""
        indices = torch.as_tensor(indices, dtype=torch.long, device=self.group_N.device)
        kept, group_N = torch.unique_consecutive(self.group_N[indices], return_inverse=True)
        length = int(self.lengths_N[indices].max()) if len(indices) else 0
        chosen: dict[str, Any] = {
            name: tensor[indices, :length] if name.endswith("_NT") else tensor[indices]
            for name, tensor in self._tensors().items()
        }
        return replace(self, **{**chosen, "prompts": [self.prompts[g] for g in kept.tolist()], "group_N": group_N})

    def with_dummy_prompt(self) -> GroupBatch:
        """The batch with its dummy prompt as a last group, of one empty completion; without the optional tensors."""
        if self.dummy_prompt is None:
            raise ValueError("the batch has no dummy prompt")
        pad = torch.nn.functional.pad
        return GroupBatch(
            prompts=[*self.prompts, self.dummy_prompt],
            group_N=pad(self.group_N, (0, 1), value=len(self.prompts)),
            completion_ids_NT=pad(self.completion_ids_NT, (0, 0, 0, 1)),
            lengths_N=pad(self.lengths_N, (0, 1)),
            mask_NT=pad(self.mask_NT, (0, 0, 0, 1)),
        )

    def to(self, device: torch.device | str) -> GroupBatch:
        device = torch.device(device)
        moved: dict[str, Any] = {name: t.to(device, non_blocking=True) for name, t in self._tensors().items()}
        if self.dummy_prompt is not None:
            moved["dummy_prompt"] = self.dummy_prompt.to(device)
        return replace(self, prompts=[prompt.to(device) for prompt in self.prompts], **moved)

    def micro_batches(
        self, max_tokens: int, shared_prefix: bool = True, whole_groups: bool = False
    ) -> list[GroupBatch]:
        """Split into batches of at most `max_tokens` tokens each, in order.

        All groups of a batch share a row without padding, in which each prompt stands once; or, without
        `shared_prefix`, each completion has a row behind its prompt, padded to the longest. A unit that alone exceeds
        the limit forms a batch of its own: a completion with its prompt or, with `whole_groups` (an objective that
        compares the completions of a group), a group.
        """
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be positive, not {max_tokens}")
        groups, lengths = self.group_N.tolist(), self.lengths_N.tolist()
        units = [list(ns) for _, ns in groupby(range(len(groups)), lambda n: groups[n] if whole_groups else n)]
        batches: list[list[int]] = []
        rows: list[int] = []  # the lengths of the open batch's rows, or of what stands in its one
        open_group = None
        for unit in units:
            group = groups[unit[0]]
            prompt = len(self.prompts[group])
            if shared_prefix:
                tokens = sum(lengths[n] for n in unit)
                fresh, more = [prompt + tokens], [tokens if group == open_group else prompt + tokens]
            else:
                fresh = more = [prompt + lengths[n] for n in unit]
            grown = rows + more
            if not batches or (sum(grown) if shared_prefix else len(grown) * max(grown)) > max_tokens:
                batches.append([])
                grown = fresh
            batches[-1] += unit
            rows, open_group = grown, group
        return [self] if len(batches) == 1 else [self.select(indices) for indices in batches]

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in _values(self).items() if isinstance(value, Tensor)}


def _values(item: Completion | Group | GroupBatch) -> dict[str, Any]:
    """Its fields as they are: `asdict` would copy every token."""
    return {f.name: getattr(item, f.name) for f in fields(item)}
