"""One GRPO training step (forward and backward) against the machine's own rate of matrix products.

    python benchmarks/training_step.py [--peers ../shared/peers/trl] [--repeats 5]

On the workloads S and M, and over vocabularies. Floating-point operations are counted by torch's counter on the step
itself: shared-prefix rows compute nothing that is masked away (but for the causal half of a completion's own block and
the padding of rows), so that what is counted is what is needed. The rate that it is held against is that of one float32
product of 1024 x 1024 matrices, measured in turns with the step, on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from workloads import WORKLOADS, Workload

from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.groups import GroupBatch
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.prompts.set_aside import SetAside

aten = torch.ops.aten
Shape = tuple[int, ...]


def attention_flops(query: Shape, key: Shape, value: Shape, *unused: Any, **also_unused: Any) -> int:
    """Of scores and outputs, (B, heads, L, D) with as many key heads as there are: torch up to 2.11 refuses fewer."""
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[2] * (width + value[3])


def attention_backward_flops(gradient: Shape, query: Shape, key: Shape, value: Shape, *unused: Any, **more: Any) -> int:
    """Five products of the forward pass's size: the scores again, and the gradients of all four operands."""
    return 5 * attention_flops(query, key, value) // 2


ATTENTION = {
    getattr(aten, f"_scaled_dot_product_{kernel}{suffix}"): count
    for kernel, ending in (("flash_attention", ""), ("flash_attention", "_for_cpu"), ("efficient_attention", ""))
    for suffix, count in ((ending, attention_flops), (f"{ending}_backward", attention_backward_flops))
} | {
    aten._scaled_dot_product_cudnn_attention: attention_flops,
    aten._scaled_dot_product_cudnn_attention_backward: attention_backward_flops,
}


def step_of(policy: Policy, batch: GroupBatch) -> Callable[[], None]:
    weights_NT = torch.randn(batch.mask_NT.shape, generator=torch.Generator().manual_seed(0)).to(policy.device)

    def step() -> None:
        (policy.token_logprobs(batch).logprobs * weights_NT).sum().backward()
        policy.zero_grad()

    return step


def count_flops(step: Callable[[], None]) -> int:
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        step()
    return int(counter.get_total_flops())


def batch_of(policy: Policy, source: PromptSource, prompts: int, completions: int, tokens: int) -> GroupBatch:
    """Prompts with random completions of exactly this length."""
    encoder = PromptEncoder(policy.processor)
    encoded = [encoder.encode(prompt) for prompt in load_prompts(source, SetAside())[:prompts]]
    vocabulary = torch.arange(len(policy.tokenizer))
    allowed = vocabulary[~torch.isin(vocabulary, policy.banned_ids.cpu())]
    ids = allowed[torch.randint(len(allowed), (prompts, completions, tokens))]
    return GroupBatch.from_token_ids(encoded, ids.tolist()).to(policy.device)


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def peak_beyond(step: Callable[[], None]) -> float:
    """MiB that the process grows by during the step; the kernel's mark is set back before it."""
    step()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def measure(workload: Workload, folder: Path, repeats: int) -> dict[str, Any]:
    policy = Policy(PolicySettings(str(folder / "model-without-end"), freeze_vision=False))
    source = PromptSource(str(folder / "data" / "ours_grpo.jsonl"), add_instruction=False)
    sizes = workload.prompts, workload.completions, workload.completion_tokens
    step = step_of(policy, batch_of(policy, source, *sizes))
    flops = count_flops(step)
    left, right = torch.randn(2, 1024, 1024)
    products = [seconds(lambda: left @ right) for _ in range(3)]
    steps: list[float] = []
    for _ in range(repeats):
        steps.append(seconds(step))
        products += [seconds(lambda: left @ right) for _ in range(3)]
    rate, machine = flops / statistics.median(steps), 2 * 1024**3 / statistics.median(products)
    return {
        "cpu_s": statistics.median(steps),
        "gflop": flops / 1e9,
        "gflop_per_s": rate / 1e9,
        "machine_gflop_per_s": machine / 1e9,
        "share": rate / machine,
    }


def measure_vocabulary(size: int) -> dict[str, float]:
    """The step's memory in a model of the toy's size with another vocabulary, and what its head's weights take."""
    policy = Policy(PolicySettings("toy:base"))
    policy.model.resize_token_embeddings(size, mean_resizing=False)
    batch = batch_of(policy, PromptSource("toy:id"), prompts=4, completions=8, tokens=128)
    head = policy.model.get_output_embeddings().weight.nbytes / 2**20
    return {"peak_mib": peak_beyond(step_of(policy, batch)), "head_mib": head}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).parent
    parser.add_argument("--peers", type=Path, default=here.parent.parent / "shared" / "peers" / "trl")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=here / "results" / "training_step.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"workloads": {}, "vocabularies": {}}
    for name in WORKLOADS:
        with tempfile.TemporaryDirectory() as folder:
            WORKLOADS[name].write(arguments.peers, Path(folder))
            found["workloads"][name] = measure(WORKLOADS[name], Path(folder), arguments.repeats)
        print(name, {key: round(value, 3) for key, value in found["workloads"][name].items()}, flush=True)
    for size in (32_000, 64_000, 152_000):
        found["vocabularies"][size] = measure_vocabulary(size)
        print("vocabulary", size, {k: round(v, 1) for k, v in found["vocabularies"][size].items()}, flush=True)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
