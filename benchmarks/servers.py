"""How busy rollout servers are kept: a round on simulated servers, in simulated time.

    python benchmarks/servers.py [--prompts 128] [--completions 8] [--servers 2] [--ranks 6] [--seeds 5]

What decides is the package's own code: `Dispatch`, which sends prompts to servers on each rank, and `ContinuousBatch`,
in which a server draws all that is in flight. Only the sampler is simulated: a step takes 8 ms and 0.03 ms for each
completion that is drawn (assumed; of the size that vLLM takes for a 7B model on one GPU), and 256 are drawn at once.
Time is that of an event loop which never waits: it jumps to what happens next.

Lengths of completions are log-normal, from 64 to 10,240 tokens; those of a prompt are alike, as hard ones have long
answers. "As shipped before" stands for what the package did until 2026-11-27, rewritten here since it is gone: every
rank's prompts in requests of up to 32 to whichever server is free, in the same order on all ranks, and a server answers
one request after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import selectors
import statistics
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

import numpy

from specs_lightning.groups import Completion
from specs_lightning.rollout.connection import Connection
from specs_lightning.rollout.dispatch import Dispatch, in_flight_at_most
from specs_lightning.rollout.engine import SamplingSettings
from specs_lightning.rollout.sampler import SampleRequest
from specs_lightning.rollout.server.batch import ContinuousBatch

STEP_S, COMPLETION_S = 0.008, 0.00003
MAX_SEQUENCES = 256
LONGEST = 10_240
STRIDE = 16
"""Tokens that are drawn in one turn, at most: what arrives in between waits for so long."""
CHUNK = 32
"""Prompts of a request, before."""
Lengths = Mapping[str, Sequence[int]]
"""Of each prompt's completions, in tokens."""


class SimulatedTime(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time: its clock jumps to what is next."""

    def __init__(self) -> None:
        super().__init__(_Selector(self))
        self.now = 0.0

    def time(self) -> float:
        return self.now


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: SimulatedTime) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> Any:
        self.loop.now += timeout or 0.0
        return super().select(0)


class SimulatedSampler:
    """Draws completions of given lengths, so many at once, and notes how long each turn took."""

    def __init__(self, lengths: Lengths) -> None:
        self.lengths = lengths
        self.waiting: list[tuple[str, int]] = []
        """Completions that wait for a place: the id of their request, and their tokens."""
        self.drawing: list[list[Any]] = []
        """Those that are drawn, with what is left of each."""
        self.left: dict[str, int] = {}
        """Completions that each request still lacks."""
        self.seconds = 0.0
        """Of the last step."""
        self._ids = map(str, count())

    def add(self, request: SampleRequest, sampling: SamplingSettings, stop_ids: Sequence[int]) -> str:
        id, tokens = next(self._ids), self.lengths[request.prompt_id]
        self.waiting += [(id, length) for length in tokens]
        self.left[id] = len(tokens)
        return id

    def step(self) -> dict[str, list[Completion]]:
        free = MAX_SEQUENCES - len(self.drawing)
        self.drawing += [[id, tokens] for id, tokens in self.waiting[:free]]
        del self.waiting[:free]
        tokens = min([STRIDE, *(left for _, left in self.drawing)])
        self.seconds = tokens * (STEP_S + COMPLETION_S * len(self.drawing))
        for one in self.drawing:
            one[1] -= tokens
            self.left[one[0]] -= one[1] == 0
        self.drawing = [one for one in self.drawing if one[1]]
        done = [id for id, left in self.left.items() if left == 0]
        for id in done:
            del self.left[id]
        return {id: [] for id in done}

    def abort(self, ids: Sequence[str]) -> None:
        """Nothing is aborted here."""


class SimulatedServer(Connection):
    """A server whose batch is the package's, and goes on in simulated time."""

    def __init__(self, number: int, lengths: Lengths) -> None:
        super().__init__(f"http://server-{number}:1")
        self.max_sequences = MAX_SEQUENCES
        self.sampler = SimulatedSampler(lengths)
        self.batch = ContinuousBatch(self.sampler)
        self.arrived = asyncio.Event()

    async def go_on(self) -> None:
        while True:
            await self.arrived.wait()
            self.batch.turn()
            await asyncio.sleep(self.sampler.seconds)  # an answer is there when its last token is
            if not self.batch.busy:
                self.arrived.clear()

    async def draw(self, request: SampleRequest) -> list[Completion]:
        drawn = asyncio.wrap_future(self.batch.draw(request, SamplingSettings(), []))
        self.arrived.set()
        found = await drawn
        await asyncio.sleep(self.sampler.seconds)
        return found


Way = Callable[[Sequence[SampleRequest], list[SimulatedServer], int, int], Coroutine[Any, Any, Any]]
"""How a rank's prompts are answered, given the servers, its number and the number of ranks."""


async def ours(
    prompts: Sequence[SampleRequest],
    servers: list[SimulatedServer],
    rank: int,
    ranks: int,
    limit: Callable[[int, SamplingSettings, int, int], int] = in_flight_at_most,
) -> None:
    sampling = SamplingSettings(len(servers[0].sampler.lengths[prompts[0].prompt_id]))
    first = rank % len(servers)

    async def ask(server: Connection, request: SampleRequest) -> list[Completion]:
        assert isinstance(server, SimulatedServer)
        return await server.draw(request)

    at_most = limit(MAX_SEQUENCES, sampling, ranks, len(servers))
    await Dispatch(prompts, [*servers[first:], *servers[:first]], ask, lambda server: at_most).answers()


at_once: Way = partial(ours, limit=lambda *unused: 10**9)


def as_before() -> Way:
    """As shipped before."""
    locks: dict[str, asyncio.Lock] = {}

    async def answer(prompts: Sequence[SampleRequest], servers: list[SimulatedServer], rank: int, ranks: int) -> None:
        free = asyncio.Queue[SimulatedServer]()
        for server in servers:
            free.put_nowait(server)

        async def chunk(requests: Sequence[SampleRequest]) -> None:
            server = await free.get()
            async with locks.setdefault(server.url, asyncio.Lock()):
                await asyncio.gather(*map(server.draw, requests))
            free.put_nowait(server)

        await asyncio.gather(*(chunk(prompts[i : i + CHUNK]) for i in range(0, len(prompts), CHUNK)))

    return answer


def draw_lengths(prompts: int, completions: int, seed: int) -> dict[str, list[int]]:
    random = numpy.random.default_rng(seed)
    hardness = random.normal(0, 0.6, (prompts, 1))
    tokens = numpy.exp(math.log(1200) + hardness + random.normal(0, 0.6, (prompts, completions)))
    return {str(i): row for i, row in enumerate(tokens.clip(64, LONGEST).astype(int).tolist())}


def seconds_of_a_round(way: Way, lengths: Lengths, servers: int, ranks: int) -> float:
    """In simulated time, until the last rank has all its answers."""

    async def round() -> float:
        there = [SimulatedServer(number, lengths) for number in range(servers)]
        going_on = [asyncio.ensure_future(server.go_on()) for server in there]
        prompts = [SampleRequest(id, (), (), (), None) for id in lengths]
        shares = [prompts[rank::ranks] for rank in range(ranks)]
        await asyncio.gather(*(way(share, there, rank, ranks) for rank, share in enumerate(shares) if share))
        for task in going_on:
            task.cancel()
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=SimulatedTime) as runner:
        return runner.run(round())


def ways() -> dict[str, Callable[[], Way]]:
    return {"as shipped before": as_before, "as it is now": lambda: ours, "everything at once": lambda: at_once}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--completions", type=int, default=8)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=5, help="draws of the lengths")
    args = parser.parse_args()
    found: dict[str, list[float]] = {}
    for seed in range(args.seeds):
        lengths = draw_lengths(args.prompts, args.completions, seed)
        for name, way in ways().items():
            found.setdefault(name, []).append(seconds_of_a_round(way(), lengths, args.servers, args.ranks))
    least = statistics.mean(found["everything at once"])
    print("| | Seconds of a round | Least to greatest | Of everything at once |\n|---|---|---|---|")
    for name, times in found.items():
        mean = statistics.mean(times)
        print(f"| {name} | {mean:.0f} | {min(times):.0f} to {max(times):.0f} | {mean / least:.2f} |")


if __name__ == "__main__":
    main()
