"""One batch over all requests that are in flight: each joins it as it comes, and leaves it when it is done."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from specs_lightning.groups import Completion
from specs_lightning.rollout.engine import SamplingSettings
from specs_lightning.rollout.sampler import EngineError, SampleRequest

T = TypeVar("T")


class StepwiseSampler(Protocol):
    """What a batch asks of its sampler (`VLLMSampler`)."""

    def add(self, request: SampleRequest, sampling: SamplingSettings, stop_ids: Sequence[int]) -> str:
        """Take a request into the batch; the id by which `step` answers it."""

    def step(self) -> Mapping[str, list[Completion] | EngineError]:
        """A token more of all that is in the batch; the requests that are finished by it."""

    def abort(self, ids: Sequence[str]) -> None:
        """Take requests out of the batch."""


@dataclass(frozen=True, eq=False)
class _Draw:
    """A request that is to be answered, unless `check` raises when its turn comes."""

    request: SampleRequest
    sampling: SamplingSettings
    stop_ids: Sequence[int]
    check: Callable[[], None]
    outcome: Future[list[Completion]] = field(default_factory=Future)


@dataclass(frozen=True, eq=False)
class _Alone:
    """What is done while nothing is in flight."""

    action: Callable[[], Any]
    outcome: Future[Any] = field(default_factory=Future)


class ContinuousBatch:
    """All requests in flight, in the one thread that may touch the sampler: vLLM is not thread-safe.

    What is asked is taken in its order. What must be done `alone`, as a hand-over of weights, waits until what came
    before it has been answered, and what comes after it waits until it is done: no answer is of two versions. A request
    whose future is cancelled leaves the batch at the next token.
    """

    def __init__(self, sampler: StepwiseSampler) -> None:
        self.sampler = sampler
        self.aborted = 0
        """Requests that left the batch unanswered."""
        self._waiting: deque[_Draw | _Alone] = deque()
        self._in_flight: dict[str, _Draw] = {}
        self._arrived = threading.Event()
        self._closed = False

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._in_flight)

    def draw(
        self,
        request: SampleRequest,
        sampling: SamplingSettings,
        stop_ids: Sequence[int],
        check: Callable[[], None] = lambda: None,
    ) -> Future[list[Completion]]:
        """Ask for a prompt's completions; `check` is called when its turn comes, and refuses it by raising."""
        job = _Draw(request, sampling, stop_ids, check)
        self._put(job)
        return job.outcome

    def alone(self, action: Callable[[], T]) -> Future[T]:
        """Have something done while nothing is in flight."""
        job = _Alone(action)
        self._put(job)
        return job.outcome

    def _put(self, job: _Draw | _Alone) -> None:
        self._waiting.append(job)
        self._arrived.set()

    @contextmanager
    def running(self, thread: ThreadPoolExecutor) -> Iterator[None]:
        """The batch goes on in this thread, the one that made the sampler: vLLM keeps state by thread on a CPU."""
        ended = thread.submit(self._run)
        try:
            yield
        finally:
            self._closed = True
            self._arrived.set()
            ended.result()

    def _run(self) -> None:
        while not self._closed:
            if not self.busy:
                self._arrived.wait()
            self._arrived.clear()
            self.turn()
        for job in [*self._in_flight.values(), *self._waiting]:
            job.outcome.cancel()
        self._step()

    def turn(self) -> None:
        """Take what waits, as far as it may be taken now, and draw a token more of all that is in flight."""
        while self._waiting:
            job = self._waiting[0]
            if isinstance(job, _Draw):
                self._begin(job)
            elif not self._in_flight:
                _do(job)
            else:
                break
            self._waiting.popleft()  # now, so that it is busy all the time
        self._step()

    def _begin(self, job: _Draw) -> None:
        if job.outcome.cancelled():
            self.aborted += 1
            return
        try:
            job.check()
            self._in_flight[self.sampler.add(job.request, job.sampling, job.stop_ids)] = job
        except Exception as error:
            _settle(job.outcome, error)

    def _step(self) -> None:
        try:
            self._drop_cancelled()
            drawn = self.sampler.step() if self._in_flight else {}
        except Exception as error:
            self._fail(error)
            return
        for id, found in drawn.items():
            _settle(self._in_flight.pop(id).outcome, found)

    def _drop_cancelled(self) -> None:
        if cancelled := [id for id, job in self._in_flight.items() if job.outcome.cancelled()]:
            self.aborted += len(cancelled)
            for id in cancelled:
                del self._in_flight[id]
            self.sampler.abort(cancelled)

    def _fail(self, error: Exception) -> None:
        """What a step raises is the end of all that is in flight."""
        failed, self._in_flight = self._in_flight, {}
        with suppress(Exception):  # a sampler that is broken may not do this, either
            self.sampler.abort([*failed])
        for job in failed.values():
            _settle(job.outcome, error)


def _do(job: _Alone) -> None:
    if job.outcome.set_running_or_notify_cancel():
        try:
            job.outcome.set_result(job.action())
        except Exception as error:
            job.outcome.set_exception(error)


def _settle(outcome: Future[list[Completion]], found: list[Completion] | Exception) -> None:
    with suppress(InvalidStateError):  # whoever asked has gone by now
        if isinstance(found, Exception):
            outcome.set_exception(found)
        else:
            outcome.set_result(found)
