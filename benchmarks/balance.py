"""How evenly a step's completions are dealt to processes: a simulation with the function that a training deals with.

    python benchmarks/balance.py [--steps 20] [--prompt 700] [--max-tokens 16384]

A step has 16 groups of 8 completions, whose lengths are drawn; a process takes as long as it has tokens, prompts
included, and all wait for the slowest in every micro-batch, as they do with sharded weights. Printed are means over
steps, per cent:

- in turn: whole groups, dealt in turn (as it was before), each waited for once a step;
- busy: the share of their time in which processes compute at all;
- useful: the same without what is run again because a group was split, its prompt;
- bound: what no way of dealing exceeds, since a completion is not split: with its prompt it takes as long as it takes,
  and of n completions for R processes one gets the n/R-th part of them, rounded up.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

from specs_lightning.groups import EncodedPrompt, GroupBatch
from specs_lightning.policy.dealing import busy_share, deal

GROUPS, COMPLETIONS, LONGEST = 16, 8, 10240
LENGTHS: dict[str, Callable[[random.Random], int]] = {
    "1,500 each": lambda rng: 1500,
    "mean 800": lambda rng: _lognormal(rng, 668, 0.6),
    "mean 1,500, heavy tail": lambda rng: _lognormal(rng, 790, 1.2),
}
PROCESSES = (6, 14, 48, 256)


def _lognormal(rng: random.Random, median: float, sigma: float) -> int:
    return min(LONGEST, max(1, round(median * rng.lognormvariate(0, sigma))))


@dataclass(frozen=True)
class Dealt:
    """How a step went: shares of the time of all processes, and what it took."""

    in_turn: float
    busy: float
    useful: float
    bound: float
    micro_batches: int
    prompts: float
    """How often a prompt is run."""
    seconds: float
    """Of dealing."""


MEASURED = tuple(each.name for each in fields(Dealt))


def step(lengths: list[list[int]], prompt: int, processes: int, max_tokens: int) -> Dealt:
    prompts = [EncodedPrompt(str(g), torch.zeros(prompt, dtype=torch.long)) for g in range(len(lengths))]
    batch = GroupBatch.from_token_ids(prompts, [[[0] * length for length in group] for group in lengths])
    start = time.process_time()
    dealt = deal(batch, processes, max_tokens)
    seconds = time.process_time() - start
    of = batch.lengths_N.tolist()
    groups = batch.group_N.tolist()
    copies = [[len({groups[n] for n in part}) for part in parts] for parts in dealt]
    tokens = [
        [sum(of[n] for n in part) + prompt * many for part, many in zip(parts, row, strict=True)]
        for parts, row in zip(dealt, copies, strict=True)
    ]
    busy, once = busy_share(tokens), sum(of) + prompt * len(lengths)
    whole = [prompt + sum(group) for group in lengths]
    return Dealt(
        in_turn=busy_share([[sum(whole[rank::processes])] for rank in range(processes)]),
        busy=busy,
        useful=busy * once / sum(map(sum, tokens)),
        bound=once / processes / _shortest(of, once, prompt, processes),
        micro_batches=len(dealt[0]),
        prompts=sum(map(sum, copies)) / len(lengths),
        seconds=seconds,
    )


def _shortest(lengths: list[int], once: int, prompt: int, processes: int) -> float:
    """Tokens of the slowest process, at the least."""
    falling = sorted(lengths, reverse=True)
    most = -(-len(lengths) // processes)
    # Of the k·R + 1 longest, some process has k + 1, which are no shorter than the shortest of these.
    together = (sum(falling[k * processes - k : k * processes + 1]) for k in range(most))
    return max(once / processes, prompt + max(together))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="how many steps of each kind")
    parser.add_argument("--prompt", type=int, default=700, help="tokens of a prompt")
    parser.add_argument("--max-tokens", type=int, default=16384, help="of a micro-batch")
    arguments = parser.parse_args()
    print("| Completions | Processes | In turn | Busy | Useful | Bound | Micro-batches | Prompts run | Dealt in ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, draw in LENGTHS.items():
        for processes in PROCESSES:
            rng = random.Random(0)
            steps = [
                step(
                    [[draw(rng) for _ in range(COMPLETIONS)] for _ in range(GROUPS)],
                    arguments.prompt,
                    processes,
                    arguments.max_tokens,
                )
                for _ in range(arguments.steps)
            ]
            means = {key: statistics.mean(getattr(one, key) for one in steps) for key in MEASURED}
            shares = " | ".join(f"{100 * means[key]:.0f}" for key in MEASURED[:4])
            cost = f"{means['micro_batches']:.1f} | {means['prompts']:.1f} × | {1000 * means['seconds']:.0f}"
            print(f"| {name} | {processes} | {shares} | {cost} |", flush=True)


if __name__ == "__main__":
    main()
