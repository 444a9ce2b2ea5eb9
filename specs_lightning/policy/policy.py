"""The policy: a vision-language model, the log-probabilities it gives to completions, and how it is saved."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import PIL.Image
import torch
import transformers
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from specs_lightning.errors import SpecsError
from specs_lightning.groups import TOKEN_TYPES, EncodedPrompt, GroupBatch, Prompt
from specs_lightning.policy.dealing import deal
from specs_lightning.policy.export import (
    adapter_weights,
    broken_weights,
    in_files,
    make_room,
    merged,
    plain_model,
    saved_buffers,
    shapes,
    write_adapter,
    write_model,
)
from specs_lightning.policy.families import (
    family_of,
    logits_head,
    prompt_positions,
    token_types_asked_for,
    vision_modules,
    vision_token_ids,
)
from specs_lightning.policy.image_features import NotFrozen, features_of
from specs_lightning.policy.loading import (
    PolicySettings,
    empty_model,
    layers_in_4_bits,
    read_model,
    shares_prefix,
    takes_images,
    trains_vision,
)
from specs_lightning.policy.model_files import model_source, usable
from specs_lightning.policy.parity import refuse_unless_alike
from specs_lightning.policy.processors import load_processor
from specs_lightning.policy.shared_prefix import join_vision, pack_rows
from specs_lightning.policy.token_logprobs import TokenLogprobs, token_logprobs
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.prompts.messages import build_messages
from specs_lightning.system.ranks import failing_together, gather, rank, world_size

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

T = TypeVar("T")


class BrokenWeights(SpecsError, RuntimeError):
    """Weights that are NaN or infinite; no step makes them numbers again."""


class Policy(nn.Module):
    """A model, its processor, and the log-probabilities of completions.

    Its distribution leaves out the vision token ids: no engine ever samples them (a completion has no image behind
    such a token), so counting their probability here would make trainer and engine disagree.

    Args:
        settings: the model's place and what is trained of it.
        weights: read them; otherwise the model's parameters and buffers are on the meta device.

    Raises:
        ModelNotFound: the model's folder does not exist.
        BadModel: its files cannot be used.
        UnsupportedModel: its log-probabilities would not be those that transformers gives.
    """

    def __init__(self, settings: PolicySettings, weights: bool = True) -> None:
        super().__init__()
        self.settings = settings
        self.version = 0
        """Counts the changes of the weights; completions carry the version that made them."""
        self.times_loaded = 0
        """Counts how often weights were loaded, those that are not trained among them."""
        self.register_load_state_dict_post_hook(_count_change)  # type: ignore[no-untyped-call]
        self.source = model_source(settings.pinned)
        with usable(self.source, "configuration"):
            config = transformers.AutoConfig.from_pretrained(self.source, trust_remote_code=False)
        self.family = family_of(config)
        self.model = read_model(self.source, config, settings) if weights else empty_model(config, settings)
        self.takes_images = takes_images(config)
        with usable(self.source, "processor"):
            self.processor: Any = load_processor(self.source, self.takes_images)
        self.tokenizer = self.processor.tokenizer
        self._token_types = token_types_asked_for(self.model)
        self.shared_prefix = shares_prefix(self.family, settings)
        """Whether a row holds a prompt once for several completions."""
        self.banned_ids: Tensor
        banned_ids = torch.tensor(vision_token_ids(self.model.config), dtype=torch.long)
        self.register_buffer("banned_ids", banned_ids, persistent=False)
        layers = [m for m in self.model.modules() if isinstance(m, transformers.GradientCheckpointingLayer)]
        self._checkpointed = layers if settings.gradient_checkpointing else []
        self._in_4_bits = layers_in_4_bits(self.model)
        self._dummy_prompts: dict[bool, EncodedPrompt] = {}
        self.image_features = features_of(self.model) if weights and not trains_vision(self.model) else None
        self.reshard_after_forward = True
        """Whether blocks, where they are sharded, are freed after their forward pass."""
        self.gathered_dtype: torch.dtype | None = None
        """In which they are gathered for it; `None` is as they are kept."""
        self.eval()
        if weights and not self.family.tested:
            refuse_unless_alike(self)

    def train(self, mode: bool = True) -> Policy:
        """Stay in evaluation mode, whatever is asked for: dropout would make trainer and engine disagree.

        Layers in 4 bits, which have no dropout, stay in training mode: in evaluation mode bitsandbytes may take them
        for ones of a model that is never trained. On a CPU with AVX512-BF16 it packs their weights anew, in coarser
        numbers, in an order that no other function reads, and computes with them without gradients.
        """
        super().train(False)
        for layer in self._in_4_bits:
            layer.training = True
        return self

    @property
    def device(self) -> torch.device:
        return self.banned_ids.device

    def encoder(
        self, max_prompt_tokens: int | None = None, image_memory_gib: float = 0.25, stop_ids: Sequence[int] = ()
    ) -> PromptEncoder:
        """What makes tensors of its prompts; the arguments are those of `PromptEncoder`."""
        template = self.settings.chat_template_kwargs
        return PromptEncoder(self.processor, max_prompt_tokens, image_memory_gib, stop_ids, template)

    def positions(self, prompt: EncodedPrompt) -> Tensor:
        """The position ids of a prompt, (rows, P), as the model itself finds them."""
        return prompt_positions(self.model, prompt)

    def of_images(self, prompts: Sequence[EncodedPrompt]) -> dict[str, Any]:
        """What the model takes of prompts' images: their tensors, or the features that a frozen tower made of them.

        A sharded tower always runs: where one process had features and another not, it would wait for it forever.
        """
        if self.image_features is not None and not any(isinstance(module, FSDPModule) for module in self.modules()):
            try:
                features = self.image_features.of(prompts)
                return {} if features is None else {"mm_encoder_outputs": {"image": features}}
            except NotFrozen:
                self.image_features = None
        joined = join_vision(prompts, self.family.joined_along)
        return {name: tensor.to(self.device) for name, tensor in joined.items()}

    def hidden_states(self, **inputs: Any) -> Tensor:
        """The last hidden states, (rows, length, width). Sharded weights are gathered for it, and the head's stay.

        Token types that the model does not ask for are left out.
        """
        for name in set(TOKEN_TYPES) - set(self._token_types):
            inputs.pop(name, None)
        hidden_RLH: Tensor = self.model.base_model(**inputs).last_hidden_state
        return hidden_RLH

    def gather_weights(self) -> None:
        """Hold all weights whole until `free_weights`, where they are sharded: to generate without waiting for others.

        All processes must call it.
        """
        modules = self._sharded_modules()
        if modules:
            with failing_together():
                make_room((p for p in self.parameters() if isinstance(p, DTensor)), self.gathered_dtype)
        for module in modules:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()

    def free_weights(self) -> None:
        """Hold this process's shards alone again."""
        for module in self._sharded_modules():
            module.reshard()
            if not isinstance(module, Policy):
                module.set_reshard_after_forward(self.reshard_after_forward, recurse=False)

    def _sharded_modules(self) -> list[FSDPModule]:
        return [module for module in self.modules() if isinstance(module, FSDPModule)]

    @contextmanager
    def adapters_off(self) -> Iterator[None]:
        """The model as it is without its adapters."""
        layers = self._adapted_layers().values()
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    def _adapted_layers(self) -> dict[str, LoraLayer]:
        """Those with an adapter, by name."""
        if self.settings.lora is None:
            return {}
        from peft.tuners.lora import LoraLayer  # slow to import, and for adapters alone

        return {name: module for name, module in self.model.named_modules() if isinstance(module, LoraLayer)}

    def token_logprobs(
        self,
        batch: GroupBatch,
        temperature: float = 1.0,
        with_entropy: bool = False,
        entropy_gradient: bool = False,
        observe: Callable[[Tensor], Tensor] | None = None,
    ) -> TokenLogprobs:
        """The log-probability of each token that the batch's mask marks, zero elsewhere: (N, T) float32, in nats.

        The batch is on the policy's device; the other arguments are those of `policy.token_logprobs.token_logprobs`.
        """
        for layer in self._checkpointed:  # transformers recomputes activations in training mode alone
            layer.training = torch.is_grad_enabled()
        inputs, predictors_M = pack_rows(
            batch if batch.dummy_prompt is None else batch.with_dummy_prompt(),
            self.positions,
            self.of_images,
            shared_prefix=self.shared_prefix,
            pad_id=self.tokenizer.pad_token_id or 0,
        )
        hidden_RLH = self.hidden_states(**inputs, use_cache=False)
        scored = token_logprobs(
            hidden_RLH.flatten(0, 1)[predictors_M],
            batch.completion_ids_NT[batch.mask_NT],
            logits_head(self.model),
            temperature=temperature,
            banned_ids=self.banned_ids,
            with_entropy=with_entropy,
            entropy_gradient=entropy_gradient,
            observe=observe,
        )
        if batch.dummy_prompt is not None:  # a gradient of 0: every process goes backward through all
            scored = scored._replace(logprobs=scored.logprobs + 0.0 * hidden_RLH[-1].sum())

        def spread(values_M: Tensor | None) -> Tensor | None:
            if values_M is None:
                return None
            return values_M.new_zeros(batch.mask_NT.shape).masked_scatter(batch.mask_NT, values_M)

        return TokenLogprobs(*map(spread, scored))  # type: ignore[arg-type]  # there are always log-probabilities

    forward = token_logprobs

    def micro_batches(self, batch: GroupBatch, max_tokens: int, whole_groups: bool = False) -> list[GroupBatch]:
        """This process's micro-batches of a batch that all processes have alike: see `deal`.

        Processes that share weights or gradients wait for each other in every forward and backward pass: one with a
        micro-batch less, or with text alone where others run their vision tower, would leave them waiting forever. So
        where there are too few completions for all, some run a dummy prompt, which weighs nothing. One with an image
        goes with text alone where another process has images, or where the vision tower is trained: DDP waits for the
        gradient of every weight.
        """
        if world_size() == 1:
            return batch.micro_batches(max_tokens, self.shared_prefix, whole_groups)
        dealt = deal(batch, world_size(), max_tokens, self.shared_prefix, whole_groups)
        group_N = batch.group_N.tolist()
        has_images = [bool(batch.prompts[g].vision) for g in group_N]
        mine = [batch.select(indices) for indices in dealt[rank()]]
        for i, micro_batch in enumerate(mine):
            images = trains_vision(self.model) or any(has_images[n] for parts in dealt for n in parts[i])
            if not len(micro_batch) or (images and not any(prompt.vision for prompt in micro_batch.prompts)):
                mine[i] = replace(micro_batch, dummy_prompt=self.dummy_prompt(images))
        return mine

    def of_each_completion(
        self, batch: GroupBatch, max_tokens: int, measure: Callable[[GroupBatch], Sequence[T]]
    ) -> list[T]:
        """What is measured of each completion of a batch that all processes have: they share the work, and get all.

        Args:
            measure: takes a micro-batch on the policy's device.
        """
        numbered = replace(batch, index_N=torch.arange(len(batch)))
        found: dict[int, T] = {}
        for micro_batch in self.micro_batches(numbered, max_tokens):
            assert micro_batch.index_N is not None  # it was numbered
            found |= zip(micro_batch.index_N.tolist(), measure(micro_batch.to(self.device)), strict=True)
        everyones = {n: value for own in gather(found) for n, value in own.items()}
        return [everyones[n] for n in range(len(batch))]

    def dummy_prompt(self, with_image: bool) -> EncodedPrompt:
        """A short prompt that is run where there is nothing else to run, or nothing with an image."""
        if with_image not in self._dummy_prompts:
            white = io.BytesIO()
            PIL.Image.new("RGB", (56, 56), "white").save(white, "PNG")
            images = (white.getvalue(),) if with_image else ()
            prompt = Prompt("dummy", build_messages("?", len(images), add_instruction=False), images)
            self._dummy_prompts[with_image] = self.encoder().encode(prompt)
        return self._dummy_prompts[with_image]

    @torch.no_grad()
    def named_weights(
        self, dtype: torch.dtype | None = None, without_frozen_vision: bool = False
    ) -> Iterator[tuple[str, Tensor]]:
        """Every weight by the name and in the layout of the model's files, one at a time: what engines take.

        Adapters are merged in and shards gathered on the way, for which all processes must go through them; the
        policy's own weights are not touched. Tied weights come once.

        Args:
            dtype: in which they are handed over, and gathered where they have no adapter; their own if not given.
            without_frozen_vision: leave out a vision tower of which nothing is trained.
        """
        for name, weight in self._merged_weights(dtype, without_frozen_vision):
            yield from in_files(self.model, name, weight)

    def _merged_weights(
        self, dtype: torch.dtype | None = None, without_frozen_vision: bool = False
    ) -> Iterator[tuple[str, Tensor]]:
        self.free_weights()  # what is gathered already may be in another precision
        layers = self._adapted_layers()
        left_out: set[nn.Parameter] = set()
        if without_frozen_vision and not trains_vision(self.model):
            left_out = {p for module in vision_modules(self.model) for p in module.parameters()}
        for name, parameter in self.model.named_parameters():
            if ".lora_" in name or parameter in left_out:
                continue
            layer, _, rest = name.rpartition(".base_layer.")
            adapter = layers[layer] if layer and rest == "weight" else None
            yield name.replace(".base_layer.", "."), merged(parameter, adapter, dtype)

    def weight_layout(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, type (`bfloat16`) and shape of each of `named_weights`, in their order; nothing is gathered for it."""
        self.free_weights()
        named = (pair for name, empty in shapes(self.model) for pair in in_files(self.model, name, empty))
        return [(name, str(w.dtype).removeprefix("torch."), tuple(w.shape)) for name, w in named]

    def check_finite(self) -> None:
        """All processes of a training must call it.

        Raises:
            BrokenWeights: weights are NaN or infinite, of which nothing is to be kept.
        """
        of_all = list(dict.fromkeys(chain.from_iterable(gather(list(broken_weights(self))))))
        if of_all:
            raise BrokenWeights(
                f"{len(of_all)} of the model's weights are not finite, {of_all[0]} among them: it is neither saved nor "
                "exported, and checkpoints from before stay. Lower the learning rate, or look for NaN in the weights "
                "that training started from"
            )

    def save(self, folder: Path | str, card: str | None = None) -> Path:
        """Write a plain Hugging Face folder: weights (adapters merged), processor, chat template and generation config,
        and a model card, if it has one.

        The folder appears whole or not at all. All processes of a training must call it; the first writes.

        Raises:
            BrokenWeights: weights are NaN or infinite.
        """
        self.check_finite()
        folder = Path(folder)
        if rank() > 0:
            deque(self._merged_weights(), maxlen=0)
            return folder
        weights = {name: weight.cpu() for name, weight in (*self.named_weights(), *saved_buffers(self.model))}
        write_model(plain_model(self.model, self.source, self.settings), weights, self.processor, card, folder)
        return folder

    def save_adapter(self, folder: Path | str) -> Path | None:
        """Write the adapters as PEFT has them, in a folder that appears whole; None, and no folder, without adapters.

        All processes of a training must call it; the first writes.

        Raises:
            BrokenWeights: weights are NaN or infinite.
        """
        if self.settings.lora is None:
            return None
        self.check_finite()
        self.free_weights()
        weights = adapter_weights(self.model)
        if rank() == 0:
            write_adapter(self.model, weights, self.settings, self.source, Path(folder))
        return Path(folder)


def _count_change(policy: nn.Module, incompatible_keys: Any) -> None:
    assert isinstance(policy, Policy)
    policy.version += 1
    policy.times_loaded += 1
