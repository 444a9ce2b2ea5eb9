"""SIGTERM as an exception, so that what is under way is left as it would be left by any other error."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(BaseException):
    """SIGTERM came: whoever catches `Exception` does not swallow it."""


@contextmanager
def raising_on_sigterm() -> Iterator[None]:
    """Have SIGTERM end what is done here by an exception. A training handles it by itself while it lasts.

    Raises:
        Stopped: it came.
    """

    def stop(*unused: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # on the way out
        raise Stopped

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
