"""`specs serve`: vLLM behind a small HTTP application of our own.

The code path is that of the engine in the training process, and nothing of vLLM's own server is there: no development
endpoints to leave open by accident.

| Endpoint | Takes | Gives |
|---|---|---|
| `GET /health` | | model, version of its weights, whether it is busy |
| `POST /generate` | a prompt, sampling, stop ids, the weights that are to answer | completions |
| `POST /weights` | a folder of safetensors files | the version it now holds |
| `POST /weights/group` | where to meet the trainer | how many workers joined |
| `POST /weights/broadcast` | names, types and shapes of what is sent | the version it now holds |

All prompts that are asked for are drawn in one batch, which each joins as it comes. One whose caller has hung up is
not drawn on. Weights wait until what was asked before them is answered.

Errors are `{"error": message}`: 400 for a request that cannot be served, 401 without the token, 403 for a folder out of
bounds, a name that is not the server's, or a meeting at another's address, 409 where it holds other weights than asked
for, 500 for anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from specs_lightning.policy.model_files import model_source
from specs_lightning.prompts.images import BadImage
from specs_lightning.rollout.sampler import EngineError, VLLMSampler, VLLMSettings, check_vllm, installed_vllm
from specs_lightning.rollout.server.batch import ContinuousBatch
from specs_lightning.rollout.server.served import FolderRule, Message, Refused, ServedSampler, readable
from specs_lightning.rollout.tokens import TOKEN_ENV, server_token
from specs_lightning.rollout.wire import MAX_REQUEST_BYTES
from specs_lightning.system.addresses import host_in, is_loopback, is_same
from specs_lightning.system.progress import TITLE
from specs_lightning.system.signals import Stopped, raising_on_sigterm
from specs_lightning.system.terminal import pasted, say

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)

SERVERS = "specs_lightning.rollout.VLLMServers"
"""The engine that asks what is served here."""
CLOSED = 499
"""The status of an answer that nobody waits for."""
Action = Callable[[Message, str], Awaitable[Message]]
"""What an endpoint does with a message, and with its caller's address."""


def serve(
    model: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_env: str = TOKEN_ENV,
    weights_dir: str | None = None,
    names: list[str] | None = None,
    vllm: VLLMSettings = VLLMSettings(),  # noqa: B008  frozen
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Serve rollouts with vLLM to trainings in other processes, until it is interrupted.

    Args:
        model: the model to start from, as in the policy's settings; the trainer sends its own weights.
        host: the address to listen at.
        port: the port to listen at; 0 for any that is free.
        token_env: the environment variable with the token that trainers must show. Where it holds none, one is made
            for this start: trainings of the same user on this machine find it, for others it is printed.
        weights_dir: the folder outside which no weights are read; needed for weights by folder if `host` is not this
            machine's own.
        names: further names by which trainers call this machine, as in their `urls`. By any but these, `host` and the
            address that it is reached at, nothing is answered: a web page may have given the machine a name of its own.
        vllm: how vLLM is set up.
        dtype: the type of the policy's weights, as in its settings.

    Raises:
        EngineError: vLLM is missing, the port is taken, or a token that is made cannot be left for trainings.
    """
    check_vllm()
    tell = (lambda text: None) if TITLE in os.environ else say  # a run says itself what it has started
    source = model_source(model)
    # Servers that are asked without seeds, and start from one, would draw the same for different prompts.
    vllm = replace(vllm, arguments={"seed": secrets.randbits(31), **vllm.arguments})
    with _bound(host, port) as listener, ThreadPoolExecutor(1, thread_name_prefix="vllm") as thread:
        sampler = thread.submit(VLLMSampler, source, vllm, dtype).result()
        batch = ContinuousBatch(sampler)
        served = ServedSampler(sampler, batch, source, vllm.tensor_parallel_size, vllm.max_sequences)
        may_read = FolderRule(Path(weights_dir) if weights_dir else None, is_loopback(host))
        port = listener.getsockname()[1]
        with server_token(token_env, port) as token, batch.running(thread):
            listener.listen()
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            tell(f"serving {source} on {address} with vLLM {installed_vllm()}")
            tell(f'trainings sample from it by {SERVERS} with urls: ["{address}"]; Ctrl-C ends it')
            _run(application(served, token, may_read, [host, *(names or [])]), listener)
        thread.submit(sampler.close).result()
    tell("stopped; the same command serves again")


def application(served: ServedSampler, token: str, may_read: FolderRule, names: Collection[str] = ()) -> ASGIApp:
    """The HTTP application, which answers to these names beside those of this machine alone."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    async def health(request: Request) -> Response:
        return JSONResponse(served.health())

    def post(path: str, action: Action) -> Route:
        async def endpoint(request: Request) -> Response:
            caller = request.client.host if request.client else ""
            asked = asyncio.ensure_future(answer(lambda message: action(message, caller), await request.body()))
            gone = asyncio.ensure_future(_hung_up(request.receive))
            try:
                await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
                status, body = asked.result() if asked.done() else (CLOSED, "")
            finally:
                asked.cancel(), gone.cancel()
            return Response(body, status, media_type="application/json")

        return Route(path, endpoint, methods=["POST"])

    routes = [
        Route("/health", health),
        post("/generate", lambda message, caller: served.generate(message)),
        post("/weights", lambda message, caller: served.load_folder(message, may_read)),
        post("/weights/group", served.join),
        post("/weights/broadcast", lambda message, caller: served.receive(message)),
    ]
    return Guard(Starlette(routes=routes), token, names)


async def answer(action: Callable[[Message], Awaitable[Message]], body: bytes) -> tuple[int, str]:
    """The status and JSON that an action gives for a request's body. What is long is done beside the event loop, which
    stays responsive."""
    try:
        with readable():
            message = dict(await asyncio.to_thread(json.loads, body))
        return 200, await asyncio.to_thread(json.dumps, await action(message))
    except Refused as error:
        return error.status, json.dumps({"error": str(error)})
    except (EngineError, BadImage) as error:
        return 400, json.dumps({"error": str(error)})
    except Exception as error:
        log.exception("a request failed")
        return 500, json.dumps({"error": f"{type(error).__name__}: {error}"})


async def _hung_up(receive: Receive) -> None:
    """When whoever has asked does not wait for the answer any more."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Guard:
    """Turns away who lacks the token, and what is no request of a trainer's, before anything of it is read.

    All but `/health` must show the token. A web page could have a browser on this machine send to it: by a name of the
    page's own that now means this machine, which is none of the server's `names`, or without this content type.
    """

    def __init__(self, app: ASGIApp, token: str, names: Collection[str] = ()) -> None:
        self.app = app
        self._expected = f"Bearer {token}".encode()
        self._names = {name.lower().rstrip(".") for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import JSONResponse

        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            status, message = refusal
            await JSONResponse({"error": message}, status)(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        called = host_in(headers.get(b"host", b"").decode("latin-1"))
        if not self._answers_to(called, scope):
            option = pasted("--names", f"[{called}]")
            return 403, f"this server is not called {called!r}: start it with {option} if it is to be"
        if scope["path"] == "/health":
            return None
        shown = headers.get(b"authorization", b"")
        if not hmac.compare_digest(shown, self._expected):
            return 401, "the token is missing or wrong"
        if scope["method"] == "POST":
            if not headers.get(b"content-type", b"").startswith(b"application/json"):
                return 415, "requests are application/json"
            length = headers.get(b"content-length", b"")
            if not length.isdigit():
                return 411, "requests state their length"
            if int(length) > MAX_REQUEST_BYTES:
                return 413, f"the request has {length.decode()} bytes, more than {MAX_REQUEST_BYTES}"
        return None

    def _answers_to(self, host: str, scope: Scope) -> bool:
        here = scope.get("server") or ("", None)  # of a server on all addresses, the one that the request came to
        return host in self._names or is_loopback(host) or is_same(host, here[0])


def _bound(host: str, port: int) -> socket.socket:
    """A socket at the address, not listening yet: a taken port shows before minutes of loading."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = found[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        where = f"{host}:{port} ({error.strerror})"
        raise EngineError(f"cannot listen on {where}: choose another --port or --host") from error
    return listener


def _run(app: ASGIApp, listener: socket.socket) -> None:
    import uvicorn

    # Quiet; idle connections are kept for longer than the trainer keeps them, so that it never uses a closed one.
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_keep_alive=60, timeout_graceful_shutdown=5
    )
    # The server ends at either, and raises the signal again when it has: what is left to close must be closed.
    with contextlib.suppress(KeyboardInterrupt, Stopped), raising_on_sigterm():
        uvicorn.Server(config).run(sockets=[listener])
