"""SIGTERM as an exception, so that what is under way is left as it would be left by any other error.

SIGUSR1, by which clusters announce that they take a machine back, is taken for it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
STOPPED = 75
"""The exit status after SIGTERM: start again, and it goes on (`EX_TEMPFAIL` of sysexits.h)."""


class Stopped(BaseException):
    """SIGTERM came: whoever catches `Exception` does not swallow it."""


@contextmanager
def raising_on_sigterm() -> Iterator[None]:
    """Have SIGTERM end what is done here by an exception. A training handles it by itself while it lasts.

    Raises:
        Stopped: it came.
    """

    def stop(*unused: Any) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # on the way out
        raise Stopped

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(number, stop) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
