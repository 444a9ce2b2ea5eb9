"""Digests: what a thing is, whatever it is called and wherever it lies."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SETTLED_NS = 2_000_000_000
"""A file that was changed less long ago may change again without its times showing it."""
_known: dict[tuple[str, int, int, int, int], str] = {}
"""What files were when they were last read, by all that the system tells of them. The time of the last change of a
file's record (ctime), which nobody can set, is among it."""


def fingerprint(settings: Mapping[str, Any]) -> str:
    """16 characters that tell one set of settings from another."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content_digest(path: Path, without: Collection[str] = ()) -> str:
    """Of a file, or of all files in a folder with their names: every byte counts. A file is read once a process.

    Folders that tools keep beside the content (`.git`, `.cache`) are none of it.

    Args:
        path: of the file or the folder.
        without: files of the folder that are no content either.
    """
    files = [path]
    if path.is_dir():
        inside = (file for file in path.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(path)))
        files = sorted(file for file in inside if str(file.relative_to(path)) not in without)
    with ThreadPoolExecutor(max_workers=8) as threads:
        digests = list(threads.map(_file_digest, files))
    names = [str(file.relative_to(path)) if path.is_dir() else "" for file in files]
    return fingerprint(dict(zip(names, digests, strict=True)))


def _is_hidden(file: Path) -> bool:
    return any(folder.startswith(".") for folder in file.parts[:-1])


def _file_digest(file: Path) -> str:
    state = file.stat()
    key = str(file.absolute()), state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
    if key in _known:
        return _known[key]
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if abs(time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns)) > SETTLED_NS:
        _known[key] = digest
    return digest
