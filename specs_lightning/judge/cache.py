"""The judge's replies on disk: a question that was answered once is never paid for again."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from specs_lightning.errors import SpecsError


class JudgeCacheError(SpecsError, OSError):
    """A cache file that cannot be used."""


class ReplyCache:
    """An SQLite file of requests and replies, safe to share among processes of one machine. It holds no key.

    Without a file, replies are kept in memory only.

    Raises:
        JudgeCacheError: the file is no such cache, or cannot be written.
    """

    def __init__(self, file: Path | None) -> None:
        try:
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                ":memory:" if file is None else file, timeout=60, isolation_level=None, check_same_thread=False
            )
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, request TEXT NOT NULL, reply TEXT NOT NULL, "
                "at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)"
            )
        except (sqlite3.Error, OSError) as error:
            raise JudgeCacheError(
                f"the judge's cache {file} cannot be used ({error}): move it away, or set judge.cache to another file"
            ) from error

    def get(self, key: str) -> dict[str, Any] | None:
        row = self._connection.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, request: dict[str, Any], reply: dict[str, Any]) -> None:
        row = (key, json.dumps(request), json.dumps(reply))
        self._connection.execute("INSERT OR REPLACE INTO replies (key, request, reply) VALUES (?, ?, ?)", row)

    def close(self) -> None:
        self._connection.close()
