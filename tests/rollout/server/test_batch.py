"""All that is in flight is one batch: what joins it, what waits for its end, and what leaves it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count

import pytest

from specs_lightning.groups import Completion
from specs_lightning.rollout import EngineError, SamplingSettings
from specs_lightning.rollout.sampler import SampleRequest
from specs_lightning.rollout.server.batch import ContinuousBatch


class Tokenwise:
    """Draws a token of each request at a step: a request is done after as many as its seed says."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}
        self.sizes: list[int] = []
        """How many were in the batch at each step."""
        self.version = 0
        self.fails: Exception | None = None
        self._ids = map(str, count())

    def add(self, request: SampleRequest, sampling: SamplingSettings, stop_ids: Sequence[int]) -> str:
        if request.seed is None:
            raise EngineError("it has no seed")
        self.left[id := next(self._ids)] = request.seed
        return id

    def step(self) -> Mapping[str, list[Completion] | EngineError]:
        if self.fails is not None:
            raise self.fails
        self.sizes.append(len(self.left))
        self.left = {id: left - 1 for id, left in self.left.items()}
        done = [id for id, left in self.left.items() if left == 0]
        self.abort(done)
        return {id: [Completion((1,), (0.0,), "", True, self.version)] for id in done}

    def abort(self, ids: Sequence[str]) -> None:
        for id in ids:
            del self.left[id]


@pytest.fixture
def sampler() -> Tokenwise:
    return Tokenwise()


@pytest.fixture
def batch(sampler: Tokenwise) -> ContinuousBatch:
    return ContinuousBatch(sampler)


def ask(batch: ContinuousBatch, tokens: int | None) -> Future[list[Completion]]:
    return batch.draw(SampleRequest("p", (), (), (), tokens), SamplingSettings(1, 8), [])


def turn(batch: ContinuousBatch, times: int) -> None:
    for _ in range(times):
        batch.turn()


@contextmanager
def going_on(batch: ContinuousBatch) -> Iterator[None]:
    with ThreadPoolExecutor(1) as thread, batch.running(thread):
        yield


def test_a_request_joins_what_is_in_flight_and_leaves_it_when_it_is_done(
    batch: ContinuousBatch, sampler: Tokenwise
) -> None:
    long = ask(batch, 5)
    turn(batch, 2)
    short = ask(batch, 2)
    turn(batch, 2)
    assert short.done() and not long.done() and batch.busy
    turn(batch, 1)
    assert long.done() and not batch.busy
    assert sampler.sizes == [1, 1, 2, 2, 1]


def test_weights_wait_for_what_is_in_flight_and_what_comes_later_waits_for_them(
    batch: ContinuousBatch, sampler: Tokenwise
) -> None:
    first = [ask(batch, 3), ask(batch, 1)]

    def take_over() -> int:
        assert sampler.left == {}
        sampler.version += 1
        return sampler.version

    loaded, later = batch.alone(take_over), ask(batch, 1)
    turn(batch, 2)
    assert not loaded.done() and not first[0].done() and first[1].done()
    turn(batch, 2)
    assert loaded.result() == 1 and later.done()
    assert [one.result()[0].policy_version for one in (*first, later)] == [0, 0, 1]


def test_a_request_is_checked_when_its_turn_comes(batch: ContinuousBatch, sampler: Tokenwise) -> None:
    def check() -> None:
        if sampler.version != 0:
            raise EngineError("another version")

    asked = batch.alone(lambda: setattr(sampler, "version", 1))
    refused = batch.draw(SampleRequest("p", (), (), (), 1), SamplingSettings(1, 8), [], check)
    turn(batch, 2)
    assert asked.done() and sampler.sizes == []
    with pytest.raises(EngineError, match="another version"):
        refused.result(0)


def test_one_that_cannot_be_taken_costs_no_other(batch: ContinuousBatch) -> None:
    others, refused = [ask(batch, 2)], ask(batch, None)
    others.append(ask(batch, 2))
    turn(batch, 2)
    assert all(other.done() for other in others)
    with pytest.raises(EngineError, match="no seed"):
        refused.result(0)


def test_what_is_cancelled_leaves_at_the_next_token_and_is_counted(batch: ContinuousBatch, sampler: Tokenwise) -> None:
    kept, dropped = ask(batch, 3), ask(batch, 9)
    turn(batch, 1)
    never_taken = ask(batch, 9)
    assert dropped.cancel() and never_taken.cancel()
    turn(batch, 2)
    assert kept.done() and not batch.busy
    assert (sampler.left, sampler.sizes, batch.aborted) == ({}, [2, 1, 1], 2)


def test_a_step_that_fails_ends_what_is_in_flight_and_nothing_else(batch: ContinuousBatch, sampler: Tokenwise) -> None:
    asked = [ask(batch, 3), ask(batch, 3)]
    turn(batch, 1)
    sampler.fails = RuntimeError("out of memory")
    turn(batch, 1)
    assert [type(one.exception(0)) for one in asked] == [RuntimeError, RuntimeError] and sampler.left == {}
    sampler.fails = None
    again = ask(batch, 1)
    turn(batch, 1)
    assert again.done()


def test_in_its_thread_it_waits_for_work_and_ends_with_what_is_left_undone(
    batch: ContinuousBatch, sampler: Tokenwise
) -> None:
    with going_on(batch):
        assert ask(batch, 3).result(20)[0].policy_version == 0
        failed = batch.alone(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            failed.result(20)
        assert [one.result(20) for one in (batch.alone(lambda: 7), batch.alone(lambda: 8))] == [7, 8]
        endless = ask(batch, 10**9)
        while not sampler.left:
            pass
    assert endless.cancelled() and sampler.left == {}
