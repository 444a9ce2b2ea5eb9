"""A run's rollout servers: started before the first stage that samples by them, and stopped when the run ends.

Each is `specs serve` in a process of its own, as a stage is, and ends with the run however that ends. Stages find them
by the environment: their addresses, and the token that they want.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing import connection
from typing import Any

import torch

from specs_lightning.errors import SpecsError
from specs_lightning.rollout import VLLMSettings
from specs_lightning.rollout.connection import Connection, failing
from specs_lightning.rollout.servers import SERVERS_ENV
from specs_lightning.rollout.tokens import TOKEN_ENV, read_token
from specs_lightning.runs.processes import Command, CommandFailed, StartedCommand
from specs_lightning.settings.engines import ENGINES
from specs_lightning.settings.nested import dotted
from specs_lightning.system.progress import progress_bar
from specs_lightning.system.signals import Stopped
from specs_lightning.system.terminal import say

START_S = 900.0
END_S = 20.0
"""How long a server may take to end before it is killed."""


@dataclass(frozen=True)
class ServerSettings:
    """The rollout servers that a run starts for its stages, and stops."""

    count: int = 1
    """How many."""
    devices: list[int] | None = None
    """The GPUs that they get, by their numbers: as many as `count` times `vllm.tensor_parallel_size`, and none that a
    stage trains on. Not given on a machine without GPUs."""
    vllm: VLLMSettings = field(default_factory=VLLMSettings)
    """How vLLM is set up in each."""
    model: str | None = None
    """The model to start from, as that of `specs serve`; the run's first if not given."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"servers.count must be at least 1, not {self.count}")
        each = self.vllm.tensor_parallel_size
        if self.devices is not None and len(set(self.devices)) != self.count * each:
            raise ValueError(
                f"servers.devices: {self.count} servers of {each} GPUs each need {self.count * each} different ones, "
                f"not {self.devices}"
            )


class RunServers:
    """Servers that are started when they are first asked for; `model` is the one that they start from."""

    def __init__(self, settings: ServerSettings, model: str) -> None:
        self.settings, self.model = settings, model
        self.ports = [_free_port() for _ in range(settings.count)]
        self.urls = [f"http://127.0.0.1:{port}" for port in self.ports]
        self._environment = {SERVERS_ENV: json.dumps(self.urls)}
        self._environment[TOKEN_ENV] = read_token(TOKEN_ENV) or secrets.token_urlsafe(32)
        self._before: dict[str, str | None] = {}
        self._started: dict[int, StartedCommand] = {}
        """By their number."""

    def ready_for(self, *settings: Mapping[str, Any]) -> None:
        """Have all servers answer if a command with these settings, of which later ones win, samples by them.

        One that has ended since is started again.

        Raises:
            CommandFailed: one could not be started.
            SpecsError: no GPU is named where there are some, or a server does not come to answer.
        """
        if not samples_by_servers(*settings):
            return
        missing = [number for number in range(self.settings.count) if not self._lives(number)]
        if missing:
            self._start(missing)

    def _lives(self, number: int) -> bool:
        server = self._started.get(number)
        if server is None:
            return False
        if not connection.wait([server.sentinel], timeout=0):
            return True
        ending = _ending_of(server)
        say(f"rollout server {self.urls[number]} has ended ({ending}), and is started again")
        return False

    def _start(self, numbers: list[int]) -> None:
        if self.settings.devices is None and torch.cuda.device_count():
            raise SpecsError("servers.devices: name the GPUs that they get, on which no stage trains")
        for name, value in self._environment.items():
            self._before.setdefault(name, os.environ.get(name))
            os.environ[name] = value
        for number in numbers:
            self._started[number] = StartedCommand(self._command(number))
        self._wait_until_ready(numbers)
        say(f"rollout servers: {', '.join(self.urls)}")

    def _command(self, number: int) -> Command:
        port, vllm = self.ports[number], json.dumps(asdict(self.settings.vllm))
        args = ["serve", f"--model={self.model}", f"--port={port}", f"--vllm={vllm}"]
        environment = {}
        if self.settings.devices is not None:
            each = self.settings.vllm.tensor_parallel_size
            own = self.settings.devices[number * each : (number + 1) * each]
            environment = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, own))}
        return Command(args, f"rollout server {number + 1}", environment=environment)

    def _wait_until_ready(self, numbers: list[int]) -> None:
        deadline = time.monotonic() + START_S
        missing = [Connection(self.urls[number]) for number in numbers]
        started = [self._started[number] for number in numbers]
        with progress_bar("starting rollout servers", len(numbers)) as advance:
            while missing:
                ended = connection.wait([server.sentinel for server in started], timeout=0.2)
                for server in started:
                    if server.sentinel in ended:
                        server.wait()  # raises what it said
                if ended:
                    raise SpecsError("a rollout server was stopped before it was ready: the same command goes on")
                if time.monotonic() > deadline:
                    raise SpecsError(f"{missing[0].url}: the rollout server is not ready after {START_S:.0f} s")
                for one in missing:
                    one.lost = None
                still = failing(missing, Connection.look)
                advance(len(missing) - len(still))
                missing = still

    def stop(self) -> None:
        """End all of them."""
        for server in self._started.values():
            server.signal(signal.SIGTERM)
        deadline = time.monotonic() + END_S
        for server in self._started.values():
            if not connection.wait([server.sentinel], timeout=max(0.0, deadline - time.monotonic())):
                server.signal(signal.SIGKILL)
            _ending_of(server)
        self._started = {}
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def rollout_servers(settings: ServerSettings | None, model: str | None) -> Iterator[RunServers | None]:
    """The servers of a run, if it has any; `model` is its first.

    Raises:
        SpecsError: there is no model to start from.
    """
    if settings is None:
        yield None
        return
    if (chosen := settings.model or model) is None:
        raise SpecsError("servers.model: name the model to start from, since no stage of the run is one")
    servers = RunServers(settings, chosen)
    try:
        yield servers
    finally:
        servers.stop()


def samples_by_servers(*settings: Mapping[str, Any]) -> bool:
    """Whether an engine in these settings, of which later ones win, is that of servers, and does not say which."""
    found: dict[str, Any] = {}
    for name, value in (item for layer in settings for item in _values(layer)):
        if name.endswith("engine") and isinstance(value, str):
            name += ".class_path"
        if name.endswith(".class_path"):
            engine = name.removesuffix("class_path")
            found = {key: kept for key, kept in found.items() if not key.startswith(engine)}
        found[name] = value
    return any(
        name.endswith("engine.class_path") and _is_of_servers(value) and not found.get(_beside(name, "urls"))
        for name, value in found.items()
    )


def _is_of_servers(engine: Any) -> bool:
    class_name = ENGINES["servers"].rpartition(".")[2]
    return isinstance(engine, str) and (engine == "servers" or engine.rpartition(".")[2] == class_name)


def _beside(name: str, other: str) -> str:
    return name.removesuffix("class_path") + other


def _values(settings: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Under dotted names as on the command line, where `init_args` may be left out; a list of values is one."""
    if isinstance(settings, list) and any(isinstance(item, Mapping) for item in settings):
        settings = dict(enumerate(settings))
    if not isinstance(settings, Mapping):
        yield name.replace(".init_args", ""), settings
        return
    for key, value in sorted(settings.items(), key=lambda item: item[0] != "class_path"):
        yield from _values(value, dotted(name, key))


def _ending_of(server: StartedCommand) -> str:
    """What one that ends, or has ended, says."""
    with suppress(Stopped):
        try:
            server.wait()
        except CommandFailed as error:
            return str(error)
    return "it was stopped"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
