"""Which server gets which prompt, on servers that answer when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from benchmarks.servers import as_before, at_once, draw_lengths, ours, seconds_of_a_round
from specs_lightning.groups import Completion
from specs_lightning.rollout import EngineError, SamplingSettings
from specs_lightning.rollout.connection import Connection, ServerFailed
from specs_lightning.rollout.dispatch import Dispatch, NoServerLeft, in_flight_at_most
from specs_lightning.rollout.sampler import SampleRequest


class Asked:
    """Notes what is asked of which server; a test answers it."""

    def __init__(self, servers: int, prompts: int, limit: int = 100) -> None:
        self.servers = [Connection(f"http://server-{i}:1") for i in range(servers)]
        self.open: list[dict[str, asyncio.Future[list[Completion]]]] = [{} for _ in range(servers)]
        """What is in flight at each server, by prompt."""
        self.sent: list[list[str]] = [[] for _ in range(servers)]
        requests = [SampleRequest(f"p{i}", (), (), (), i) for i in range(prompts)]
        self.dispatch = Dispatch(requests, self.servers, self.ask, lambda server: limit)

    async def ask(self, server: Connection, request: SampleRequest) -> list[Completion]:
        number, id = self.servers.index(server), request.prompt_id
        self.open[number][id] = asyncio.get_running_loop().create_future()
        self.sent[number].append(id)
        try:
            return await self.open[number][id]
        finally:
            del self.open[number][id]

    async def answer(self, *ids: str, failure: Exception | None = None) -> None:
        for id in ids:
            (found,) = [open[id] for open in self.open if id in open]
            if failure is not None:
                found.set_exception(failure)
            else:
                found.set_result([Completion((1,), (0.0,), id, True, 0)])
        await settled()

    def counts(self) -> list[int]:
        return [len(open) for open in self.open]


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def play(asked: Asked, script: Callable[[asyncio.Task[Any]], Coroutine[Any, Any, None]]) -> Any:
    """What the dispatch comes to while the script answers."""

    async def both() -> Any:
        answers = asyncio.ensure_future(asked.dispatch.answers())
        await settled()
        await script(answers)
        return await answers

    return asyncio.run(both())


def test_each_prompt_goes_to_the_server_with_the_least_to_do() -> None:
    asked = Asked(servers=2, prompts=7, limit=2)

    async def script(answers: asyncio.Task[Any]) -> None:
        assert asked.sent == [["p0", "p2"], ["p1", "p3"]]  # the limit; others wait here
        await asked.answer("p1")
        assert asked.sent[1][2:] == ["p4"]
        await asked.answer("p3", "p4")  # the quick one gets more
        assert asked.counts() == [2, 2] and asked.sent[1][3:] == ["p5", "p6"]
        await asked.answer("p6", "p5", "p2", "p0")

    drawn = play(asked, script)
    assert [group[0].text for group in drawn] == [f"p{i}" for i in range(7)]


def test_a_fault_of_all_that_was_in_flight_is_one_and_a_second_in_a_row_costs_the_server() -> None:
    asked = Asked(servers=1, prompts=3)
    fault = ServerFailed("500: out of memory", gone=False)

    async def script(answers: asyncio.Task[Any]) -> None:
        await asked.answer("p0", "p1", "p2", failure=fault)
        assert asked.servers[0].lost is None and asked.counts() == [3]
        await asked.answer("p0", "p1", "p2", failure=fault)

    with pytest.raises(NoServerLeft):
        play(asked, script)
    assert asked.servers[0].lost == "500: out of memory"


def test_an_answer_in_between_forgives_a_fault() -> None:
    asked = Asked(servers=1, prompts=3, limit=1)

    async def script(answers: asyncio.Task[Any]) -> None:
        for id in ("p0", "p1", "p2"):
            await asked.answer(id, failure=ServerFailed("500", gone=False))
            await asked.answer(id)

    assert len(play(asked, script)) == 3 and asked.servers[0].lost is None


def test_what_a_lost_server_had_is_answered_by_others_and_the_rest_goes_to_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = Asked(servers=2, prompts=6, limit=2)

    async def script(answers: asyncio.Task[Any]) -> None:
        await asked.answer("p0", "p2", failure=ServerFailed("cut"))
        assert asked.counts() == [0, 2]
        for _ in range(6):
            await asked.answer(*list(asked.open[1])[:1])

    assert [group[0].text for group in play(asked, script)] == [f"p{i}" for i in range(6)]
    assert asked.sent[0] == ["p0", "p2"] and set(asked.sent[1]) == {f"p{i}" for i in range(6)}
    assert caplog.text.count("is left out") == 1


def test_a_prompt_that_fails_wherever_it_goes_is_named() -> None:
    asked = Asked(servers=4, prompts=4)

    async def script(answers: asyncio.Task[Any]) -> None:
        for _ in range(3):
            await asked.answer("p3", failure=ServerFailed("500: torn image", gone=False))

    with pytest.raises(EngineError, match=r"prompt p3 failed 3 times, at last on http://server-.:1: 500: torn image"):
        play(asked, script)


def test_an_error_of_the_request_ends_it_and_leaves_nothing_in_flight() -> None:
    asked = Asked(servers=2, prompts=4)

    async def script(answers: asyncio.Task[Any]) -> None:
        await asked.answer("p1", failure=EngineError("too long"))

    with pytest.raises(EngineError, match="too long"):
        play(asked, script)
    assert asked.counts() == [0, 0]


def test_as_many_prompts_are_in_flight_as_fill_the_batch_over_all_processes() -> None:
    eight, greedy = SamplingSettings(8), SamplingSettings(8, temperature=0)
    assert in_flight_at_most(256, eight, processes=1, servers=2) == 64
    assert in_flight_at_most(256, eight, processes=6, servers=2) * 6 >= 64
    assert in_flight_at_most(256, greedy, processes=1, servers=2) == 256  # alike completions are one
    assert in_flight_at_most(2, eight, processes=8, servers=2) == 1


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_round_takes_little_longer_than_with_everything_submitted_at_once(
    ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On simulated servers of 16 completions at once, in simulated time. `benchmarks/servers.py` is the whole size."""
    monkeypatch.setattr("benchmarks.servers.MAX_SEQUENCES", 16)
    lengths = {id: [tokens // 20 for tokens in row] for id, row in draw_lengths(24, 4, seed=1).items()}
    now, least, before = (seconds_of_a_round(way, lengths, 2, ranks) for way in (ours, at_once, as_before()))
    assert now <= 1.1 * least
    assert before > 1.5 * least  # it would show
