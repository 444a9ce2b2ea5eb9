"""Jobs: what takes several commands one after another, and of which several may be done beside each other.

A job is a generator. It yields a command, and is sent the processor seconds that it took, or raised `CommandFailed`.
All jobs are led by one thread, which waits for whatever command ends first.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import suppress
from functools import partial
from graphlib import TopologicalSorter
from multiprocessing import connection
from typing import TypeVar

from specs_lightning.runs.processes import Command, CommandFailed, StartedCommand
from specs_lightning.system.signals import Stopped

T = TypeVar("T")
Job = Generator[Command, float, T]


def run_jobs(
    jobs: Mapping[str, Job[None]], needs: Mapping[str, Collection[str]] | None = None, at_once: int = 1
) -> None:
    """Do all jobs, in their order as far as those that each `needs` are done, at most so many at a time.

    A job that fails ends all: others are stopped as by SIGTERM, so that they can go on later. SIGTERM and Ctrl-C are
    handed on to the commands and to the processes that these have started; a second Ctrl-C kills them.

    Raises:
        CommandFailed: a command ended with an error that its job did not take.
        Stopped, KeyboardInterrupt: a command, or this process, was stopped.
    """
    names = list(jobs)
    order = TopologicalSorter({name: (needs or {}).get(name, ()) for name in names})
    order.prepare()
    waiting: list[str] = []
    running: dict[StartedCommand, str] = {}

    def lead(name: str, go_on: Callable[[], Command]) -> None:
        """To its next command, or to its end."""
        try:
            command = go_on()
        except StopIteration:
            order.done(name)
        else:
            running[StartedCommand(command, at_once)] = name

    try:
        while order.is_active():
            waiting = sorted([*waiting, *order.get_ready()], key=names.index)
            if waiting and len(running) < at_once:
                lead(name := waiting.pop(0), partial(next, jobs[name]))
                continue
            for command in _ended(running):
                name = running.pop(command)
                try:
                    seconds = command.wait()
                except CommandFailed as error:
                    lead(name, partial(jobs[name].throw, error))
                else:
                    lead(name, partial(jobs[name].send, seconds))
    except BaseException as cause:
        _stop(running, cause)
        raise


def _ended(running: Collection[StartedCommand]) -> list[StartedCommand]:
    """Those that have ended, once there is one."""
    ready = connection.wait([command.sentinel for command in running])
    return [command for command in running if command.sentinel in ready]


def _stop(running: Collection[StartedCommand], cause: BaseException) -> None:
    """Have commands end, by what has stopped this process if anything has; returns when they have."""
    number = signal.SIGINT if isinstance(cause, KeyboardInterrupt) else signal.SIGTERM
    _signal(running, cause.number if isinstance(cause, Stopped) else number)
    try:
        _wait(running)
    except KeyboardInterrupt:
        _signal(running, signal.SIGKILL)
        _wait(running)


def _signal(running: Collection[StartedCommand], number: int) -> None:
    for command in running:
        command.signal(number)


def _wait(running: Collection[StartedCommand]) -> None:
    for command in running:
        with suppress(CommandFailed, Stopped):  # what has stopped it is known
            command.wait()
