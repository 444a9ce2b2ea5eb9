"""vLLM in other processes, on this machine or on others: the trainer's side of `specs serve`."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import os
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from typing import Any, Literal, TypeVar, cast

import httpx

from specs_lightning.groups import Completion, EncodedPrompt
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.rollout.connection import Connection, ServerFailed, ServerState, check_url, failing, many_at_once
from specs_lightning.rollout.delivery import BroadcastDelivery, Delivery, FolderDelivery, NamedWeights, WeightsState
from specs_lightning.rollout.dispatch import Dispatch, NoServerLeft, in_flight_at_most
from specs_lightning.rollout.engine import RolloutEngine, SamplingSettings, stop_ids, with_opened
from specs_lightning.rollout.sampler import EngineError, SampleRequest
from specs_lightning.rollout.tokens import TOKEN_ENV
from specs_lightning.rollout.vllm import sample_request
from specs_lightning.rollout.wire import request_to_json
from specs_lightning.system.progress import progress_bar
from specs_lightning.system.ranks import failing_together, gather, rank, world_size
from specs_lightning.system.terminal import pasted

log = logging.getLogger(__name__)

SERVERS_ENV = "SPECS_SERVERS"
"""The environment variable with the addresses of a run's own servers."""

T = TypeVar("T")


class VLLMServers(RolloutEngine):
    """Generates with vLLM servers that `specs serve` started.

    Each prompt goes to the server with the least to do. One that fails is reported and left out, its prompts are
    answered by others, and each `sync` tries it again; with none left, an error says what became of each. `generate`
    may go on in another thread while the policy trains; a `sync` waits for its end.

    Args:
        urls: the servers, `http://host:port` each; those that `specs run` has started, by its setting `servers`, if not
            given.
        weights: how weights travel. `folder`: as files on storage that all machines see; `broadcast`: from memory to
            memory, by NCCL where both sides have GPUs (not the same one) and by gloo elsewhere.
        folder: where the files are written; a temporary folder if not given, right where all servers are on this
            machine. What it wrote there is removed in the end.
        token_env: the environment variable with the servers' token. A server of one's own on this machine that made its
            token is found without.
        timeout_s: the longest that a server may take for one request, waiting in its queue included, in seconds.
        start_timeout_s: how long the first `sync` waits for servers that are still starting, in seconds.
        seeded: as that of `VLLMEngine`.

    Raises:
        ValueError: one is named twice, or its address is none.
    """

    runs_beside_training = True

    def __init__(
        self,
        urls: list[str] | None = None,
        weights: Literal["folder", "broadcast"] = "folder",
        folder: str | None = None,
        token_env: str = TOKEN_ENV,
        timeout_s: float = 900.0,
        start_timeout_s: float = 300.0,
        seeded: bool = True,
    ) -> None:
        if timeout_s <= 0 or start_timeout_s < 0:
            raise ValueError("timeouts are positive")
        self.urls = [check_url(url) for url in urls or []]
        if (urls is not None and not urls) or len(set(self.urls)) < len(self.urls):
            raise ValueError(f"servers are named once each, and there must be one: {self.urls}")
        self.delivery: Delivery = BroadcastDelivery(timeout_s)
        if weights == "folder":
            self.delivery = FolderDelivery(folder, timeout_s)
        self.token_env = token_env
        self.timeout_s, self.start_timeout_s = timeout_s, start_timeout_s
        self.seeded = seeded
        self.servers: list[Connection] = []
        self.weights_id = ""
        """Of the weights that servers must hold."""
        self._one_at_a_time = threading.Lock()
        self._policy: Callable[[], Policy | None] = lambda: None
        self._model = ""
        self._version = -1
        self._encoder: Any = None
        self._stop_ids: list[int] = []

    @property
    def decisive(self) -> dict[str, Any]:
        return {**super().decisive, "seeded": self.seeded}

    @property
    def max_length(self) -> int | None:
        """That of the server with the least."""
        return min((server.max_model_len for server in self._live()), default=None)

    def sync(self, policy: Policy) -> None:
        """Send the policy's weights to all servers that do not hold them.

        In a distributed training every rank calls it: weights are gathered from all, the first talks to the servers.

        Raises:
            EngineError: no server is left, or one cannot take these weights.
        """
        with self._one_at_a_time:
            changed = self._policy() is not policy or self._version != policy.version
            if self._policy() is not policy:
                self._get_to_know(policy)
            if changed:
                self._forget()  # until servers hold these: what fails on the way leaves no weights to sample from
            wanted = _on_first_rank(lambda: self._look(changed))
            named = policy.named_weights() if wanted else iter(())
            self.weights_id, found = _on_first_rank(lambda: self._send(policy, named, changed), beside=named)
            for server, state in zip(self._connections(), found, strict=True):
                server.take_over(state)
            self._policy, self._version = weakref.ref(policy), policy.version

    def _get_to_know(self, policy: Policy) -> None:
        # A tokenizer cannot be used by two threads at once: this one is for `generate` alone.
        processor, template = copy.deepcopy(policy.processor), policy.settings.chat_template_kwargs
        self._encoder = PromptEncoder(processor, chat_template_kwargs=template)
        self._stop_ids = stop_ids(policy)
        self._model = str(policy.source)

    def _forget(self) -> None:
        self._version, self._policy = -1, lambda: None

    def _connections(self) -> list[Connection]:
        if not self.servers:
            urls = self.urls or json.loads(os.environ.get(SERVERS_ENV, "[]"))
            if not urls:
                raise EngineError(
                    "there are no rollout servers: give the engine their `urls`, or have `specs run` start some by its "
                    "setting `servers`"
                )
            self.servers = [Connection(url, self.token_env) for url in urls]
        return self.servers

    def _look(self, changed: bool) -> bool:
        """Find the servers that are there; whether the weights must be gathered."""
        patience = 0.0 if self.servers else self.start_timeout_s
        lost_before = [server for server in self._connections() if server.lost is not None]
        missing = failing(self.servers, Connection.look)
        if missing and patience:
            missing = self._wait_for(missing, patience)
        for server in missing:
            if server not in lost_before:
                server.leave_out()
        for server in lost_before:
            if server not in missing:
                log.warning("rollout server %s is back", server.url)
        if not self._live():
            raise self._none_left()
        return changed or (bool(self._lacking()) and not self.delivery.weights_stay)

    def _wait_for(self, missing: list[Connection], seconds: float) -> list[Connection]:
        """Those that are still not there after this time."""
        deadline = time.monotonic() + seconds
        with progress_bar("waiting for rollout servers", len(self.servers)) as advance:
            advance(len(self.servers) - len(missing))
            while missing and time.monotonic() < deadline:
                time.sleep(1.0)
                still = failing(missing, Connection.look)
                advance(len(missing) - len(still))
                missing = still
        return missing

    def _send(self, policy: Policy, named: NamedWeights, changed: bool) -> tuple[str, list[ServerState]]:
        """Bring every live server to the policy's weights; their id, and how the servers are."""
        if changed:
            self.weights_id = uuid.uuid4().hex[:12]
        self.delivery.send(policy, named, self._lacking(), WeightsState(self.weights_id, policy.version))
        if not self._live():
            raise self._none_left()
        return self.weights_id, [server.state for server in self.servers]

    def generate(
        self, prompts: Sequence[EncodedPrompt], sampling: SamplingSettings, seed: str
    ) -> list[list[Completion]]:
        with self._one_at_a_time:
            if self._version < 0:
                raise EngineError("the engine has no weights yet: call sync(policy) first")
            requests = [sample_request(prompt, self._encoder, seed if self.seeded else None) for prompt in prompts]
            try:
                answers = _apart(self._answers(requests, sampling))
            except NoServerLeft as error:
                raise self._none_left() from error
            return with_opened(prompts, answers)

    async def _answers(self, requests: Sequence[SampleRequest], sampling: SamplingSettings) -> list[list[Completion]]:
        def limit(server: Connection) -> int:
            return in_flight_at_most(server.max_sequences, sampling, world_size(), len(self.servers))

        first = rank() % len(self.servers)  # each process's own order: together they begin with all of them
        async with many_at_once() as client:

            async def ask(server: Connection, request: SampleRequest) -> list[Completion]:
                return await self._ask(client, server, request, sampling)

            servers = [*self.servers[first:], *self.servers[:first]]
            return await Dispatch(requests, servers, ask, limit).answers()

    async def _ask(
        self, client: httpx.AsyncClient, server: Connection, request: SampleRequest, sampling: SamplingSettings
    ) -> list[Completion]:
        held = {"weights_id": self.weights_id, "version": self._version, "stop_ids": self._stop_ids}
        message = {"request": request_to_json(request), "sampling": asdict(sampling)} | held
        answer = await server.ask(client, "/generate", message, self.timeout_s)
        try:
            completions = [Completion.from_row(row) for row in answer["completions"]]
        except (KeyError, TypeError) as error:
            raise ServerFailed("its answer cannot be read") from error
        if len(completions) != sampling.completions_per_prompt:
            raise ServerFailed(f"it gave {len(completions)} of {sampling.completions_per_prompt} completions")
        return completions

    def _live(self) -> list[Connection]:
        return [server for server in self.servers if server.lost is None]

    def _lacking(self) -> list[Connection]:
        return [server for server in self._live() if server.weights_id != self.weights_id]

    def _none_left(self) -> EngineError:
        causes = "".join(f"\n  {server.url}: {server.lost}" for server in self.servers)
        return EngineError(
            f"no rollout server is left:{causes}\n"
            f"Start one with: {pasted('specs', 'serve', '--model', self._model)} --port PORT (--help tells more)"
        )

    def close(self) -> None:
        """Remove what was written and end the connections. The servers go on, and are not waited for."""
        for server in self.servers:
            server.client.close()
        self.servers = []
        self.delivery.close()
        self._forget()


def _apart(work: Coroutine[Any, Any, T]) -> T:
    """The outcome of what is done in an event loop, which has a thread of its own: this one may have a loop already, as
    in a notebook. What interrupts this one cancels it."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    with closing(loop), ThreadPoolExecutor(1, thread_name_prefix="rollout-servers") as thread:
        try:
            return thread.submit(loop.run_until_complete, task).result()
        except BaseException:
            loop.call_soon_threadsafe(task.cancel)
            raise


def _on_first_rank(action: Callable[[], T], beside: Iterable[object] = ()) -> T:
    """What an action on the first rank gives, or the error that it raises, on every rank.

    All ranks must go through what is `beside` it together; on the first, the action may be what does.
    """
    outcome: T | None = None
    with failing_together():
        if rank() == 0:
            outcome = action()
        deque(beside, maxlen=0)
    return cast(T, gather(outcome)[0])
