"""math-verify in killable processes.

A computer algebra system can be made to run for ever, and the thread that runs it can't be stopped. So each worker is
a process of its own, killed when its time is up and started again when it is next needed. Plain subprocesses rather
than `multiprocessing`: they don't import the caller's main module, work from daemon processes (data loader workers),
and know nothing of torch.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from specs_lightning.errors import check_positive

TIMED_OUT = "timed out"
KILLED = "the math-verify process was killed ({})"
"""By whom is not known: a system that is out of memory sends SIGKILL."""
START_SECONDS = 120.0
"""How long a worker may take to start: importing sympy on a busy machine."""
PATIENCE = 5.0
"""How much longer a comparison may take on the clock than in processor time: the machine may be busy."""
_SCRIPT = Path(__file__).with_name("math_verify_worker.py")


class VerifierError(RuntimeError):
    """A worker could not be started."""


class Verdict(NamedTuple):
    """Whether an answer is correct; `None` where that is unknown, and then why."""

    correct: bool | None
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A question for math-verify: is this answer worth this gold answer?"""

    gold: str
    answer: str
    places: int | None = None
    """Decimal places that must agree; six where nothing is said."""


class MathVerifier:
    """A pool of math-verify processes, started at the first question. Usable from any thread.

    Args:
        timeout_seconds: processor time that one comparison may take; five times as long on the clock, at most. (Where
            processes cannot fork, on the clock only.)
        workers: how many processes.

    Raises:
        ValueError: a limit or a number of workers that isn't positive.
    """

    def __init__(self, timeout_seconds: float = 1.0, workers: int = 1) -> None:
        check_positive(timeout_seconds=timeout_seconds, workers=workers)
        self.timeout_seconds = timeout_seconds
        self.workers = workers
        self._reset()

    def __reduce__(self) -> tuple[Any, ...]:
        # Processes and locks stay behind: a copy, or another process, starts its own
        return MathVerifier, (self.timeout_seconds, self.workers)

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """A verdict on each comparison; equal ones are asked once.

        Raises:
            VerifierError: a worker could not be started.
        """
        unique = list(dict.fromkeys(comparisons))
        if not unique:
            return []
        if self._process_id != os.getpid():
            self._reset()  # forked: the workers belong to the parent
        with ThreadPoolExecutor(self.workers) as threads:
            verdicts = dict(zip(unique, threads.map(self._ask, unique), strict=True))
        return [verdicts[comparison] for comparison in comparisons]

    def close(self) -> None:
        """End the processes. The pool can be used again, with new ones."""
        if self._process_id != os.getpid():
            return
        with self._closing:
            workers = [self._idle.get() for _ in range(self.workers)]  # waits for those that are at work
            for worker in workers:
                if worker is not None:
                    worker.stop()
                self._idle.put(None)

    def _reset(self) -> None:
        self._process_id = os.getpid()
        self._closing = threading.Lock()
        self._idle: SimpleQueue[_Worker | None] = SimpleQueue()
        for _ in range(self.workers):
            self._idle.put(None)  # a place for a worker that isn't running

    def _ask(self, comparison: Comparison) -> Verdict:
        worker = self._idle.get()
        try:
            if worker is None:
                worker = _Worker(self.timeout_seconds)
            return worker.compare(comparison)
        finally:
            self._idle.put(worker if worker is not None and worker.alive else None)


class _Worker:
    """One process; dead after a timeout."""

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self.alive = True
        self._process = subprocess.Popen(
            # -P: the script's folder has modules of its own that must not hide others
            [sys.executable, "-P", str(_SCRIPT), str(timeout_seconds), str(PATIENCE * timeout_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # what stops this process, or all of its terminal's, is no verdict: its input ends
        )
        ready, timed_out = self._exchange(None, START_SECONDS)
        verdict = _read_verdict(ready)
        if verdict is None or not verdict.correct:
            self.stop()
            reason = f"did not start within {START_SECONDS:g} s" if timed_out else "ended before its first answer"
            raise VerifierError(f"the math-verify process failed: {verdict.cause if verdict else reason}")

    def compare(self, comparison: Comparison) -> Verdict:
        request = asdict(comparison)
        line, timed_out = self._exchange(json.dumps(request) + "\n", PATIENCE * self.timeout_seconds + 1)
        return _read_verdict(line) or Verdict(None, TIMED_OUT if timed_out else self._end())

    def _end(self) -> str:
        """How the process ended that was not stopped from here."""
        status = self._process.returncode
        return (
            KILLED.format(signal.Signals(-status).name) if status < 0 else f"the math-verify process ended ({status})"
        )

    def stop(self) -> None:
        self.alive = False
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):  # what was left to write has no reader any more
                pipe.close()

    def _exchange(self, request: str | None, seconds: float) -> tuple[str, bool]:
        """Write a line, read a line: the reply, "" if none came, and whether the time was up."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        timed_out = threading.Event()

        def kill() -> None:
            timed_out.set()
            self._process.kill()  # ends the read below, on any platform

        timer = threading.Timer(seconds, kill)
        timer.start()
        try:
            if request is not None:
                stdin.write(request)
                stdin.flush()
            line = stdout.readline()
        except OSError:  # it died before it had read everything
            line = ""
        finally:
            timer.cancel()
            timer.join()  # past this point it either killed the process or never will
        if not line or timed_out.is_set():
            self.stop()
        return line, timed_out.is_set()


def _read_verdict(line: str) -> Verdict | None:
    """The verdict in a reply; `None` of a reply that isn't there, or was cut short by the kill."""
    return Verdict(**json.loads(line)) if line.endswith("\n") else None
