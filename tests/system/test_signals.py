"""SIGTERM ends a block by an exception, once, and only there."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from specs_lightning.system.signals import STOPPED, Stopped, raising_on_sigterm, stopping_signals


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


IN_A_TERMINAL = """
import fcntl, sys, termios
from pathlib import Path
from specs_lightning.system.signals import STOPPED, Stopped, raising_on_sigterm
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
try:
    with raising_on_sigterm():
        print("at work", flush=True)
        while True:
            sys.stdin.readline()
except Stopped as stop:
    print("still talking", file=sys.stderr, flush=True)
    print("to nobody", flush=True)
    Path(sys.argv[1]).write_text(stop.by)
    sys.exit(STOPPED)
"""


def test_a_closed_terminal_stops_it_and_what_it_says_then_is_no_error(tmp_path: Path) -> None:
    ours, its = pty.openpty()
    command = [sys.executable, "-c", IN_A_TERMINAL, str(tmp_path / "saved")]
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    assert os.read(ours, 100).startswith(b"at work")
    os.close(ours)
    assert process.wait(60) == STOPPED
    assert (tmp_path / "saved").read_text() == "SIGHUP"


def test_what_nohup_has_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signal.SIGHUP in stopping_signals()
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    assert stopping_signals() == (signal.SIGTERM, signal.SIGUSR1)
