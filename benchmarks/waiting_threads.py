"""What threads of a CPU that wait for each other cost, alone and beside processes that take the cores.

    python benchmarks/waiting_threads.py [--busy 0,2,4,8] [--rounds 7] [--ways NAME,…]

For each way of waiting a process holds the toy's base, with which it answers some prompts with images, and goes forward
and backward over them. The ways take turns, a round each, beside the same busy processes. What is printed are wall
seconds, since waiting is what is measured: the median over the rounds, and the least and greatest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WAYS: dict[str, dict[str, str]] = {
    "torch's default": {},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=100": {"GOMP_SPINCOUNT": "100"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
PROMPTS, COMPLETIONS, TOKENS = 2, 8, 16
MOST_SECONDS = 60.0
"""Of one condition: after it no further round is begun."""


def work() -> dict[str, Callable[[], object]]:
    """What is timed."""
    from specs_lightning.data.sources import PromptSource, load_prompts
    from specs_lightning.groups import GroupBatch
    from specs_lightning.policy.loading import PolicySettings
    from specs_lightning.policy.policy import Policy
    from specs_lightning.prompts.encoder import PromptEncoder
    from specs_lightning.prompts.set_aside import SetAside
    from specs_lightning.rollout import HFEngine, SamplingSettings
    from specs_lightning.system.memory import keep_freed_memory

    keep_freed_memory()
    policy = Policy(PolicySettings("toy:base"))
    encoder = PromptEncoder(policy.processor)
    prompts = [encoder.encode(prompt) for prompt in load_prompts(PromptSource("toy:id", limit=PROMPTS), SetAside())]
    engine, sampling = HFEngine(), SamplingSettings(COMPLETIONS, TOKENS)
    engine.sync(policy)
    batch = GroupBatch.from_token_ids(prompts, [[list(range(50, 50 + TOKENS))] * COMPLETIONS] * PROMPTS)
    return {
        "generate": lambda: engine.generate(prompts, sampling, "a"),
        "train": lambda: policy.token_logprobs(batch).logprobs.sum().backward(),  # type: ignore[no-untyped-call]
    }


def serve() -> None:
    """Do the work once for each line on the standard input, and say how long it took."""
    works = work()
    for _ in sys.stdin:
        seconds = {}
        for name, function in works.items():
            start = time.perf_counter()
            function()
            seconds[name] = time.perf_counter() - start
        print("SECONDS " + json.dumps(seconds), flush=True)


class Worker:
    """A process that waits in one of the ways."""

    def __init__(self, way: dict[str, str]) -> None:
        left = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        command = [sys.executable, __file__, "--serve"]
        self.process = subprocess.Popen(
            command, env=left | way, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def seconds(self) -> dict[str, float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = next(line for line in self.process.stdout if line.startswith("SECONDS "))
        found: dict[str, float] = json.loads(line.removeprefix("SECONDS "))
        return found


@contextmanager
def ended(processes: list[subprocess.Popen[str]]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(workers: dict[str, Worker], busy: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Seconds of each round by way, beside so many processes that do nothing but take time."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"], text=True) for _ in range(busy)]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    begun = time.perf_counter()
    with ended(loops):
        for _ in range(rounds):
            for name, worker in workers.items():
                found[name].append(worker.seconds())
            if time.perf_counter() - begun > MOST_SECONDS:
                break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", default="0,2,4,8", help="how many busy processes, separated by commas")
    parser.add_argument("--rounds", type=int, default=7, help="how often each way is measured")
    parser.add_argument("--ways", default=",".join(WAYS), help="which ways of waiting, separated by commas")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)  # a worker
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    workers = {name: Worker(WAYS[name]) for name in arguments.ways.split(",")}
    with ended([worker.process for worker in workers.values()]):
        for worker in workers.values():
            worker.seconds()
        for busy in map(int, arguments.busy.split(",")):
            found = measure(workers, busy, arguments.rounds)
            print(f"\nBeside {busy} busy processes:\n\n| | Generate | Forward and backward | Rounds |")
            print("|---|---|---|---|")
            for name, rounds in found.items():
                columns = [[one[work] for one in rounds] for work in rounds[0]]
                cells = [f"{statistics.median(s):.2f} ({min(s):.2f} to {max(s):.2f})" for s in columns]
                print(f"| {name} | {' | '.join(cells)} | {len(rounds)} |", flush=True)


if __name__ == "__main__":
    main()
