"""A GRPO training step of a Qwen2.5-VL-3B-shaped model with random weights on one GPU: time, memory, use of the GPU.

    python benchmarks/gpu/step.py [--shape Qwen2.5-VL-3B] [--device cuda] [--peak-tflops 989]

In bfloat16, with all activations kept: a group is a prompt of about 700 tokens, most of them of an image, and 8
completions. Rows share the prompt, or repeat it ("padded"); completions grow, and so does the vocabulary. `mfu` is the
share of the GPU's peak (an H200 has 989 TFLOP/s in dense bfloat16) at the operations that the shared-prefix step needs.
One JSON line a setting, so that a run that ends early has told what it measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from transformers import AutoProcessor, PretrainedConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from training_step import count_flops, step_of

from specs_lightning.groups import GroupBatch, Prompt
from specs_lightning.plan.shapes import model_shape
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.prompts.messages import build_messages
from specs_lightning.toy import resolve

VOCABULARIES = (32_000, 64_000, 152_000)
LENGTHS = (256, 512, 1024, 2048)
COMPLETIONS = 8


def random_policy(shape: PretrainedConfig, folder: Path, device: str, **settings: Any) -> Policy:
    """A policy of that shape with random weights, and the toy's tokenizer."""
    toy = AutoProcessor.from_pretrained(resolve("toy:base"), trust_remote_code=False)
    toy.image_processor.max_pixels = toy.image_processor.size["longest_edge"] = 728 * 728
    toy.save_pretrained(folder)
    ids = toy.tokenizer.get_vocab()
    for field, token in (("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start")):
        setattr(shape, f"{field}_token_id", ids[f"<|{token}|>"])
    shape.save_pretrained(folder)
    policy = Policy(PolicySettings(str(folder), dtype="bfloat16", **settings), weights=False)
    policy.to_empty(device=device)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.normal_(std=0.02)
        for buffer in policy.buffers():
            buffer.zero_()
    policy.banned_ids.fill_(ids["<|image_pad|>"])
    return policy


def batch_of(policy: Policy, folder: Path, length: int, groups: int) -> GroupBatch:
    image = folder / "image.png"
    PIL.Image.effect_noise((728, 728), 64).convert("RGB").save(image)
    encoder = PromptEncoder(policy.processor)
    prompts = [
        encoder.encode(Prompt(str(g), build_messages("How many? " * 8, 1), (image,), answer="1")) for g in range(groups)
    ]
    ids = torch.randint(10, 200, (groups, COMPLETIONS, length))
    return GroupBatch.from_token_ids(prompts, ids.tolist()).to(policy.device)


def measure(policy: Policy, batch: GroupBatch, repeats: int) -> dict[str, float]:
    """Seconds of a step (median), and MiB at its peak beyond the weights."""
    step = step_of(policy, batch)
    step()
    cuda = policy.device.type == "cuda"
    weights = torch.cuda.memory_allocated() if cuda else 0
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    seconds = statistics.median(taken)
    peak = (torch.cuda.max_memory_allocated() - weights) / 2**20 if cuda else float("nan")
    return {"s": seconds, "peak_mib": peak, "completion_tokens_per_s": int(batch.mask_NT.sum()) / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="Qwen2.5-VL-3B", help="a shape that `specs plan` knows, or a model folder")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--peak-tflops", type=float, default=989, help="of the GPU in bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens of a completion")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=VOCABULARIES)
    parser.add_argument("--groups", type=int, default=1, help="prompts in a step")
    arguments = parser.parse_args()

    def report(setting: dict[str, Any], policy: Policy, batch: GroupBatch, flops: int) -> None:
        try:
            found = measure(policy, batch, arguments.repeats)
            found["mfu"] = flops / found["s"] / (arguments.peak_tflops * 1e12)
        except torch.OutOfMemoryError:
            found = {"out_of_memory": 1.0}
            policy.zero_grad()
        print(json.dumps(setting | found), flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy = random_policy(model_shape(arguments.shape), folder, arguments.device)
        for length in arguments.lengths:
            batch = batch_of(policy, folder, length, arguments.groups)
            flops = count_flops(step_of(policy, batch))
            for shared in (True, False):
                policy.shared_prefix = shared
                report({"length": length, "rows": "shared" if shared else "padded"}, policy, batch, flops)
            policy.shared_prefix = True
        del policy
        for vocabulary in arguments.vocabularies:
            shape = model_shape(arguments.shape)
            shape.text_config.vocab_size = vocabulary
            policy = random_policy(shape, folder, arguments.device)
            batch = batch_of(policy, folder, 1024, arguments.groups)
            report({"vocabulary": vocabulary}, policy, batch, count_flops(step_of(policy, batch)))
            del policy


if __name__ == "__main__":
    main()
