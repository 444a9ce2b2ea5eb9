"""A second process is kept out of a folder, for as long as the first one lives."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from specs_lightning.system.folder_lock import FolderInUse, only_writer

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from specs_lightning.system.folder_lock import only_writer
with only_writer(Path(sys.argv[1])):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    print(child.pid, flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_until_the_first_one_is_gone(tmp_path: Path) -> None:
    """Even when it is killed, and a process that it started lives on."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        refused = pytest.raises(FolderInUse, match=rf"{tmp_path} is being written to by process {holder.pid} on .")
        with refused, only_writer(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with only_writer(tmp_path):
            pass
    finally:
        holder.kill()
        os.kill(child, signal.SIGKILL)


def test_folders_within_are_other_folders(tmp_path: Path) -> None:
    with only_writer(tmp_path), only_writer(tmp_path / "stage"):
        pass


def test_storage_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lockf(*unused: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("specs_lightning.system.folder_lock.fcntl.lockf", lockf)
    with only_writer(tmp_path):
        assert f"{tmp_path} cannot be locked" in caplog.text and "do not start a second run in it" in caplog.text
