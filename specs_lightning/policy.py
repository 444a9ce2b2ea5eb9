"""The policy: a vision-language model, the log-probabilities it gives to completions, and how it is saved."""

from __future__ import annotations

import importlib.util
import io
import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import PIL.Image
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_layers import GradientCheckpointingLayer

from specs_lightning.attention import use_shared_prefix
from specs_lightning.errors import SpecsError
from specs_lightning.families import ModelFamily, family_of, vision_modules, vision_token_ids
from specs_lightning.files import appearing_whole
from specs_lightning.groups import EncodedPrompt, GroupBatch, Prompt
from specs_lightning.model_files import check_loaded, model_source, usable
from specs_lightning.patch_embedding import use_linear_patch_embedding
from specs_lightning.processors import load_processor
from specs_lightning.ranks import rank
from specs_lightning.shared_prefix import pack_rows
from specs_lightning.token_logprobs import TokenLogprobs, token_logprobs

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LoRASettings:
    """Low-rank adapters: the model's own weights stay as they are, and small matrices beside them are trained."""

    rank: int = 16
    """The width of the adapters."""
    alpha: int = 32
    """What the adapters add is scaled by alpha / rank."""
    target_modules: tuple[str, ...] = ()
    """The linear layers that get one, by the end of their names (`q_proj`); all of the language model if empty."""
    vision: bool = False
    """Also adapt the vision tower and its projector (with `freeze_vision: false`)."""


@dataclass(frozen=True)
class PolicySettings:
    """Which model is trained, and which of its parts."""

    model: str
    """A Hugging Face folder or model name; `toy:base` is the tiny model that comes with the package."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The type that weights are kept in. For reduced precision during training, set the trainer's `precision`."""
    attention: str = "sdpa"
    """The attention implementation of transformers. Any other than `sdpa` runs on padded rows."""
    freeze_vision: bool = True
    """Leave the vision tower and its projector as they are."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    shared_prefix: bool = True
    """Run a prompt once for all its completions. `false` runs it once for each: slower, the same result."""
    lora: LoRASettings | None = None
    """Train adapters in place of the weights."""
    quantization: Literal["4bit"] | None = None
    """With `lora`: keep the language model's own weights in 4 bits (NF4, by bitsandbytes: a half byte each), and
    compute with them in `dtype`. Vision tower, embeddings and head stay as they are."""

    def __post_init__(self) -> None:
        if self.quantization is not None and self.lora is None:
            raise ValueError("quantized weights cannot be trained: quantization needs lora")
        if self.lora is not None and self.lora.vision and self.freeze_vision:
            raise ValueError("lora.vision adapts the vision tower, freeze_vision freezes it: choose one")


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
    """

    def __init__(self, settings: PolicySettings, weights: bool = True) -> None:
        super().__init__()
        self.settings = settings
        self.version = 0
        """Counts the changes of the weights; completions carry the version that made them."""
        self.register_load_state_dict_post_hook(_count_change)
        self.source = model_source(settings.model)
        with usable(self.source, "configuration"):
            config = AutoConfig.from_pretrained(self.source)
        self.model = read_model(self.source, config, settings) if weights else empty_model(config, settings)
        with usable(self.source, "processor"):
            self.processor: Any = load_processor(self.source, takes_images(config))
        self.tokenizer = self.processor.tokenizer
        self.family = family_of(self.model.config)
        self.shared_prefix = shares_prefix(self.family, settings)
        """Whether a row holds a prompt once for several completions."""
        self.banned_ids: Tensor
        self.register_buffer(
            "banned_ids", torch.tensor(vision_token_ids(self.model.config), dtype=torch.long), persistent=False
        )
        layers = (layer for layer in self.model.modules() if isinstance(layer, GradientCheckpointingLayer))
        self._checkpointed = list(layers) if settings.gradient_checkpointing else []
        self._in_4_bits = layers_in_4_bits(self.model)
        self._fillers: dict[bool, EncodedPrompt] = {}
        self.reshard_after_forward = True
        """Whether blocks, where they are sharded, are freed after their forward pass."""
        self.eval()

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

    def hidden_states(self, **inputs: Any) -> Tensor:
        """The last hidden states, (rows, length, width). Sharded weights are gathered for it, and the head's stay."""
        return self.model.base_model(**inputs).last_hidden_state

    def gather_weights(self) -> None:
        """Hold all weights whole until `free_weights`, where they are sharded: to generate without waiting for others.

        All processes must call it.
        """
        for module in self._sharded_modules():
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()

    def free_weights(self) -> None:
        """Hold this process's shards alone again."""
        for module in self._sharded_modules():
            module.reshard()
            if module is not self:
                module.set_reshard_after_forward(self.reshard_after_forward, recurse=False)

    def _sharded_modules(self) -> list[FSDPModule]:
        return [module for module in self.modules() if isinstance(module, FSDPModule)]

    @contextmanager
    def adapters_off(self) -> Iterator[None]:
        """The model as it is without its adapters."""
        layers = [module for module in self.model.modules() if isinstance(module, LoraLayer)]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    @property
    def trains_vision(self) -> bool:
        """Whether any weight of the vision tower or its projector is trained."""
        return trains_vision(self.model)

    def token_logprobs(
        self,
        batch: GroupBatch,
        temperature: float = 1.0,
        with_entropy: bool = False,
        observe: Callable[[Tensor], Tensor] | None = None,
    ) -> TokenLogprobs:
        """The log-probability of each token that the batch's mask marks, zero elsewhere.

        Args:
            batch: on the policy's device.
            temperature: at which the completions were sampled.
            with_entropy: also the entropy of each token's distribution, without gradient.
            observe: also what this makes of the distributions' logits, (M, V) to (M,), without gradient.

        Returns:
            (N, T) float32 tensors, in nats.
        """
        for layer in self._checkpointed:  # transformers recomputes activations in training mode alone
            layer.training = torch.is_grad_enabled()
        rows = pack_rows(
            batch if batch.filler is None else batch.with_filler(),
            lambda prompt: self.family.positions(self.model, prompt),
            shared_prefix=self.shared_prefix,
            pad_id=self.tokenizer.pad_token_id or 0,
        )
        hidden_RLH = self.hidden_states(
            input_ids=rows.input_ids_RL,
            position_ids=rows.position_ids,
            use_cache=False,
            **self.family.token_types(self.model.config, rows.input_ids_RL),
            **rows.attention,
            **rows.vision,
        )
        scored = token_logprobs(
            hidden_RLH.flatten(0, 1)[rows.predictors_M],
            rows.targets_M,
            self.model.get_output_embeddings(),
            temperature=temperature,
            banned_ids=self.banned_ids,
            with_entropy=with_entropy,
            observe=observe,
        )
        if batch.filler is not None:  # its gradient is 0, and there: every process goes backward through all modules
            scored = scored._replace(logprobs=scored.logprobs + 0.0 * hidden_RLH[-1].sum())

        def spread(values_M: Tensor | None) -> Tensor | None:
            if values_M is None:
                return None
            return values_M.new_zeros(batch.mask_NT.shape).masked_scatter(batch.mask_NT, values_M)

        return TokenLogprobs(*map(spread, scored))  # type: ignore[arg-type]  # there are always log-probabilities

    forward = token_logprobs

    def filler(self, with_image: bool) -> EncodedPrompt:
        """A short prompt that is run where there is nothing else to run, or nothing with an image."""
        if with_image not in self._fillers:
            from specs_lightning.data.prompts import PromptEncoder, build_messages  # here: they import the policy

            white = io.BytesIO()
            PIL.Image.new("RGB", (56, 56), "white").save(white, "PNG")
            images = (white.getvalue(),) if with_image else ()
            prompt = Prompt("filler", build_messages("?", len(images), add_instruction=False), images)
            self._fillers[with_image] = PromptEncoder(self.processor).encode(prompt)
        return self._fillers[with_image]

    @torch.no_grad()
    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight by the name that it has in the model's files, one at a time: what engines take.

        Adapters are merged in and shards gathered on the way, for which all processes must go through them; the
        policy's own weights are not touched. Tied weights come once.
        """
        for name, weight in self._merged_weights():
            yield self._names_in_files[name], weight

    def _merged_weights(self) -> Iterator[tuple[str, Tensor]]:
        self.free_weights()  # what is gathered already may be in another precision
        layers = {name: module for name, module in self.model.named_modules() if isinstance(module, LoraLayer)}
        for name, parameter in self.model.named_parameters():
            if ".lora_" in name:
                continue
            weight = whole(_dense(parameter))
            layer, _, rest = name.rpartition(".base_layer.")
            if layer and rest == "weight":
                weight = weight + _adapter_change(layers[layer]).to(weight)
            yield name.replace(".base_layer.", "."), weight

    def weight_layout(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, type (`bfloat16`) and shape of each of `named_weights`, in their order; nothing is gathered for it."""
        self.free_weights()
        return [
            (
                self._names_in_files[name.replace(".base_layer.", ".")],
                str(weight.dtype).removeprefix("torch."),
                tuple(weight.shape),
            )
            for name, weight in self._shapes()
        ]

    def _shapes(self) -> Iterator[tuple[str, Any]]:
        """What knows each weight's shape and type, adapters left out: of a quantized one its state does."""
        for name, weight in self.model.named_parameters():
            if ".lora_" not in name:
                yield name, getattr(weight, "quant_state", weight)

    @cached_property
    def _names_in_files(self) -> dict[str, str]:
        """The name that each weight has in the files that the model was read from; transformers renames on reading."""
        names = {}
        for in_memory, weight in self._shapes():
            name = in_memory.replace(".base_layer.", ".")
            empty = torch.empty(weight.shape, device="meta")
            in_files = revert_weight_conversion(self.model, {name: empty})
            # Where several weights were made into one on reading, engines take the one.
            names[name] = next(iter(in_files)) if [w.shape for w in in_files.values()] == [empty.shape] else name
        return names

    def _without_quantization(self) -> PreTrainedModel:
        """A model of the same configuration whose files are plain ones."""
        if self.settings.quantization is None:
            return self.model
        plain = empty_model(
            AutoConfig.from_pretrained(self.source), replace(self.settings, lora=None, quantization=None)
        )
        plain.generation_config = self.model.generation_config
        return plain

    def save(self, folder: Path | str) -> Path:
        """Write a plain Hugging Face folder: weights (adapters merged), processor, chat template and generation config.

        The folder appears whole or not at all. All processes of a training must call it; the first writes.
        """
        folder = Path(folder)
        if rank() > 0:
            deque(self._merged_weights(), maxlen=0)
            return folder
        weights = {name: weight.cpu() for name, weight in self._merged_weights()}
        with appearing_whole(folder) as partial:
            self._without_quantization().save_pretrained(partial, state_dict=weights)
            self.processor.save_pretrained(partial)
        return folder


def read_model(source: str, config: PretrainedConfig, settings: PolicySettings) -> PreTrainedModel:
    """A policy's model with the weights of a folder or of a model on the hub."""
    options = _options(settings)
    if settings.quantization is not None:
        options["quantization_config"] = _quantization(config, settings)
    with usable(source, "weights"):
        model, loaded = model_class(config).from_pretrained(
            source,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **options,
        )
    check_loaded(source, loaded["missing_keys"], loaded["mismatched_keys"])
    _prepare(model, settings)
    return model


def empty_model(config: PretrainedConfig, settings: PolicySettings) -> PreTrainedModel:
    """A policy's model on the meta device: its weights have shapes and types, no content."""
    with torch.device("meta"):
        model = model_class(config).from_config(config, **_options(settings))
        _prepare(model, settings)
    return model


def _options(settings: PolicySettings) -> dict[str, Any]:
    return {"dtype": DTYPES[settings.dtype], "attn_implementation": settings.attention}


def _quantization(config: PretrainedConfig, settings: PolicySettings) -> BitsAndBytesConfig:
    """NF4 with quantized constants, of the linear layers of the language model, its head left out.

    Raises:
        SpecsError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise SpecsError("quantization 4bit needs bitsandbytes: pip install 'specs-lightning[quantization]'")
    plain = empty_model(config, PolicySettings(settings.model))
    kept = [*vision_modules(plain), plain.get_output_embeddings()]
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[settings.dtype],
        llm_int8_skip_modules=[name for name, module in plain.named_modules() if module in kept],
    )


def quantized_layers(model: PreTrainedModel) -> list[nn.Linear]:
    """The layers of a model (not quantized) that `quantization` keeps in 4 bits."""
    kept = {module for part in (*vision_modules(model), model.get_output_embeddings()) for module in part.modules()}
    linear = (m for m in model.modules() if isinstance(m, nn.Linear) and m not in kept)
    return [layer for layer in linear if not layer.weight.requires_grad]


def layers_in_4_bits(model: nn.Module) -> list[nn.Linear]:
    """The layers of a model that bitsandbytes keeps in 4 bits."""
    return [m for m in model.modules() if isinstance(m, nn.Linear) and hasattr(m.weight, "quant_state")]


def _dense(weight: Tensor) -> Tensor:
    """A weight, in full precision if it is quantized."""
    if (state := getattr(weight, "quant_state", None)) is None:
        return weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.detach(), state)


def _prepare(model: PreTrainedModel, settings: PolicySettings) -> None:
    """Its attention, what of it is trained, adapters, recomputed activations."""
    use_linear_patch_embedding(model)
    if settings.attention == "sdpa":
        use_shared_prefix(model.config)
    if settings.freeze_vision:
        for module in vision_modules(model):
            module.requires_grad_(False)
    if settings.lora is not None:
        _add_adapters(model, settings.lora)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})


def trains_vision(model: PreTrainedModel) -> bool:
    """Whether any weight of the vision tower or its projector is trained."""
    return any(p.requires_grad for module in vision_modules(model) for p in module.parameters())


def shares_prefix(family: ModelFamily, settings: PolicySettings) -> bool:
    """Whether a policy's rows hold a prompt once for several completions."""
    if not (family.shared_prefix and settings.shared_prefix):
        return False
    if settings.attention != "sdpa":
        log.warning("attention %r trains on padded rows: only sdpa shares a prompt", settings.attention)
        return False
    return True


def _add_adapters(model: PreTrainedModel, settings: LoRASettings) -> None:
    """Put adapters beside linear layers, in place; every other weight is frozen."""
    vision = {module for tower in vision_modules(model) for module in tower.modules()}
    linear = {
        name: module
        for name, module in model.base_model.named_modules(prefix=model.base_model_prefix)
        if isinstance(module, nn.Linear) and (settings.vision or module not in vision)
    }
    ends = settings.target_modules
    targets = [name for name in linear if not ends or name.rpartition(".")[2] in ends]
    if not targets:
        known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise SpecsError(f"lora.target_modules {list(ends)} name no linear layer; there are: {known}")
    inject_adapter_in_model(LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets), model)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()  # small steps are lost in bfloat16


def _adapter_change(layer: Any) -> Tensor:
    """What the adapter adds to its layer's weight."""
    (adapter,) = layer.active_adapters
    down, up = (whole(matrix[adapter].weight.detach()) for matrix in (layer.lora_A, layer.lora_B))
    return (up @ down) * layer.scaling[adapter]


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all ranks; any other as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    on_device: Any = tensor.to(tensor.device_mesh.device_type)  # it may be offloaded to the CPU
    return on_device.full_tensor()


def _count_change(policy: nn.Module, incompatible_keys: Any) -> None:
    assert isinstance(policy, Policy)
    policy.version += 1


def model_class(config: PretrainedConfig) -> Any:
    """The class of transformers that loads a model with its head: of images and text, or of text alone."""
    return AutoModelForImageTextToText if takes_images(config) else AutoModelForCausalLM


def takes_images(config: PretrainedConfig) -> bool:
    """Whether a model's architecture is one of images and text."""
    return type(config) in AutoModelForImageTextToText._model_mapping
