"""A rollout server as the trainer sees it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx

from specs_lightning.rollout.sampler import EngineError
from specs_lightning.rollout.tokens import TOKEN_ENV, token_for
from specs_lightning.rollout.wire import MAX_REQUEST_BYTES, PROTOCOL

log = logging.getLogger(__name__)

CONNECT_S = 5.0
FAILURES = 2
"""So many in a row, and a server is left out."""
ALONE: dict[str, Any] = {"headers": {"Content-Type": "application/json"}, "trust_env": False}
"""Of a client: without proxies and password files, the token goes to this server and to nobody else."""


class ServerFailed(Exception):
    """A server did not answer as it should; another may. Where it is `gone`, it is no use to ask it again."""

    def __init__(self, cause: str, gone: bool = True) -> None:
        super().__init__(cause)
        self.gone = gone


class ServerState(NamedTuple):
    """What the process that has looked at a server tells the others of a training."""

    lost: str | None
    max_model_len: int
    max_sequences: int


class Connection:
    """One server, at `http://host:port`; `token_env` is the environment variable with the token that it wants.

    Raises:
        ValueError: the URL is none, or holds a password.
    """

    def __init__(self, url: str, token_env: str = TOKEN_ENV) -> None:
        self.url = check_url(url)
        parsed = httpx.URL(self.url)
        self.host, self.port = parsed.host, parsed.port or {"http": 80, "https": 443}[parsed.scheme]
        self.token_env = token_env
        self.client = httpx.Client(base_url=self.url, **ALONE)
        self.lost: str | None = None
        """Why it is left out, if it is."""
        self.failures = 0
        """In a row."""
        self.weights_id = ""
        """Which weights it said that it holds."""
        self.workers = 1
        self.backend = "gloo"
        self.max_model_len = 0
        self.max_sequences = 1

    def look(self) -> None:
        """Ask how it is, and count it in again if it answers.

        Raises:
            ServerFailed: it does not answer, or is none of ours.
            EngineError: it is of another version of this package.
        """
        health = self._call("GET", "/health", None, CONNECT_S)
        if health.get("protocol") != PROTOCOL:
            raise EngineError(f"{self.url} runs another version of specs-lightning: install the same on both sides")
        if self.lost is not None and health["busy"]:
            raise ServerFailed("it is still at work on what it was asked before it was left out")
        self.lost, self.failures = None, 0
        self.weights_id, self.workers, self.backend = health["weights_id"], health["workers"], health["backend"]
        self.max_model_len, self.max_sequences = health["max_model_len"], health["max_sequences"]

    @property
    def state(self) -> ServerState:
        return ServerState(self.lost, self.max_model_len, self.max_sequences)

    def take_over(self, state: ServerState) -> None:
        """As another process has found it."""
        self.lost, self.max_model_len, self.max_sequences = state
        self.failures = 0

    def leave_out(self) -> None:
        """Say that it is lost, and why."""
        log.warning("rollout server %s is left out until the next sync: %s", self.url, self.lost)

    def post(self, path: str, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The server's answer.

        Raises:
            ServerFailed: there was none, or the fault was the server's.
            EngineError: the request is at fault: no other server would take it.
        """
        return self._call("POST", path, _body(message), timeout_s)

    async def ask(
        self, client: httpx.AsyncClient, path: str, message: dict[str, Any], timeout_s: float
    ) -> dict[str, Any]:
        """As `post`, beside others."""
        body, url = _body(message), self.url + path
        with _failures_told(timeout_s):
            answer = await client.post(url, content=body, timeout=_limits(timeout_s), headers=self._shown())
        return self._read(answer)

    def _call(self, method: str, path: str, body: bytes | None, timeout_s: float) -> dict[str, Any]:
        with _failures_told(timeout_s):
            answer = self.client.request(method, path, content=body, timeout=_limits(timeout_s), headers=self._shown())
        return self._read(answer)

    def _shown(self) -> dict[str, str]:
        token = token_for(self.host, self.port, self.token_env)  # anew: a server that is started again makes another
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        status = response.status_code
        try:
            answer = dict(response.json())
            said = answer.get("error", "")
        except (TypeError, ValueError) as error:
            if status < 500:
                raise ServerFailed("what answers there is not `specs serve`") from error
            said = response.reason_phrase
        if status == 200:
            return answer
        if status == 401:
            raise EngineError(
                f"{self.url}: {said}. Set the environment variable {self.token_env} as for the server, or to the token "
                "that it printed at its start"
            )
        if status == 409 or status >= 500:
            raise ServerFailed(f"{status}: {said}", gone=status == 409)
        raise EngineError(f"{self.url}: {said}")


def many_at_once() -> httpx.AsyncClient:
    """A client for `Connection.ask`, without a limit to what is under way."""
    return httpx.AsyncClient(limits=httpx.Limits(max_connections=None, max_keepalive_connections=None), **ALONE)


def _body(message: dict[str, Any]) -> bytes:
    body = json.dumps(message).encode()
    if len(body) > MAX_REQUEST_BYTES:
        raise EngineError(
            f"a request of {len(body) >> 20} MiB is larger than servers take ({MAX_REQUEST_BYTES >> 20} MiB): make the "
            "prompt's images smaller"
        )
    return body


def _limits(timeout_s: float) -> httpx.Timeout:
    return httpx.Timeout(timeout_s, connect=CONNECT_S)


@contextmanager
def _failures_told(timeout_s: float) -> Iterator[None]:
    """What keeps an answer away is the server's failure."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise ServerFailed(f"no answer within {timeout_s:g} s ({type(error).__name__})") from error
    except httpx.TransportError as error:
        raise ServerFailed(_cause(error)) from error


def _cause(error: BaseException) -> str:
    """What the system says, where it is the cause: libraries put it in words of their own."""
    innermost = error
    while inner := innermost.__cause__ or innermost.__context__:
        innermost = inner
    if isinstance(innermost, OSError) and innermost.errno:
        return os.strerror(innermost.errno)
    return str(error) or type(error).__name__


def failing(servers: Sequence[Connection], action: Callable[[Connection], object]) -> list[Connection]:
    """Do something with all servers at once; those that failed, with the cause."""

    def try_it(server: Connection) -> None:
        try:
            action(server)
        except ServerFailed as failure:
            server.lost = str(failure)

    with ThreadPoolExecutor(max(1, len(servers))) as threads:
        list(threads.map(try_it, servers))
    return [server for server in servers if server.lost is not None]


def check_url(url: str) -> str:
    """The URL without a slash at its end."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is not a server's address: {error}") from error
    if parsed.userinfo:
        raise ValueError(f"the address of {parsed.host} holds a password: use the environment variable for the token")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{url!r} is not a server's address: write http://host:port")
    return url.rstrip("/")
