"""Files and folders that are there whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from specs_lightning.errors import SettingsError, SpecsError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a write fails with where there is no room left, or no more allowed."""
PARTIAL = ".partial"
"""The ending of what is still being written."""
REPLACED = ".replaced"
"""The ending of a folder whose place a new one is about to take."""


LONGEST_NAME = 200
"""Bytes of a name, to which an ending is added: systems take 255."""
_NO_NAME = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]")


class NotWritable(SpecsError, RuntimeError):
    """A folder that is to be written to and cannot be."""


def cache_folder() -> Path:
    """Where what can be made again is kept: `$SPECS_CACHE`, or `~/.cache/specs-lightning`."""
    return Path(os.environ.get("SPECS_CACHE", Path.home() / ".cache" / "specs-lightning"))


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write a file or a folder at the path that is given; it then takes its place, with its content on the disk.

    What was there before stays until then, and for good if the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    remove(partial)
    with naming_what_has_no_room(path):
        try:
            yield partial
            sync(partial)
            move_over(partial, path)
        except BaseException:
            remove(partial)
            raise


def partial_path(path: Path) -> Path:
    """Where `atomic` has it written."""
    return path.with_name(path.name + PARTIAL)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def checked_name(name: str) -> str:
    """A name of the user's that becomes that of a folder, if it stays one: no path, and none that no system takes.

    Raises:
        SettingsError: it is not.
    """
    if name in ("", ".", "..") or _NO_NAME.search(name) or len(name.encode()) > LONGEST_NAME:
        raise SettingsError(
            f"the name {name[:100]!r} cannot be that of a folder: give one without slashes and control characters, of "
            f"at most {LONGEST_NAME} bytes"
        )
    return name


def full_disk(error: BaseException) -> OSError | None:
    """The system's own word, among the causes of an error, that there is no room: torch hides it behind others."""
    cause: BaseException | None = error
    while cause is not None:
        number = re.search(r"\(os error (\d+)\)", str(cause))  # of libraries in Rust, which have no OSError
        found = OSError(int(number[1]), os.strerror(int(number[1]))) if number else cause
        if isinstance(found, OSError) and found.errno in DISK_FULL:
            return found
        cause = cause.__cause__ or cause.__context__
    return None


@contextmanager
def naming_what_has_no_room(path: Path) -> Iterator[None]:
    """Have a full disk say what it is full for: writing to an open file does not.

    Raises:
        OSError: with this path, from whatever a library made of it.
    """
    try:
        yield
    except Exception as error:
        if (full := full_disk(error)) is None:
            raise
        raise OSError(full.errno, os.strerror(full.errno or 0), str(path)) from error


def check_writable(folder: Path) -> None:
    """Make a folder, if it is not there, and look whether files can be made in it: before anything long is done.

    Raises:
        NotWritable: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise NotWritable(
            f"nothing can be written to {folder.absolute()} ({error.strerror}): give another folder, or see to it that "
            "this one belongs to you and is not read-only"
        ) from error


def keep_lines(path: Path, number: int) -> None:
    """Cut a text file down to its first lines; it may have fewer."""
    if not path.exists():
        return
    content = path.read_bytes()
    kept = b"".join(content.splitlines(keepends=True)[:number])
    if kept != content:
        with atomic(path) as partial:
            partial.write_bytes(kept)


def sync(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk."""
    for each in path.rglob("*") if path.is_dir() else ():
        _sync_one(each)
    _sync_one(path)


def move_over(new: Path, path: Path) -> None:
    """Rename a file or a folder; one of the same name is gone afterwards."""
    old = path.with_name(path.name + REPLACED)
    if path.is_dir() or (path.exists() and new.is_dir()):
        # Renamed rather than deleted: a half-deleted folder would look like a whole one.
        remove(old)
        path.rename(old)
    new.replace(path)
    _sync_one(path.parent)
    remove(old)


def keep_beside(path: Path) -> Path | None:
    """Make room for a new file or folder: the old one is then called `NAME.1`, or by the first number that is free.

    A folder without content stays.

    Returns:
        where it is now.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    kept = next(kept for number in count(1) if not (kept := path.with_name(f"{path.name}.{number}")).exists())
    path.rename(kept)
    return kept


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
