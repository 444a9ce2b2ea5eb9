"""Attention over shared-prefix rows on a GPU: three ways, forward and backward, in one run.

    python benchmarks/gpu/attention.py [--prompt 1024 --completions 8 --length 1024] [--device cuda]

`layout` is what the package does (prompts and completions apart), `mask` one call with a mask over the whole row, and
`flex` FlexAttention with a block mask that skips what no token sees. Shapes are Qwen2.5-VL-3B's: 16 query heads, 2 key
heads, 128 dimensions. Milliseconds are medians of CUDA events (wall clock on a CPU), memory the peak of one call.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from specs_lightning.policy.attention import PrefixLayout, attend

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def ways(prompt: int, completions: int, length: int, rows: int, device: torch.device) -> dict[str, Attention]:
    """Each way of attending over rows of equal groups, (R, heads, L, D) to (R, L, heads, D).

    The layout takes them as one row: what that costs is in its time.
    """
    total = prompt + completions * length
    row_N = torch.arange(rows, device=device).repeat_interleave(completions)
    start_R = total * torch.arange(rows, device=device)
    start_N = start_R[row_N] + prompt + length * torch.arange(completions, device=device).repeat(rows)
    prompts_R = torch.full((rows,), prompt, device=device)
    layout = PrefixLayout.of(prompts_R, torch.full_like(row_N, length), row_N, start_R, start_N)
    # 0 the prompt, n + 1 completion n.
    segment_L = torch.cat([torch.zeros(prompt), 1 + torch.arange(completions).repeat_interleave(length)]).to(device)

    def sees(batch: Any, head: Any, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & ((segment_L[key] == 0) | (segment_L[key] == segment_L[query]))

    blocks = create_block_mask(sees, None, None, total, total, device=str(device))
    flex: Any = torch.compile(flex_attention) if device.type == "cuda" else flex_attention
    index_L = torch.arange(total, device=device)

    def by_layout(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        in_one = (x.transpose(0, 1).flatten(1, 2)[None] for x in (query, key, value))
        output, _ = attend(torch.nn.Identity(), *in_one, None, prefix_layout=layout)
        return output.view(rows, total, *output.shape[2:])

    def by_mask(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        mask_LL = sees(0, 0, index_L[:, None], index_L[None])
        repeated = (x.repeat_interleave(groups, 1) for x in (key, value))
        return scaled_dot_product_attention(query, *repeated, mask_LL).transpose(1, 2)

    def by_flex(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return flex(query, key, value, block_mask=blocks, enable_gqa=True).transpose(1, 2)

    return {"layout": by_layout, "mask": by_mask, "flex": by_flex}


def measure(attention: Attention, states: list[Tensor], repeats: int) -> dict[str, float]:
    cuda = states[0].device.type == "cuda"

    def call() -> None:
        attention(*states).float().square().mean().backward()
        for x in states:
            x.grad = None

    call()
    times = []
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else 0
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20 if cuda else float("nan")
    return {"ms": 1000 * statistics.median(times), "peak_mib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=1024, help="tokens of the prompt")
    parser.add_argument("--completions", type=int, default=8, help="of each prompt")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a completion")
    parser.add_argument("--rows", type=int, default=1, help="prompts at once")
    parser.add_argument("--repeats", type=int, default=10, help="measured calls")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    total = arguments.prompt + arguments.completions * arguments.length
    torch.manual_seed(0)
    states = [
        torch.randn(arguments.rows, heads, total, 128, device=device, dtype=dtype, requires_grad=True)
        for heads in (16, 2, 2)
    ]
    found: dict[str, Any] = {}
    outputs: dict[str, Tensor] = {}
    for name, way in ways(arguments.prompt, arguments.completions, arguments.length, arguments.rows, device).items():
        try:
            with torch.no_grad():
                outputs[name] = way(*states)
            found[name] = measure(way, states, arguments.repeats)
        except (torch.OutOfMemoryError, NotImplementedError) as error:  # a CPU has no backward of FlexAttention
            found[name] = {"error": str(error).split(".")[0]}
        print(name, found[name], flush=True)
    for name, output in outputs.items():
        found[name]["difference"] = (output - outputs["layout"]).abs().max().item()
    print(json.dumps({"sizes": vars(arguments), "attention": found}))


if __name__ == "__main__":
    main()
