"""Jobs are done in order and beside each other, and what stops one of them, or all, is handed on."""

from __future__ import annotations

import signal
from collections.abc import Collection
from dataclasses import dataclass, field

import pytest

from specs_lightning.runs import jobs
from specs_lightning.runs.jobs import Job, run_jobs
from specs_lightning.runs.processes import Command, CommandFailed
from specs_lightning.system.signals import Stopped


@dataclass(eq=False)
class StandIn:
    """A command that ends after its seconds, or with its error."""

    title: str
    until: float
    error: BaseException | None = None
    sent: list[int] = field(default_factory=list)

    def signal(self, number: int) -> None:
        self.sent.append(number)

    def wait(self) -> float:
        if self.error is not None:
            raise self.error
        return 1.0


class Clock:
    """Stands in for processes, and for the time that passes while they are waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.errors: dict[str, BaseException] = {}
        self.stops: list[BaseException] = []
        self.started: dict[str, float] = {}
        self.commands: dict[str, StandIn] = {}
        self.shares: set[int] = set()
        self.most = 0
        monkeypatch.setattr(jobs, "StartedCommand", self.start)
        monkeypatch.setattr(jobs, "_ended", self.ended)

    def start(self, command: Command, share: int) -> StandIn:
        title = command.title
        self.started[title] = self.now
        self.shares.add(share)
        self.commands[title] = StandIn(title, self.now + self.seconds.get(title, 1.0), self.errors.get(title))
        return self.commands[title]

    def ended(self, running: Collection[StandIn]) -> list[StandIn]:
        self.most = max(self.most, len(running))
        if self.stops:
            raise self.stops.pop(0)
        self.now = min(command.until for command in running)
        return [command for command in running if command.until <= self.now]


def job(*titles: str) -> Job[None]:
    for title in titles:
        assert (yield Command([title], title)) == 1.0


def jobs_named(names: str) -> dict[str, Job[None]]:
    return {name: job(name) for name in names.split()}


def test_one_at_a_time_they_are_done_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    run_jobs({"a": job("a1", "a2"), "b": job(), "c": job("c1")}, {"b": {"a"}})
    assert clock.started == {"a1": 0.0, "a2": 1.0, "c1": 2.0}
    assert clock.most == 1 and clock.shares == {1}


def test_none_begins_before_those_that_it_needs_and_no_place_stays_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, zero=3, distill=2, sft=2, cold_start=3)
    needs = {"distill": {"zero"}, "cold_start": {"distill"}, "sft": {"distill"}, "answers": {"zero"}}
    run_jobs(jobs_named("base zero answers distill cold_start sft"), needs, at_once=2)
    assert clock.started == {"base": 0, "zero": 0, "answers": 3, "distill": 3, "cold_start": 5, "sft": 5}
    assert clock.now == 8 and clock.most == 2 and clock.shares == {2}


def test_a_job_that_has_nothing_to_do_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    run_jobs({"a": job(), "b": job(), "c": job("c")}, {"b": {"a"}, "c": {"b"}}, at_once=2)
    assert clock.started == {"c": 0.0}


def test_where_one_fails_the_others_are_stopped_and_nothing_more_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, long=9)
    clock.errors["fails"] = CommandFailed("out of memory")
    with pytest.raises(CommandFailed, match="out of memory"):
        run_jobs(jobs_named("long fails next"), at_once=2)
    assert clock.commands["long"].sent == [signal.SIGTERM]
    assert list(clock.started) == ["long", "fails"]


def test_a_job_may_take_an_error_and_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    clock.errors["first"] = CommandFailed("out of memory")

    def takes_errors() -> Job[None]:
        with pytest.raises(CommandFailed):
            yield Command([], "first")
        yield Command([], "second")

    run_jobs({"a": takes_errors()})
    assert list(clock.started) == ["first", "second"]


@pytest.mark.parametrize(
    ("stops", "handed_on"),
    [
        ([Stopped()], [signal.SIGTERM]),
        ([Stopped(signal.SIGHUP)], [signal.SIGHUP]),
        ([KeyboardInterrupt()], [signal.SIGINT]),
        ([KeyboardInterrupt(), KeyboardInterrupt()], [signal.SIGINT, signal.SIGKILL]),
        ([Stopped(), KeyboardInterrupt()], [signal.SIGTERM, signal.SIGKILL]),
    ],
    ids=["SIGTERM", "SIGHUP", "Ctrl-C", "Ctrl-C twice", "SIGTERM, then Ctrl-C"],
)
def test_what_stops_all_is_handed_on_and_their_ends_waited_for(
    monkeypatch: pytest.MonkeyPatch, stops: list[BaseException], handed_on: list[int]
) -> None:
    clock = Clock(monkeypatch)
    clock.stops = stops[:1]
    again = iter([*stops[1:], CommandFailed("stopped"), Stopped(), CommandFailed("stopped"), Stopped()])

    def wait(command: StandIn) -> float:
        raise next(again)

    monkeypatch.setattr(StandIn, "wait", wait)
    with pytest.raises(type(stops[0])):
        run_jobs(jobs_named("one other third"), at_once=2)
    assert clock.commands["one"].sent == clock.commands["other"].sent == handed_on
    assert "third" not in clock.started
