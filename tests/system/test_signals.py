"""SIGTERM ends a block by an exception, once, and only there."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from specs_lightning.system.signals import Stopped, raising_on_sigterm


def test_it_ends_the_block_and_what_stood_before_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped), raising_on_sigterm():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        except Stopped:
            os.kill(os.getpid(), signal.SIGTERM)  # a second one does not disturb the way out
            raise
    assert signal.getsignal(signal.SIGTERM) is before


def test_it_is_no_exception_that_is_caught_by_chance() -> None:
    assert not issubclass(Stopped, Exception)


def test_another_thread_leaves_the_handler_alone() -> None:
    found = []

    def work() -> None:
        with raising_on_sigterm():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
