"""SIGTERM as an exception, so that what is under way is left as it would be left by any other error.

SIGUSR1, by which clusters announce that they take a machine back, is taken for it, and SIGHUP, by which a terminal does
that is closed.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


def stopping_signals() -> tuple[signal.Signals, ...]:
    """Those that end what is done; not a SIGHUP that `nohup` has had ignored."""
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGTERM, signal.SIGUSR1, *([signal.SIGHUP] if hangs_up else []))


SIGNALS = stopping_signals()
STOPPED = 75
"""The exit status after SIGTERM: start again, and it goes on (`EX_TEMPFAIL` of sysexits.h)."""
INTERRUPTED = 128 + signal.SIGINT
"""The exit status after Ctrl-C, as shells have it."""


class Stopped(BaseException):
    """SIGTERM, or a signal that is taken for it, came: whoever catches `Exception` does not swallow it."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.number = number

    @property
    def by(self) -> str:
        """The signal's name."""
        return signal.Signals(self.number).name


@contextmanager
def raising_on_sigterm() -> Iterator[None]:
    """Have SIGTERM end what is done here by an exception. A training handles it by itself while it lasts.

    Raises:
        Stopped: it came.
    """

    def stop(number: int, *unused: Any) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # on the way out
        leave_terminal(number)
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(number, stop) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


def leave_terminal(number: int) -> None:
    """After SIGHUP, have what is said to the terminal go nowhere: to write to one that is gone is an error, which would
    keep the training from being saved."""
    if number != signal.SIGHUP:
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        with suppress(OSError):  # not open
            if stat.S_ISCHR(os.fstat(stream).st_mode):  # one that has hung up does not say any more that it is one
                os.dup2(nowhere, stream)
    os.close(nowhere)
