"""Rollout servers for tests: real ones in processes of their own, and fakes in threads of this one."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import uvicorn
from safetensors.torch import load_file
from torch import Tensor

from specs_lightning.groups import Completion
from specs_lightning.rollout import SamplingSettings
from specs_lightning.rollout.sampler import EngineError, SampleRequest
from specs_lightning.rollout.server.batch import ContinuousBatch
from specs_lightning.rollout.server.http import application
from specs_lightning.rollout.server.served import FolderRule, ServedSampler
from specs_lightning.rollout.weights import WeightGroup

SECRET = "s3cret-of-the-test"
READY = re.compile(r"^serving .* on (http://\S+) with vLLM (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class RealServer:
    """A running `specs serve`."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """As a crash would: it cannot say goodbye."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def specs_serve(
    model: Path | str, folder: Path, *args: str, start_s: float = 180
) -> AbstractContextManager[RealServer]:
    """`specs serve` on a free port, ready.

    Args:
        model: what it serves.
        folder: for its log.
        args: further arguments of the command.
        start_s: how long it may take to be ready.
    """
    command = [sys.executable, "-c", "from specs_lightning.cli import main; main()", "serve"]
    small = ["--port=0", "--vllm.max_model_len=1024", "--vllm.kv_cache_gib=0.25"]
    return _running([*command, f"--model={model}", *small, *args], folder, READY, start_s)


def openai_server(model: Path | str, folder: Path, *args: str) -> AbstractContextManager[RealServer]:
    """vLLM's own OpenAI-compatible server on a free port, ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "vllm.entrypoints.openai.api_server"]
    small = ["--host=127.0.0.1", f"--port={port}", "--max-model-len=4096", "--dtype=float32", "--enforce-eager"]
    # vLLM's own lines are not there if a test of its engine ran before: it has set the level of its logs.
    ready = re.compile("Application startup complete")
    return _running([*command, f"--model={model}", *small, *args], folder, ready, 300, f"http://127.0.0.1:{port}")


@contextmanager
def _running(
    command: list[str], folder: Path, ready: re.Pattern[str], start_s: float, url: str | None = None
) -> Iterator[RealServer]:
    """A server in a process of its own, from when its log says that it is ready, and where if `url` does not."""
    log = folder / f"server-{time.time_ns()}.log"
    cpu = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | cpu)
    try:
        deadline = time.monotonic() + start_s
        while (found := ready.search(log.read_text())) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.2)
        yield RealServer(url or found[1], process, log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class FakeSampler:
    """In place of vLLM: it notes what it is asked, and its completions say which prompt and server they are of."""

    max_model_len = 1024
    on_cpu = True

    def __init__(self) -> None:
        self.version = -1
        self.weights: dict[str, Tensor] = {}
        self.loads: list[str] = []
        """The folders, or the number of weights received."""
        self.requests: list[SampleRequest] = []
        """Those that were answered."""
        self.calls = 0
        self.in_flight: dict[str, tuple[SampleRequest, int]] = {}
        self.on_generate: Callable[[], None] = lambda: None
        """Before an answer is drawn."""
        self.on_weight: Callable[[], None] = lambda: None

    def add(self, request: SampleRequest, sampling: SamplingSettings, stop_ids: Sequence[int]) -> str:
        self.calls += 1
        self.in_flight[str(self.calls)] = request, sampling.completions_per_prompt
        return str(self.calls)

    def step(self) -> dict[str, list[Completion] | EngineError]:
        """The oldest request is done with each."""
        self.on_generate()
        id = next(iter(self.in_flight))
        request, count = self.in_flight.pop(id)
        self.requests.append(request)
        return {id: [self._completion(request, n) for n in range(count)]}

    def _completion(self, request: SampleRequest, n: int) -> Completion:
        ids = ((request.seed or 0) % 1000, n)
        return Completion(ids, (-0.1, -1e-9), f"{request.prompt_id}/{n}", True, self.version)

    def abort(self, ids: Sequence[str]) -> None:
        for id in ids:
            del self.in_flight[id]

    def load_folder(self, folder: str, version: int) -> None:
        self.version = -1
        files = sorted(Path(folder).iterdir())
        self.weights = {name: weight for file in files for name, weight in load_file(file).items()}
        self.loads.append(folder)
        self.version = version

    def join_weight_group(self, host: str, port: int, backend: Any, timeout_s: float, size: int) -> None:
        self.group = WeightGroup.join(host, port, 1, size, backend, timeout_s)

    def receive_weights(self, layout: Any, version: int) -> None:
        self.version = -1
        self.weights = {}
        for name, weight in self.group.receive(layout, torch.device("cpu")):
            self.weights[name] = weight
            self.on_weight()
        self.loads.append(str(len(self.weights)))
        self.version = version

    def close(self) -> None:
        """As vLLM's."""


class FakeServer:
    """The real application around a fake sampler, on a port of this machine.

    Args:
        model: whose architecture it has.
        port: 0 for any.
        token: what it wants to be shown.
        may_read: from which folders; from any if not given.
        max_sequences: how many completions it says that it draws at once.
    """

    def __init__(
        self,
        model: Path,
        port: int = 0,
        token: str = SECRET,
        may_read: FolderRule | None = None,
        max_sequences: int = 2,
    ) -> None:
        self.sampler = FakeSampler()
        self.batch, self.drawing = ContinuousBatch(self.sampler), ExitStack()
        self.drawing.enter_context(self.batch.running(self.drawing.enter_context(ThreadPoolExecutor(1))))
        self.served = ServedSampler(self.sampler, self.batch, str(model), max_sequences=max_sequences)  # type: ignore[arg-type]
        self.socket = socket.create_server(("127.0.0.1", port))
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        app = application(self.served, token, may_read or FolderRule(None, local=True))
        self.uvicorn = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_keep_alive=60))
        self.running = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.running.start()

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        await self.uvicorn.serve(sockets=[self.socket])

    def cut(self) -> None:
        """Break all connections, answered or not, and take no more."""

        def abort() -> None:
            self.uvicorn.should_exit = self.uvicorn.force_exit = True
            for server in self.uvicorn.servers:
                server.close()
            for connection in list(self.uvicorn.server_state.connections):
                connection.transport.abort()  # type: ignore[union-attr]

        self.loop.call_soon_threadsafe(abort)

    def stop(self) -> None:
        if self.running.is_alive():
            self.cut()
            self.running.join()
        self.drawing.close()
