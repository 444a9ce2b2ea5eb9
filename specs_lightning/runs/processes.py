"""A command of `specs` in a process of its own, which is watched: a stage of a run.

The processes are forked from one that has imported everything (`runs.warm`), so that imports are paid for once a run,
and that holds neither threads nor a device. What a stage took of memory and devices goes with its process.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver as forkserver
import os
import runpy
import shlex
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from specs_lightning.errors import SpecsError
from specs_lightning.system import progress
from specs_lightning.system.progress import BESIDE_OTHERS, TITLE
from specs_lightning.system.signals import SIGNALS, STOPPED, Stopped

LONGEST_MESSAGE = 10_000
"""Characters: what is told must fit into a pipe that is read when the process has ended."""
RANKS_END_S = 30.0
CONTEXT: Any = multiprocessing.get_context("forkserver")


class CommandFailed(SpecsError, RuntimeError):
    """A command that ended with an error."""


class Command(NamedTuple):
    """A command of `specs`."""

    args: Sequence[str]
    title: str
    """Of its progress."""
    folder: Path | None = None
    """Where a file tells of its progress, while it lasts."""
    environment: Mapping[str, str] | None = None
    """Beside that of this process."""


@dataclass(frozen=True)
class Ending:
    """What a process says when it ends."""

    cpu_seconds: float
    """Of itself and of those that it has waited for."""
    message: str | None = None
    """Of the error that ended it, for whoever watches it to print."""


def warm_up() -> None:
    """Begin to import what commands need, in the process that they are forked from."""
    if CONTEXT.get_start_method() != "forkserver":
        return
    CONTEXT.set_forkserver_preload(["specs_lightning.runs.warm"])
    # Asking whether there is a GPU must not make a context, which forked processes could not use.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    forkserver.ensure_running()


class StartedCommand:
    """A command in a process of its own, which ends with this one.

    Args:
        command: what is run.
        share: it takes one part in so many of this process's threads.
    """

    def __init__(self, command: Command, share: int = 1) -> None:
        warm_up()
        self.command = command
        self._said, ending = CONTEXT.Pipe(duplex=False)
        environment = {**os.environ, **(command.environment or {}), TITLE: command.title}
        if share > 1:
            environment |= {BESIDE_OTHERS: str(share)}
        self._process = CONTEXT.Process(target=_run, args=(command, environment, os.getcwd(), ending))
        self._process.start()
        ending.close()

    @property
    def sentinel(self) -> int:
        """Ready, for `multiprocessing.connection.wait`, when it has ended."""
        sentinel: int = self._process.sentinel
        return sentinel

    def signal(self, number: int) -> None:
        """To it and the processes that it has started; it may have ended."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def wait(self) -> float:
        """Until it has ended; its processor seconds.

        Raises:
            CommandFailed: it ended with an error, which the exception tells or which stands above.
            Stopped: it was stopped.
        """
        process = self._process
        process.join()
        if self.command.folder is not None:
            progress.forget_progress(self.command.folder)
        told: Ending | None = None
        with suppress(EOFError):  # killed, it has said nothing
            told = self._said.recv()
        if process.exitcode == STOPPED:
            raise Stopped
        if told is None or process.exitcode != 0:
            what = (
                f"killed by signal {-process.exitcode}" if process.exitcode < 0 else f"exit status {process.exitcode}"
            )
            if process.exitcode == 0:  # by os._exit in something that it called
                what += ", before it was done"
            message = told.message if told and told.message else f"{what}; what it said stands above"
            raise CommandFailed(f"`{shlex.join(['specs', *self.command.args])}`: {message}")
        return told.cpu_seconds


# ------------------------------------------------------------------------------------------- in the new process


def _run(command: Command, environment: dict[str, str], folder: str, ending: Connection) -> None:
    os.setpgrp()  # signals from the terminal come from whoever watches
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, name="watch", daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    progress.told_in = command.folder
    _take_share(int(environment.get(BESIDE_OTHERS, 1)))
    sys.argv = ["specs", *command.args]
    message = None
    try:
        # As `python -m specs_lightning`, by which Lightning starts a training's other processes.
        runpy.run_module("specs_lightning", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if isinstance(error.code, str):
            message = error.code[:LONGEST_MESSAGE]
            raise SystemExit(1) from None
        raise
    finally:
        _wait_for_ranks()
        ending.send(Ending(sum(os.times()[:4]), message))


def _take_share(share: int) -> None:
    """Of the threads, for this process and those that it starts."""
    if share > 1:
        import torch  # imported by the process that this one was forked from

        threads = max(1, torch.get_num_threads() // share)
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)


def _wait_for_ranks() -> None:
    """For a training's other processes, which Lightning does not wait for: their time counts, and the next stage may
    need what they hold."""
    psutil.wait_procs(filter(_is_rank, psutil.Process().children()), timeout=RANKS_END_S)


def _is_rank(child: psutil.Process) -> bool:
    try:
        return "specs_lightning.__main__" in child.cmdline()
    except psutil.ZombieProcess:  # it has ended, and nobody has asked for its time yet
        return True
    except psutil.NoSuchProcess:
        return False


def _end_with_parent() -> None:
    """Once the process that watches is gone, by whatever signal: nothing goes on behind its back."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a child
    connection.wait([parent.sentinel])
    os.killpg(os.getpgrp(), signal.SIGKILL)
