"""Judges for tests: a real HTTP server in a thread, which does what it is told to."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from specs_lightning.judge import JudgeSettings

TOKEN = re.compile(r"^BEGIN DATA (\w+)$", re.MULTILINE)


@dataclass
class Reply:
    """What the server sends.

    Args:
        body: as it is, or a JSON value.
        status: of HTTP.
        headers: further ones.
        wait_s: before it answers.
        trickle: send a byte from time to time, and never come to an end.
    """

    body: Any = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    trickle: bool = False


def completion(content: str | None, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    """A chat completion as endpoints send it."""
    choice = {
        "index": 0,
        "finish_reason": finish_reason,
        "message": {"role": "assistant", "content": content, **message},
    }
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "judge-1",
        "choices": [choice],
        "usage": usage,
    }


def user_text(request: dict[str, Any]) -> str:
    return request["messages"][-1]["content"]


def data_of(request: dict[str, Any]) -> dict[str, str]:
    """The data of a request, read as a careful judge does: the lines between the token's two."""
    text = user_text(request)
    token = TOKEN.search(text)[1]  # type: ignore[index]
    inside = text.split(f"BEGIN DATA {token}\n")[1].split(f"\nEND DATA {token}")[0]
    return {name: json.loads(quoted) for name, _, quoted in (line.partition(": ") for line in inside.split("\n"))}


def verdict(request: dict[str, Any], word: str) -> dict[str, Any]:
    """The reply that a judge which follows its instructions gives."""
    token = TOKEN.search(user_text(request))[1]  # type: ignore[index]
    return completion(json.dumps({"request": token, "reason": "as it is", "verdict": word}))


def honest(request: dict[str, Any]) -> Any:
    """Right if the answer holds the reference answer's words."""
    data = data_of(request)
    return verdict(request, "correct" if data["reference answer"] in data["given answer"] else "incorrect")


class JudgeServer:
    """An OpenAI-compatible endpoint.

    Args:
        reply: what it answers to the n-th request; a body, or a `Reply`.
    """

    def __init__(self, reply: Callable[[dict[str, Any], int], Any]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0
        self.models = ["judge-1"]
        self.models_reply: Reply | None = None
        self._reply = reply
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.requests.append(request)
                    server.headers.append({name.lower(): value for name, value in self.headers.items()})
                    number = len(server.requests)
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                try:
                    self._send(server._reply(request, number))
                finally:
                    with server._lock:
                        server.at_once -= 1

            def do_GET(self) -> None:
                models = [{"id": name, "object": "model", "created": 1, "owned_by": "us"} for name in server.models]
                self._send(server.models_reply or {"object": "list", "data": models})

            def _send(self, reply: Any) -> None:
                reply = reply if isinstance(reply, Reply) else Reply(reply)
                server._stopped.wait(reply.wait_s)
                body = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
                try:
                    self.send_response_only(reply.status)
                    for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(10**6 if reply.trickle else len(body)))
                    self.end_headers()
                    while reply.trickle and not server._stopped.wait(0.05):
                        self.wfile.write(b" ")
                        self.wfile.flush()
                    self.wfile.write(body)
                except OSError:  # the client hung up
                    self.close_connection = True

            def log_message(self, *unused: Any) -> None:
                pass

        self._http = _PatientServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def settings(self, **changes: Any) -> JudgeSettings:
        """Of a judge that asks this server, by default without a cache."""
        return JudgeSettings(**{"model": "judge-1", "base_url": self.url, "cache": None, "retries": 2, **changes})

    def stop(self) -> None:
        self._stopped.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _PatientServer(ThreadingHTTPServer):
    """Lets more connections wait than a judge opens at once: one that is refused is asked again, and counts."""

    request_queue_size = 128


@contextmanager
def judge_server(reply: Callable[[dict[str, Any], int], Any] | Any = None) -> Iterator[JudgeServer]:
    """A server that answers with `reply`, a function of the request and its number or always the same; honestly
    without one."""
    if reply is None:
        server = JudgeServer(lambda request, number: honest(request))
    else:
        server = JudgeServer(reply if callable(reply) else lambda request, number: reply)
    try:
        yield server
    finally:
        server.stop()


def wait_until(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
