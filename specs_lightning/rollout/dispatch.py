"""Which rollout server gets which prompt: one at a time, and the server with the least to do."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from specs_lightning.groups import Completion
from specs_lightning.rollout.connection import FAILURES, Connection, ServerFailed
from specs_lightning.rollout.engine import SamplingSettings
from specs_lightning.rollout.sampler import EngineError, SampleRequest

FILLED = 2.0
"""How many times over the prompts in flight would fill a server's batch: most completions end before the longest of
their prompt, and leave room."""
MOST_REQUESTS = 512
"""That a process has in flight, at all servers together: each is an open connection."""

_Answer = asyncio.Future[list[Completion]]
Ask = Callable[[Connection, SampleRequest], Awaitable[list[Completion]]]


class NoServerLeft(Exception):
    """All servers are lost."""


def in_flight_at_most(max_sequences: int, sampling: SamplingSettings, processes: int, servers: int) -> int:
    """How many prompts a process has in flight at a server which draws so many completions at once."""
    own = sampling.completions_per_prompt if sampling.temperature else 1  # alike completions are drawn once
    fill = math.ceil(FILLED * max_sequences / (own * processes))
    return max(1, min(fill, MOST_REQUESTS // servers))


class _Asked(NamedTuple):
    prompt: int
    server: Connection
    failures: int
    """The server's, as it was asked."""


class Dispatch:
    """Has servers answer prompts.

    Args:
        prompts: all are answered, and each by one server; others wait here, for whichever comes to have less to do.
        servers: where several have as little to do, the first of these comes first.
        ask: sends one prompt to one server.
        limit: how many prompts a server may have in flight.
    """

    def __init__(
        self,
        prompts: Sequence[SampleRequest],
        servers: Sequence[Connection],
        ask: Ask,
        limit: Callable[[Connection], int],
    ) -> None:
        self.prompts, self.servers, self.ask, self.limit = prompts, servers, ask, limit
        self._waiting = deque(range(len(prompts)))
        self._asked: dict[_Answer, _Asked] = {}
        self._in_flight: Counter[str] = Counter()
        self._failed_on: defaultdict[int, list[str]] = defaultdict(list)
        """Where each prompt has failed so far."""

    async def answers(self) -> list[list[Completion]]:
        """Those of the prompts, in their order.

        A server that fails twice in a row, or is gone, is left out, and its prompts are answered by others. A prompt
        that fails on another server, too, is no fault of that one.

        Raises:
            NoServerLeft: all are lost.
            EngineError: a prompt is at fault, or failed on one server after the other.
        """
        found: dict[int, list[Completion]] = {}
        ended: asyncio.Queue[_Answer] = asyncio.Queue()
        try:
            while len(found) < len(self.prompts):
                self._send(ended.put_nowait)
                if not self._asked:
                    raise NoServerLeft
                answer = await ended.get()
                asked = self._asked.pop(answer)
                self._in_flight[asked.server.url] -= 1
                try:
                    found[asked.prompt] = answer.result()
                    asked.server.failures = 0
                except ServerFailed as failure:
                    self._failed(asked, failure)
        finally:
            for answer in self._asked:
                answer.cancel()
            await asyncio.gather(*self._asked, return_exceptions=True)
        return [found[i] for i in range(len(self.prompts))]

    def _send(self, ended: Callable[[_Answer], None]) -> None:
        """As many prompts as servers may have in flight now."""
        while self._waiting and (server := self._least_busy(self._waiting[0])) is not None:
            prompt = self._waiting.popleft()
            answer = asyncio.ensure_future(self.ask(server, self.prompts[prompt]))
            self._asked[answer] = _Asked(prompt, server, server.failures)
            self._in_flight[server.url] += 1
            answer.add_done_callback(ended)

    def _least_busy(self, prompt: int) -> Connection | None:
        """Of the servers with room, rather one on which the prompt has not failed."""
        free = (s for s in self.servers if s.lost is None and self._in_flight[s.url] < self.limit(s))
        failed_on = self._failed_on[prompt]
        return min(free, key=lambda server: (server.url in failed_on, self._in_flight[server.url]), default=None)

    def _failed(self, asked: _Asked, failure: ServerFailed) -> None:
        server, prompt, failed_on = asked.server, asked.prompt, self._failed_on[asked.prompt]
        if failed_on.count(server.url) == len(failed_on):  # else it is rather the prompt's fault
            # What was in flight together fails together: it is one fault.
            server.failures = max(server.failures, asked.failures + 1)
        if server.lost is None and (failure.gone or server.failures >= FAILURES):
            server.lost = str(failure)
            server.leave_out()
        failed_on += [] if failure.gone else [server.url]
        if len(failed_on) > FAILURES:
            failed = f"prompt {self.prompts[prompt].prompt_id} failed {len(failed_on)} times"
            raise EngineError(f"{failed}, at last on {server.url}: {failure}") from failure
        self._waiting.appendleft(prompt)
