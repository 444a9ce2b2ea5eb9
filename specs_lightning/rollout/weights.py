"""The two ways of weights to a server: a folder of safetensors files, or a process group of their own."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

Backend = Literal["nccl", "gloo"]
Layout = Sequence[tuple[str, str, Sequence[int]]]
"""Name, type (`bfloat16`) and shape of each weight, in the order in which they are sent."""

FILE_BYTES = 2 * 2**30
"""How much one file holds, and so how much of the CPU's memory writing takes."""
MEETING_S = 60.0
"""How long the members of a new group that have all arrived wait for each other, in seconds."""
_ARRIVED, _RECEIVING = "arrived", "receiving"


def write_weights(named_weights: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    """Write weights as safetensors files; the folder, which must be new, appears whole or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir()
    held: dict[str, Tensor] = {}
    files = held_bytes = 0
    for name, weight in named_weights:
        if held and held_bytes + weight.nbytes > FILE_BYTES:
            save_file(held, partial / f"weights-{files:05}.safetensors")
            held, files, held_bytes = {}, files + 1, 0
        held[name] = weight.to("cpu").contiguous()
        held_bytes += weight.nbytes
    save_file(held, partial / f"weights-{files:05}.safetensors")
    partial.rename(folder)


class WeightGroup:
    """The trainer (rank 0) and one server's workers, apart from either's default process group.

    Each server has a group of its own, so that one that dies does not tear down the others'. A worker's rank is its own
    plus 1, the backend `nccl` where both sides have GPUs, the address this machine's, as the others reach it, and
    `timeout_s` that of one weight's transfer.

    Raises:
        RuntimeError: not all members came within a minute.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, backend: Backend, address: str, timeout_s: float):
        self.store = store
        self.backend, self.size = backend, size
        self.transfers = 0
        if backend == "nccl":
            options: Any = dist.ProcessGroupNCCL.Options()
            options._timeout = timedelta(seconds=timeout_s)
            self.group: Any = dist.ProcessGroupNCCL(store, rank, size, options)
        else:
            options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
            options._devices = [dist.ProcessGroupGloo.create_device(hostname=address)]
            options._timeout = timedelta(seconds=MEETING_S)
            options._threads = 1
            self.group = dist.ProcessGroupGloo(store, rank, size, options)
            self.group._set_default_timeout(timedelta(seconds=timeout_s))

    @classmethod
    def join(cls, host: str, port: int, rank: int, size: int, backend: Backend, timeout_s: float) -> WeightGroup:
        """Join the group of the trainer whose store is at this address."""
        store = dist.TCPStore(host, port, timeout=timedelta(seconds=MEETING_S))
        store.add(_ARRIVED, 1)
        return cls(store, rank, size, backend, own_address(host, port), timeout_s)

    def all_receive(self) -> bool:
        """Whether all workers have begun to receive what the trainer sends next. Sending before might never end."""
        if self.store.add(_RECEIVING, 0) < (self.transfers + 1) * (self.size - 1):
            return False
        self.transfers += 1
        return True

    def send(self, weight: Tensor) -> None:
        """From the trainer to all workers."""
        self._broadcast((weight.cuda() if self.backend == "nccl" else weight.cpu()).contiguous())

    def receive(self, layout: Layout, device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """The trainer's weights, one at a time."""
        self.store.add(_RECEIVING, 1)
        for name, dtype, shape in layout:
            place = device if self.backend == "nccl" else torch.device("cpu")
            weight = torch.empty(tuple(shape), dtype=getattr(torch, dtype), device=place)
            self._broadcast(weight)
            yield name, weight

    def abort(self) -> None:
        """End what is under way (NCCL would wait for a dead server; gloo notices by itself)."""
        self.group.abort()

    def _broadcast(self, weight: Tensor) -> None:
        options = dist.BroadcastOptions()
        options.rootRank = 0
        self.group.broadcast([weight], options).wait()


def arrived(store: dist.TCPStore) -> int:
    """How many workers have come to the store."""
    return store.add(_ARRIVED, 0)


def open_store(address: str) -> dist.TCPStore:
    """A store that is reachable by this address alone, on a free port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, 0), family=family)
    port = listener.getsockname()[1]
    return dist.TCPStore(
        address,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=MEETING_S),
        master_listen_fd=listener.detach(),
    )


def own_address(host: str, port: int) -> str:
    """This machine's address, as another one on the network reaches it; nothing is sent."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        found: str = probe.getsockname()[0]
        return found
