"""A policy's model: which it is, how it is read, and what of it is trained."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
import transformers
from torch import nn

from specs_lightning.errors import SpecsError, check_positive
from specs_lightning.policy.attention import use_shared_prefix
from specs_lightning.policy.families import ModelFamily, audio_modules, use_linear_patch_embedding, vision_modules
from specs_lightning.policy.model_files import at_revision, check_loaded, usable

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

FLOAT32_WEIGHTS = (
    "weights that are trained must be float32: rounded to fewer bits they do not move in steps as small as a learning "
    "rate of 1e-6 makes them. Set model.policy.dtype to float32, and to compute in bfloat16 trainer.precision to "
    "bf16-mixed; where memory is short, model.policy.lora trains float32 adapters beside bfloat16 weights"
)


@dataclass(frozen=True)
class LoRASettings:
    """Low-rank adapters: the model's own weights stay as they are, and small matrices beside them are trained.

    What PEFT has beside these is left out where the merged model that is handed over, the reference with its adapters
    off or the log-probabilities would no longer be right: dropout, trained biases and further whole modules, and
    starting points that change the model's own weights.
    """

    rank: int = 16
    """The width of the adapters."""
    alpha: int = 32
    """What the adapters add is scaled by alpha / rank."""
    target_modules: tuple[str, ...] | str = ()
    """The linear layers that get one, as PEFT has it: a list of names or their ends (`q_proj`, `self_attn.q_proj`), or
    a pattern (regular expression) of the whole name; all of the language model if empty, or `all-linear`."""
    vision: bool = False
    """Also adapt the vision tower and its projector (with `freeze_vision: false`)."""
    exclude_modules: tuple[str, ...] | str = ()
    """Layers that get none although the above names them, in the same way."""
    dora: bool = False
    """Train the length of each row of an adapted weight by itself (DoRA, arXiv 2402.09353): slower, more memory;
    not beside `quantization`."""
    rslora: bool = False
    """Scale what the adapters add by alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732)."""

    def __post_init__(self) -> None:
        check_positive(rank=self.rank, alpha=self.alpha)
        for pattern in (self.target_modules, self.exclude_modules):
            if isinstance(pattern, str):
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(f"lora: {pattern!r} is no regular expression: {error}") from error

    def adapts(self, layer: str) -> bool:
        """Whether the linear layer of this name gets an adapter, as far as names tell."""
        named = self.target_modules in ((), "", EVERY) or _names(self.target_modules, layer)
        return named and not _names(self.exclude_modules, layer)


EVERY = "all-linear"


def _names(modules: tuple[str, ...] | str, layer: str) -> bool:
    if isinstance(modules, str):
        return re.fullmatch(modules, layer) is not None
    return any(f".{layer}".endswith(f".{end}") for end in modules)


@dataclass(frozen=True)
class PolicySettings:
    """Which model is trained, and which of its parts."""

    model: str
    """A Hugging Face folder or model name; `toy:base` is the tiny model that comes with the package."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The type that weights are kept in: float32 where they are trained. To compute in bfloat16, set the trainer's
    `precision` to bf16-mixed."""
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
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the model's chat template, such as `{enable_thinking: false}`, as `apply_chat_template` of
    transformers takes them. They hold for all prompts of the policy: in training, sampling, pairs and evaluations."""
    revision: str | None = None
    """Of a model on the hub: the commit, tag or branch to take; the newest if not given. Wherever else a model is
    named, `NAME@REVISION` says it."""

    @property
    def pinned(self) -> str:
        """The model at its revision."""
        return at_revision(self.model, self.revision)

    def __post_init__(self) -> None:
        at_revision(self.model, self.revision)
        if self.quantization is not None and self.lora is None:
            raise ValueError("quantized weights cannot be trained: quantization needs lora")
        if self.quantization is not None and self.lora is not None and self.lora.dora:
            raise ValueError("lora.dora measures the rows of weights that quantization keeps in 4 bits: choose one")
        if self.lora is not None and self.lora.vision and self.freeze_vision:
            raise ValueError("lora.vision adapts the vision tower, freeze_vision freezes it: choose one")


def check_trainable(settings: PolicySettings) -> None:
    """`SpecsError` where the weights that are to be trained would be rounded to fewer bits than float32 has."""
    if settings.dtype != "float32" and settings.lora is None:
        raise SpecsError(f"model.policy.dtype {settings.dtype}: {FLOAT32_WEIGHTS}")


def read_model(source: str, config: PretrainedConfig, settings: PolicySettings) -> PreTrainedModel:
    """A policy's model with the weights of a folder or of a model on the hub."""
    quantization = {"quantization_config": _quantization(config, settings)} if settings.quantization else {}
    model: PreTrainedModel
    with usable(source, "weights"):
        model, loaded = model_class(config).from_pretrained(
            source,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **_options(settings),
            **quantization,
        )
    check_loaded(source, loaded["missing_keys"], loaded["mismatched_keys"])
    _prepare(model, settings)
    return model


def empty_model(config: PretrainedConfig, settings: PolicySettings) -> PreTrainedModel:
    """A policy's model on the meta device: its weights have shapes and types, no content."""
    with torch.device("meta"):
        model: PreTrainedModel = model_class(config).from_config(config, **_options(settings))
        _prepare(model, settings)
    return model


def _options(settings: PolicySettings) -> dict[str, Any]:
    return {"trust_remote_code": False, "dtype": DTYPES[settings.dtype], "attn_implementation": settings.attention}


def _quantization(config: PretrainedConfig, settings: PolicySettings) -> BitsAndBytesConfig:
    """NF4 with quantized constants, of the linear layers of the language model, its head left out.

    Raises:
        SpecsError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise SpecsError("quantization 4bit needs bitsandbytes: pip install 'specs-lightning[quantization]'")
    plain = empty_model(config, PolicySettings(settings.model, revision=settings.revision))
    kept = _kept_whole(plain)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[settings.dtype],
        llm_int8_skip_modules=[name for name, module in plain.named_modules() if module in kept],
    )


def quantized_layers(model: PreTrainedModel) -> list[nn.Linear]:
    """The layers of a model (not quantized) that `quantization` keeps in 4 bits."""
    kept = {module for part in _kept_whole(model) for module in part.modules()}
    linear = (m for m in model.modules() if isinstance(m, nn.Linear) and m not in kept)
    return [layer for layer in linear if not layer.weight.requires_grad]


def _kept_whole(model: PreTrainedModel) -> list[nn.Module]:
    return [*vision_modules(model), *audio_modules(model), model.get_output_embeddings()]


def layers_in_4_bits(model: nn.Module) -> list[nn.Linear]:
    """The layers of a model that bitsandbytes keeps in 4 bits."""
    return [m for m in model.modules() if isinstance(m, nn.Linear) and hasattr(m.weight, "quant_state")]


def _prepare(model: PreTrainedModel, settings: PolicySettings) -> None:
    """Its attention, what of it is trained, adapters, recomputed activations."""
    use_linear_patch_embedding(model)
    if settings.attention == "sdpa":
        use_shared_prefix(model.config)
    for module in (*audio_modules(model), *(vision_modules(model) if settings.freeze_vision else ())):
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
    from peft import LoraConfig, inject_adapter_in_model  # slow to import, and for adapters alone

    left_alone = (*audio_modules(model), *(() if settings.vision else vision_modules(model)))
    without = {module for tower in left_alone for module in tower.modules()}
    linear = {
        name: module
        for name, module in model.base_model.named_modules(prefix=model.base_model_prefix)
        if isinstance(module, nn.Linear) and module not in without
    }
    targets = [name for name in linear if settings.adapts(name)]
    if not targets:
        raise SpecsError(_no_target(settings, list(linear)))
    adapters = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=targets,
        use_dora=settings.dora,
        use_rslora=settings.rslora,
    )
    # Within another module: of a model that it knows, peft would put some of the adapters beside experts instead.
    inject_adapter_in_model(adapters, nn.ModuleDict({"model": model}))
    model.peft_config = {"default": adapters}  # type: ignore[dict-item]  # as peft would have it: exports of the adapters read it
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()  # small steps are lost in bfloat16


def _no_target(settings: LoRASettings, linear: Sequence[str]) -> str:
    """What is wrong with settings that no layer's name fits."""
    asked, excluded = settings.target_modules, settings.exclude_modules
    known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
    named = repr(asked) if isinstance(asked, str) else str(list(asked))
    but = f", without exclude_modules {excluded!r}," if excluded else ""
    whole = f"; a text is a pattern of a whole name, such as {linear[0]}" if isinstance(asked, str) and linear else ""
    return f"lora.target_modules {named}{but} name no linear layer; there are: {known}{whole}"


def model_class(config: PretrainedConfig) -> Any:
    """The class of transformers that loads a model with its head: of images and text, or of text alone."""
    return transformers.AutoModelForImageTextToText if takes_images(config) else transformers.AutoModelForCausalLM


def takes_images(config: PretrainedConfig) -> bool:
    """Whether a model's architecture is one of images and text."""
    return type(config) in transformers.AutoModelForImageTextToText._model_mapping
