"""What a forward and backward pass keeps in memory, found by running it on tensors without content.

The model is built as `FakeTensor`s: shapes and types, no storage. So a pass of a model of any size can be run on any
machine in seconds, through the same code as the real one, while every allocation is counted. What PyTorch's operators
allocate within themselves is not seen.
"""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PretrainedConfig

from specs_lightning.groups import EncodedPrompt, GroupBatch
from specs_lightning.plan.lengths import Images
from specs_lightning.policy.attention import PrefixLayout, use_shared_prefix
from specs_lightning.policy.families import family_of, logits_head, prompt_positions
from specs_lightning.policy.loading import DTYPES, PolicySettings, empty_model, shares_prefix
from specs_lightning.policy.shared_prefix import pack_rows
from specs_lightning.policy.token_logprobs import LOGITS_IN_MEMORY, token_logprobs
from specs_lightning.rollout.cache import make_cache
from specs_lightning.rollout.hf import inverse_transform


@dataclass(frozen=True)
class Activations:
    """Bytes of a forward and backward pass, weights and gradients left out."""

    kept: int
    """What the forward pass leaves for the backward pass."""
    peak: int
    """The most that exists at once, log-probabilities and recomputation included."""


@dataclass(frozen=True)
class Computing:
    """In what a model computes."""

    on_gpu: bool = True
    weights: torch.dtype | None = None
    """In which sharded weights are gathered; as they are kept if not given."""
    autocast: torch.dtype | None = None
    """Of mixed precision."""


class AllocatedBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operators make, while they live; `known` ones exist already."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._known = {tensor.untyped_storage() for tensor in known}

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for output in made if isinstance(made, tuple | list) else (made,):
            if isinstance(output, Tensor):
                self.count(output)
        return made

    def count(self, tensor: Tensor) -> None:
        """A tensor that exists from now on."""
        storage = tensor.untyped_storage()
        if storage in self._known or id(storage) in self._sizes:
            return
        self._sizes[id(storage)] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, id(storage))

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


class TracedModel:
    """A policy's model without content."""

    def __init__(self, config: PretrainedConfig, settings: PolicySettings, computing: Computing) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.settings = settings
        self.computing = computing
        family = family_of(config)
        self.shared_prefix = shares_prefix(family, settings)
        self.model = empty_model(config, settings)
        self.position_rows = len(prompt_positions(self.model, EncodedPrompt("?", torch.zeros(1, dtype=torch.long))))
        if computing.on_gpu and settings.attention == "sdpa":
            use_shared_prefix(self.model.config, kernels="cuda")
        with self.mode:  # not from the start: peft cannot put adapters beside such weights
            _replace_weights(self.model, computing.weights)
        for weight in self.model.parameters():
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(_drop_gradient)

    def training(self, batch: GroupBatch, reference: bool = False) -> Activations:
        """As `activations`."""
        scored = int(batch.lengths_N.sum())
        inputs, _ = pack_rows(batch, self._positions, shared_prefix=self.shared_prefix)
        with self._counting() as memory:
            hidden_RLH = self._run(inputs, memory)
            kept = memory.now
            logprobs_M = self._logprobs(hidden_RLH, scored)
            del hidden_RLH
            if reference:
                with torch.no_grad():
                    self._logprobs(self._run(inputs, memory), scored)
            logprobs_M.sum().backward()
        return Activations(kept, memory.peak)

    def vision(self, images: Mapping[str, Tensor]) -> int:
        """As `vision_bytes`."""
        # The sizes of images, which are real numbers, decide into what images are split.
        with self._counting(made_up=False) as memory:
            for tensor in images.values():
                memory.count(tensor)
            features = self.model.base_model.get_image_features(**images)  # type: ignore[operator]
            kept = memory.now
            del features
        return kept

    @torch.no_grad()
    def decoding(self, sequences: int, length: int) -> int:
        """As `decoding_bytes`."""
        text: Any = self.model.config.get_text_config()
        shape = sequences, text.num_key_value_heads, length - 1, head_size(text)
        kind = self.computing.autocast or self.computing.weights or DTYPES[self.settings.dtype]
        with self._counting() as memory:
            cache = make_cache(self.model.config)
            for layer in range(text.num_hidden_layers):
                cache.update(torch.zeros(shape, dtype=kind), torch.zeros(shape, dtype=kind), layer)
            positions = torch.zeros((self.position_rows, sequences, 1), dtype=torch.long)
            hidden_NH = self._language_model(
                torch.zeros((sequences, 1), dtype=torch.long),
                positions,
                attention_mask=torch.ones((sequences, 1, 1, length), dtype=torch.bool),
                past_key_values=cache,
                use_cache=True,
            )[:, -1]
            logits_NV = self._head(hidden_NH).float()
            inverse_transform(logits_NV.softmax(-1), torch.zeros(sequences))
        return memory.peak

    @contextmanager
    def _counting(self, made_up: bool = True) -> Iterator[AllocatedBytes]:
        """Args: made_up: whether tensors that no weight has gone into are without content, too."""
        # transformers recomputes activations in training mode alone, and keeps no key-value cache then.
        self.model.train(self.settings.gradient_checkpointing and torch.is_grad_enabled())
        memory = AllocatedBytes([*self.model.parameters(), *self.model.buffers()])
        autocast = self.computing.autocast
        mode = self.mode if made_up else nullcontext()
        with mode, memory, torch.autocast("cpu", autocast, enabled=autocast is not None):
            yield memory

    def _positions(self, prompt: EncodedPrompt) -> Tensor:
        return torch.zeros((self.position_rows, len(prompt)), dtype=torch.long)

    def _run(self, packed: dict[str, Any], memory: AllocatedBytes) -> Tensor:
        """The last hidden states of packed rows, whose own tensors are counted, too."""

        def fake(value: Any) -> Any:
            if isinstance(value, PrefixLayout):
                return PrefixLayout(**{f.name: fake(getattr(value, f.name)) for f in dataclasses.fields(value)})
            if isinstance(value, Tensor):
                value = self.mode.from_tensor(value)
                memory.count(value)
            return value

        inputs = {name: fake(value) for name, value in packed.items()}
        if inputs["attention_mask"].dim() == 2:  # what transformers would make of it, from its content
            n_rows, length = packed["input_ids"].shape
            inputs["attention_mask"] = torch.ones((n_rows, 1, length, length), dtype=torch.bool)
        return self._language_model(inputs.pop("input_ids"), inputs.pop("position_ids"), use_cache=False, **inputs)

    def _language_model(self, ids_RL: Tensor, positions: Tensor, **inputs: Any) -> Tensor:
        if positions.dim() == 3 and self.position_rows == 1:
            positions = positions[0]
        embedded_RLH = self.model.get_input_embeddings()(ids_RL)
        outputs = self.model.get_decoder()(inputs_embeds=embedded_RLH, position_ids=positions, **inputs)
        hidden_RLH: Tensor = outputs.last_hidden_state
        return hidden_RLH

    def _logprobs(self, hidden_RLH: Tensor, scored: int) -> Tensor:
        targets_M = torch.zeros(scored, dtype=torch.long)
        hidden_MH = hidden_RLH.flatten(0, 1)[targets_M]
        # A chunk gives back what it takes: of many, few are enough.
        few = _CHUNKS * LOGITS_IN_MEMORY // self.model.config.get_text_config().vocab_size
        return token_logprobs(hidden_MH[:few], targets_M[:few], self._head, with_entropy=True).logprobs

    def _head(self, hidden: Tensor) -> Tensor:
        return logits_head(self.model)(hidden)


def activations(
    config: PretrainedConfig, settings: PolicySettings, computing: Computing, batch: GroupBatch, reference: bool = False
) -> Activations:
    """Bytes of a forward and backward pass, as the policy runs it on packed rows.

    A deep model of equal layers is run with few of them: each further one keeps as much. The micro-batch has no images;
    with `reference`, another model of the same shape runs on it, too, without gradient.
    """
    found = [TracedModel(c, settings, computing).training(batch, reference) for c in _shallow(config)]
    if len(found) == 1:
        return found[0]
    kept = _at_depth(config, *(passed.kept for passed in found))
    return Activations(kept, kept + found[-1].peak - found[-1].kept)


def vision_bytes(config: PretrainedConfig, settings: PolicySettings, computing: Computing, images: Images) -> int:
    """Bytes that a trained vision tower and its projector keep of these images for the backward pass."""
    return TracedModel(config, settings, computing).vision(images.tensors)


def decoding_bytes(
    config: PretrainedConfig, settings: PolicySettings, computing: Computing, sequences: int, length: int
) -> int:
    """Bytes at the last token that the embedded engine draws: key-value cache, and what drawing a token takes."""
    found = [TracedModel(c, settings, computing).decoding(sequences, length) for c in _shallow(config)]
    return found[0] if len(found) == 1 else _at_depth(config, *found)


_SHALLOW = (2, 3)
_CHUNKS = 3


def _shallow(config: PretrainedConfig) -> list[PretrainedConfig]:
    """The same model with few layers, twice; as it is where it has few, or layers of several kinds."""
    text: Any = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    if text.num_hidden_layers <= 2 * _SHALLOW[-1] or len(kinds) > 1 or hasattr(text, "num_experts"):
        return [config]
    shortened = []
    for layers in _SHALLOW:
        copied = copy.deepcopy(config)
        copied_text: Any = copied.get_text_config()
        copied_text.num_hidden_layers = layers
        if kinds:
            copied_text.layer_types = copied_text.layer_types[:layers]
        shortened.append(copied)
    return shortened


def _at_depth(config: PretrainedConfig, low: int, high: int) -> int:
    layers: int = config.get_text_config().num_hidden_layers
    return low + (layers - _SHALLOW[0]) * (high - low)


def _replace_weights(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Put a tensor of the current mode, on the CPU, in the place of every weight and buffer; weights in this type."""
    made: dict[Tensor, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight not in made:
                empty = torch.empty(weight.shape, dtype=dtype or weight.dtype)
                made[weight] = nn.Parameter(empty, weight.requires_grad)
            setattr(module, name, made[weight])
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def head_size(text: Any) -> int:
    """Of one attention head, from the configuration of a language model."""
    size: int = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return size


def _drop_gradient(weight: Tensor) -> None:
    """Gradients are counted apart: sharded ones leave after each block."""
    weight.grad = None
