"""The policy's weights on their way to rollout servers: as files, or from memory to memory."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from specs_lightning.policy.policy import Policy
from specs_lightning.rollout.connection import Connection, ServerFailed, failing
from specs_lightning.rollout.weights import Backend, WeightGroup, arrived, open_store, own_address, write_weights
from specs_lightning.rollout.wire import architecture

log = logging.getLogger(__name__)

NamedWeights = Iterator[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class WeightsState:
    """Which weights: versions alone would not tell two trainings apart."""

    weights_id: str
    version: int


class Delivery(Protocol):
    """A way of weights to servers."""

    weights_stay: ClassVar[bool]
    """Whether servers that lack weights still find what was sent last: it need not be gathered again for them."""

    def send(self, policy: Policy, named: NamedWeights, servers: Sequence[Connection], state: WeightsState) -> None:
        """Bring servers to the policy's weights; those that fail are left out."""

    def close(self) -> None:
        """Leave nothing behind."""


class FolderDelivery:
    """Safetensors files on storage that all machines see. They stay until the next: for servers that come back.

    Each training writes into a folder of its own within `folder`, or into a temporary one.
    """

    weights_stay: ClassVar[bool] = True

    def __init__(self, folder: str | None, timeout_s: float) -> None:
        self.folder, self.timeout_s = folder, timeout_s
        self._room: tempfile.TemporaryDirectory[str] | None = None
        self._written: tuple[str, Path] | None = None

    def send(self, policy: Policy, named: NamedWeights, servers: Sequence[Connection], state: WeightsState) -> None:
        outdated = None
        if self._written is None or self._written[0] != state.weights_id:
            path = self._make_room() / f"version-{state.version}-{state.weights_id}"
            write_weights(named, path)
            outdated, self._written = self._written, (state.weights_id, path)
        message = {"folder": str(self._written[1]), "architecture": architecture(policy.model.config), **asdict(state)}
        _tell(servers, lambda server: server.post("/weights", message, self.timeout_s), state)
        if outdated is not None:
            shutil.rmtree(outdated[1])

    def _make_room(self) -> Path:
        if self._room is None:
            if self.folder is not None:
                Path(self.folder).mkdir(parents=True, exist_ok=True)
            self._room = tempfile.TemporaryDirectory(prefix="specs-weights-", dir=self.folder)
            if self.folder is not None:  # whoever may read that folder may read this one: servers of other users
                os.chmod(self._room.name, os.stat(self.folder).st_mode & 0o777)
        return Path(self._room.name).resolve()

    def close(self) -> None:
        if self._room is not None:
            self._room.cleanup()
        self._room = self._written = None


class BroadcastDelivery:
    """One weight after the other through a process group for each server: `timeout_s` to join, as long to receive."""

    weights_stay: ClassVar[bool] = False

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.groups: dict[str, WeightGroup] = {}

    def send(self, policy: Policy, named: NamedWeights, servers: Sequence[Connection], state: WeightsState) -> None:
        # One that was started again holds no weights, and knows of no group.
        strangers = [server for server in servers if server.url not in self.groups or not server.weights_id]
        for server in failing(strangers, lambda server: self._meet(server, policy)):
            server.leave_out()
        receivers = [server for server in servers if server.lost is None]
        message = {"layout": policy.weight_layout(), **asdict(state)}

        def receive(server: Connection) -> dict[str, Any]:
            try:
                return server.post("/weights/broadcast", message, self.timeout_s)
            except Exception:
                self._drop(server)  # or sending to it might never end
                raise

        with ThreadPoolExecutor(1) as thread:
            told = thread.submit(_tell, receivers, receive, state)
            try:
                for server in receivers:
                    while (group := self.groups.get(server.url)) is not None and not group.all_receive():
                        time.sleep(0.005)
                for _, weight in named:
                    for server in receivers:
                        self._send_weight(server, weight)
            except BaseException:
                for server in receivers:
                    self._drop(server)  # or they would wait for the rest
                raise
            told.result()

    def _send_weight(self, server: Connection, weight: Tensor) -> None:
        if (group := self.groups.get(server.url)) is not None:
            try:
                group.send(weight)
            except RuntimeError as error:
                log.debug("%s: %s", server.url, error)  # its own answer says more
                self._drop(server)

    def _meet(self, server: Connection, policy: Policy) -> None:
        """Make a group with a server's workers."""
        self._drop(server)
        backend: Backend = "nccl" if server.backend == "nccl" and policy.device.type == "cuda" else "gloo"
        address = own_address(server.host, server.port)
        store = open_store(address)
        place = {"host": address, "port": store.port, "backend": backend, "timeout_s": self.timeout_s}
        message = place | {"architecture": architecture(policy.model.config)}
        with ThreadPoolExecutor(1) as thread:
            joined = thread.submit(server.post, "/weights/group", message, self.timeout_s)
            while arrived(store) < server.workers and not joined.done():
                time.sleep(0.01)
            if joined.done():
                joined.result()  # says why
            try:
                group = WeightGroup(store, 0, 1 + server.workers, backend, address, self.timeout_s)
            except RuntimeError as error:
                raise ServerFailed(f"no group could be made with it: {error}") from error
            joined.result()
        self.groups[server.url] = group

    def _drop(self, server: Connection) -> None:
        if (group := self.groups.pop(server.url, None)) is not None:
            group.abort()

    def close(self) -> None:
        for group in self.groups.values():
            group.abort()
        self.groups = {}


def _tell(servers: Sequence[Connection], send: Callable[[Connection], dict[str, Any]], state: WeightsState) -> None:
    """Have servers take weights, and check that they did."""

    def tell(server: Connection) -> None:
        answer = send(server)
        if (answer.get("weights_id"), answer.get("version")) != (state.weights_id, state.version):
            raise ServerFailed(f"it holds version {answer.get('version')} after version {state.version} was sent")
        server.weights_id = state.weights_id

    for server in failing(servers, tell):
        server.leave_out()
