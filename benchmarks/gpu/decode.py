"""A decoding step of the embedded engine on one GPU, against the time in which the memory can be read once.

    python benchmarks/gpu/decode.py [--shape Qwen2.5-VL-3B] [--device cuda] [--sequences 8 32 128] [--tokens 128]

A Qwen2.5-VL-3B-shaped model with random weights in bfloat16, groups of 8 completions to a prompt of about 700 tokens.
Every token of a batch needs all weights once: their bytes over the memory's speed, measured by a copy, are the bound.
One JSON line a setting.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from step import COMPLETIONS, batch_of, random_policy

from specs_lightning.plan.shapes import model_shape
from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import HFEngine, SamplingSettings


def seconds(policy: Policy, engine: HFEngine, prompts: list, tokens: int) -> float:
    """Of sampling so many tokens for each of their completions."""
    if policy.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    engine.generate(prompts, SamplingSettings(COMPLETIONS, tokens), "benchmark")
    if policy.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def bytes_per_second(device: torch.device, size: int) -> float:
    """Read by a copy, which writes as much."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target, taken = torch.empty_like(source), []
    for _ in range(5):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return 2 * size / statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="Qwen2.5-VL-3B", help="a shape that `specs plan` knows, or a model folder")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--sequences", type=int, nargs="+", default=(8, 32, 128))
    parser.add_argument("--tokens", type=int, default=128, help="of a completion")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        policy = random_policy(model_shape(args.shape), Path(folder), args.device)
        policy.model.generation_config.eos_token_id = int(policy.banned_ids[0])  # never sampled: none ends early
        engine = HFEngine()
        engine.sync(policy)
        weights = sum(weight.nbytes for weight in policy.model.parameters())
        bound = 1000 * weights / bytes_per_second(policy.device, min(weights, 2**30))
        for sequences in args.sequences:
            prompts = batch_of(policy, Path(folder), 1, max(1, sequences // COMPLETIONS)).prompts
            seconds(policy, engine, prompts, 2)  # kernels are chosen, features kept
            few, all_of_them = (seconds(policy, engine, prompts, tokens) for tokens in (2, args.tokens))
            step = 1000 * (all_of_them - few) / (args.tokens - 2)
            drawn = len(prompts) * COMPLETIONS
            found = {"sequences": drawn, "step_ms": step, "bound_ms": bound, "tokens_per_s": drawn / step * 1000}
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
