"""How far a policy's log-probabilities are from those of plain transformers, on two prompts with an image each.

Plain transformers is `generate`, held to given completions, which finds positions, token types and masks by itself. A
model that is fed otherwise trains on other probabilities than its own, and its engine agrees, being fed likewise.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy
import PIL.Image
import torch
import transformers
from torch import Tensor

from specs_lightning.groups import GroupBatch, Prompt
from specs_lightning.policy.families import UnsupportedModel
from specs_lightning.policy.loading import model_class
from specs_lightning.policy.token_logprobs import TokenLogprobs
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.prompts.messages import build_messages

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

ALIKE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""What rounding makes of equal computations at most, in nats; wrong positions make tenths and more."""

_IMAGE_SIZES = ((168, 112), (112, 224))
"""Of one prompt each, in pixels: how images of several prompts are joined counts, too."""
_LENGTHS = ((8, 5), (3,))
"""Of the completions to each prompt, in tokens."""


class Asked(Protocol):
    """What is compared: a `Policy`."""

    model: PreTrainedModel
    processor: Any
    tokenizer: Any
    banned_ids: Tensor
    takes_images: bool

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    def token_logprobs(self, batch: GroupBatch, /) -> TokenLogprobs:
        """(N, T) log-probabilities of a batch."""


def refuse_unless_alike(policy: Asked) -> None:
    """`UnsupportedModel` where a policy's log-probabilities are not those of plain transformers."""
    kind = f"model type {policy.model.config.model_type!r}"
    try:
        apart = distance(policy, plain_logprobs(policy, policy.model))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model that takes other inputs fails in any way
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UnsupportedModel(f"{kind} is not known, and its inputs cannot be built ({cause}): unsupported") from error
    if not apart <= ALIKE[policy.model.dtype]:
        wrong = f"its log-probabilities would be {apart:.2g} nats from those that transformers gives"
        raise UnsupportedModel(f"{kind} is not known, and {wrong}: unsupported")
    log.warning("%s is not known to share prompts: training on padded rows (slower); %.1g nats off", kind, apart)


def distance(policy: Asked, plain: Sequence[Tensor]) -> float:
    """How far the policy's log-probabilities are from these `plain_logprobs`, in the mean over all tokens, in nats."""
    encoder = PromptEncoder(policy.processor)
    prompts = [encoder.encode(prompt) for prompt in _prompts(policy)]
    batch = GroupBatch.from_token_ids(prompts, _completions(policy)).to(policy.device)
    with torch.no_grad():
        own_M = policy.token_logprobs(batch).logprobs[batch.mask_NT]
    return float((own_M.cpu() - torch.cat(list(plain))).abs().mean())


def plain_logprobs(policy: Asked, model: PreTrainedModel) -> list[Tensor]:
    """What a model of transformers, of the policy's kind, gives some completions' tokens: (T,) each, on the CPU."""
    encoder, found = PromptEncoder(policy.processor), []
    for prompt, completions in zip(_prompts(policy), _completions(policy), strict=True):
        inputs = {name: tensor.to(model.device) for name, tensor in encoder.process(prompt).items()}
        found += [_forced(model, inputs, completion, policy.banned_ids) for completion in completions]
    return found


def plain_model(source: str, device: str) -> PreTrainedModel:
    """A model as transformers alone reads and runs it, in float32."""
    config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    model: Any = model_class(config).from_pretrained(
        source, trust_remote_code=False, use_safetensors=True, dtype=torch.float32, attn_implementation="sdpa"
    )
    on_device: PreTrainedModel = model.eval().to(device)
    return on_device


def _forced(model: Any, inputs: dict[str, Tensor], completion: list[int], banned_ids: Tensor) -> Tensor:
    length = inputs["input_ids"].shape[1]
    plainly = transformers.GenerationConfig(
        max_new_tokens=len(completion), do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    made = model.generate(
        **inputs,
        generation_config=plainly,
        prefix_allowed_tokens_fn=lambda row, ids: [completion[len(ids) - length]],
    )
    if made.sequences[0, length:].tolist() != completion:
        raise UnsupportedModel("generate does not say given tokens")
    logits_TV = torch.cat(made.logits).float().index_fill(-1, banned_ids.to(model.device), float("-inf"))
    return logits_TV.log_softmax(-1).cpu()[torch.arange(len(completion)), completion]


def _prompts(policy: Asked) -> list[Prompt]:
    """Questions about an image of noise, one wider than high and one the other way; of text alone where the policy
    takes no images."""
    if not policy.takes_images:
        questions = ("Which is larger, and by how much?", "Why?")
        asked = [build_messages(question, 0, add_instruction=False) for question in questions]
        return [Prompt(f"parity {i}", messages) for i, messages in enumerate(asked)]
    question = "Look at this: <image> Which part is larger, and by how much?"
    messages = build_messages(question, 1, add_instruction=False)
    return [Prompt(f"parity {i}", messages, (_noise(i, size),)) for i, size in enumerate(_IMAGE_SIZES)]


def _noise(seed: int, size: tuple[int, int]) -> bytes:
    pixels = numpy.random.default_rng(seed).integers(0, 256, (*reversed(size), 3), dtype=numpy.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _completions(policy: Asked) -> list[list[list[int]]]:
    """To each prompt, tokens that no model would say, to which errors make the more of a difference."""
    special = {*policy.tokenizer.added_tokens_decoder, *policy.banned_ids.tolist()}
    size = min(len(policy.tokenizer), policy.model.config.get_text_config().vocab_size)
    allowed = [token for token in range(size) if token not in special]
    generator = torch.Generator().manual_seed(0)
    return [
        [[allowed[i] for i in torch.randint(len(allowed), (length,), generator=generator).tolist()] for length in group]
        for group in _LENGTHS
    ]
