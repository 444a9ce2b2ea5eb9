"""A folder that one process writes to at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from specs_lightning.errors import SpecsError
from specs_lightning.system.files import check_writable

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"
ATTEMPTS, WAIT_S = 10, 0.2


class FolderInUse(SpecsError, RuntimeError):
    """Another process writes to the folder."""


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other processes from running in a folder; of a training's own, the first does it for all.

    The lock belongs to the process and ends with it, however it ends. (A record lock: children do not inherit it, so
    that one which outlives its parent does not hold it.)

    Raises:
        FolderInUse: another process has the lock.
        NotWritable: nothing can be written there.
    """
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        yield
        return
    check_writable(folder)
    with (folder / LOCK_FILE).open("a+") as file:
        try:
            _lock(file)
        except (BlockingIOError, PermissionError) as error:  # systems differ
            file.seek(0)
            raise FolderInUse(
                f"{folder} is being written to by {file.read().strip() or 'another process'}: wait for its end, "
                "or give this run another folder"
            ) from error
        except OSError as error:
            log.warning("%s cannot be locked (%s): do not start a second run in it", folder, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _lock(file: IO[str]) -> None:
    """Wait a little for one that was killed a moment ago: it, or a stage that it ran, may not have ended yet."""
    for attempt in range(ATTEMPTS):
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except (BlockingIOError, PermissionError):
            if attempt + 1 == ATTEMPTS:
                raise
            time.sleep(WAIT_S)
