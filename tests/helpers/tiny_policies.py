"""Policies, prompts and completions for tests, and the log-probabilities of a sequence by plain transformers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from specs_lightning.groups import EncodedPrompt, GroupBatch, Prompt
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.prompts.images import load_image
from specs_lightning.prompts.messages import build_messages

ImageSize = tuple[int, int]

MIXED_PROMPTS: tuple[tuple[str, tuple[ImageSize, ...]], ...] = (
    ("How many red squares are there?", ((84, 84),)),
    ("What is 7 - 3?", ()),
    ("<image> Which colour has more circles, here or there? <image> Look at <image>.", ((56, 112), (84, 56), (60, 60))),
    ("Find the value of x. " * 4, ()),
)
"""Questions with one image, none and three, of different lengths and sizes."""


def sharp_policy(folder: Path, **settings: Any) -> Policy:
    """The tiny model with larger weights: what it predicts depends visibly on what it sees, as in a trained one."""
    policy = Policy(PolicySettings(str(folder), **settings)).eval()
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if weight.dim() > 1:
                weight *= 10 if "embed_tokens" in name else 6
    return policy


def encode(policy: Policy, prompt_id: str, question: str, image_sizes: Sequence[ImageSize] = ()) -> EncodedPrompt:
    """A question with images of noise."""
    images = []
    for i, (width, height) in enumerate(image_sizes):
        generator = torch.Generator().manual_seed(100 * i + width)
        pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        file = io.BytesIO()
        PIL.Image.fromarray(pixels.numpy()).save(file, "PNG")
        images.append(file.getvalue())
    messages = build_messages(question, len(images), add_instruction=False)
    return PromptEncoder(policy.processor).encode(Prompt(prompt_id, messages, tuple(images)))


def mixed_prompts(policy: Policy) -> list[EncodedPrompt]:
    return [encode(policy, f"p{i}", question, sizes) for i, (question, sizes) in enumerate(MIXED_PROMPTS)]


def random_completions(policy: Policy, sizes: Sequence[int], seed: int = 0, longest: int = 9) -> list[list[list[int]]]:
    """For each group as many completions as its size says, of 1 to `longest` tokens, without vision ids."""
    generator = torch.Generator().manual_seed(seed)
    allowed = sorted(set(range(len(policy.tokenizer))) - set(policy.banned_ids.tolist()))

    def draw(high: int, count: int) -> list[int]:
        return torch.randint(high, (count,), generator=generator).tolist()

    return [[[allowed[i] for i in draw(len(allowed), 1 + n)] for n in draw(longest, size)] for size in sizes]


def mixed_batch(policy: Policy, completions_per_prompt: int, seed: int = 0) -> GroupBatch:
    prompts = mixed_prompts(policy)
    return GroupBatch.from_token_ids(prompts, random_completions(policy, [completions_per_prompt] * len(prompts), seed))


def long_batch(policy: Policy) -> GroupBatch:
    """Four completions to each mixed prompt, of up to 40 tokens."""
    prompts = mixed_prompts(policy)
    return GroupBatch.from_token_ids(prompts, random_completions(policy, [4] * len(prompts), longest=40))


def plain_logprobs(policy: Policy, batch: GroupBatch, temperature: float = 1.0) -> Tensor:
    """(N, T): each sequence alone through the model, which finds positions and mask by itself; zero on padding."""
    rows = []
    for n, group in enumerate(batch.group_N.tolist()):
        prompt, length = batch.prompts[group], int(batch.lengths_N[n])
        completion = batch.completion_ids_NT[n, :length]
        logits = policy.model(**plain_inputs(policy, prompt, completion), use_cache=False).logits
        logits = logits[0, len(prompt) - 1 : -1].float() / temperature
        logits = logits.index_fill(-1, policy.banned_ids, float("-inf"))
        logprobs = logits.log_softmax(-1).gather(-1, completion[:, None])[:, 0]
        rows.append(torch.nn.functional.pad(logprobs, (0, batch.mask_NT.shape[1] - length)))
    return torch.stack(rows)


def plain_inputs(policy: Policy, prompt: EncodedPrompt, completion: Tensor | None = None) -> dict[str, Tensor]:
    """A batch of one sequence as the processor hands it to the model."""
    question = prompt.question
    text = policy.processor.apply_chat_template(list(question.messages), tokenize=False, add_generation_prompt=True)
    images = [load_image(image) for image in question.images]
    inputs = dict(policy.processor(text=[text], images=images or None, return_tensors="pt"))
    if completion is not None:
        per_token = inputs["input_ids"].shape
        of_completion = {"input_ids": completion, "attention_mask": torch.ones_like(completion)}
        for name, tensor in inputs.items():
            if tensor.shape == per_token:
                more = of_completion.get(name, torch.zeros_like(completion))
                inputs[name] = torch.cat([tensor, more[None]], dim=1)
    return inputs


def gradient(policy: Policy, loss: Tensor) -> Tensor:
    """The gradient of the loss by all trained weights, as one vector; none is left behind."""
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients])


def relative_difference(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())
