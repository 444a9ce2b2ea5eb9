"""`specs watch`: the report of a run while it goes on, in a browser on this machine.

The page at `/` holds nothing of the run. Its script asks now and then whether there is something new, and puts the
report, in which no script runs (`report.page`), into a frame, at the place where it was read. Nothing is written.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

from specs_lightning.errors import SpecsError
from specs_lightning.records.run import read_run
from specs_lightning.report.page import report_page
from specs_lightning.system.addresses import host_in, is_loopback
from specs_lightning.system.terminal import say

HOST = "127.0.0.1"
LARGEST_SHARE = 0.1
"""Of a processor's time, that may be spent on writing the page: the training is to have it."""
POLICY = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; frame-src 'self'"
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
}
Answer = tuple[str, str]
"""The type of a content, and the content."""


class WatchError(SpecsError, OSError):
    """The port cannot be listened on."""


def watch(run_dir: Path, port: int = 8042) -> None:
    """Show the report of a run in a browser on this machine, written anew while the run goes on; Ctrl-C ends it.

    Args:
        run_dir: the folder that `specs run` writes.
        port: the port to listen at; 0 for any that is free.

    Raises:
        NoRunError: the folder holds no `run.json`.
        WatchError: the port is taken.
    """
    read_run(run_dir)
    with listening(run_dir, port) as server, suppress(KeyboardInterrupt):
        say(f"watching {run_dir} on http://{HOST}:{server.server_port} (Ctrl-C ends it)")
        server.serve_forever()


def listening(run_dir: Path, port: int) -> ThreadingHTTPServer:
    """The server of a run, which answers to whoever is on this machine."""
    try:
        return ThreadingHTTPServer((HOST, port), partial(Handler, Watched(run_dir)))
    except OSError as error:
        raise WatchError(f"cannot listen on {HOST}:{port} ({error.strerror}): choose another --port") from error


@dataclass
class Watched:
    """A run, and its report as it was last written; `mark` tells one state of it from others."""

    run_dir: Path
    mark: str = ""
    answer: Answer = ("text/plain", "")
    _not_before: float = 0.0
    _lock: Any = field(default_factory=threading.Lock)

    def renew(self) -> None:
        """Write the report again, if there is something new and not too much time has been spent on it of late."""
        with self._lock:
            if time.monotonic() < self._not_before or (mark := state_of(self.run_dir)) == self.mark:
                return
            began = time.thread_time()
            self.mark, self.answer = mark, self._written()
            self._not_before = time.monotonic() + (time.thread_time() - began) / LARGEST_SHARE

    def _written(self) -> Answer:
        try:
            return "text/html", report_page(self.run_dir)
        except SpecsError as error:
            return "text/plain", str(error)


def state_of(run_dir: Path) -> str:
    """What changes whenever a file does that the report may show."""
    return hashlib.sha256(repr(list(_stamps(run_dir))).encode()).hexdigest()


def _stamps(run_dir: Path) -> Iterator[tuple[str, int, int]]:
    for file in sorted([*run_dir.glob("*"), *run_dir.glob("*/*")]):
        with suppress(FileNotFoundError):  # it may be gone meanwhile
            if file.is_file():
                found = file.stat()
                yield str(file), found.st_mtime_ns, found.st_size


class Handler(BaseHTTPRequestHandler):
    """Answers a request, if it calls the server by a name of this machine.

    A web page may have a name of its own mean this machine, and then read what listens here as its own.
    """

    server_version, sys_version = "specs", ""

    def __init__(self, watched: Watched, *args: Any) -> None:
        self.watched = watched
        super().__init__(*args)

    def do_GET(self) -> None:
        called = host_in(self.headers.get("Host", ""))
        if not is_loopback(called):
            self._send(HTTPStatus.FORBIDDEN, ("text/plain", f"this server is not called {called!r}: use {HOST}"))
        elif (answer := self._answer()) is None:
            self._send(HTTPStatus.NOT_FOUND, ("text/plain", "there is nothing here"))
        else:
            self._send(HTTPStatus.OK, answer)

    def _answer(self) -> Answer | None:
        match self.path:
            case "/":
                return "text/html", _shipped("watch.html")
            case "/watch.js":
                return "text/javascript", _shipped("watch.js")
            case "/mark":
                self.watched.renew()
                return "text/plain", self.watched.mark
            case "/report.html":
                return self.watched.answer
        return None

    def _send(self, status: HTTPStatus, answer: Answer) -> None:
        kind, content = answer[0], answer[1].encode()
        own = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(content))}
        own |= {"Content-Security-Policy": POLICY} if self.path == "/" else {}
        self.send_response(status)
        for name, value in (own | HEADERS).items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):  # the browser was closed
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not told: there is one every few seconds."""


def _shipped(name: str) -> str:
    return files("specs_lightning.report").joinpath(name).read_text(encoding="utf-8")
