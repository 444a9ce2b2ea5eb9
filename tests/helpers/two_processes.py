"""A pair of processes on the CPU that find each other through gloo, as `torchrun` would start them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def on_two_processes(target: Callable[..., Any], folder: Path, *args: Any, seconds: float = 400) -> list[Any]:
    """What `target(*args)` gives on each of two processes, which must end in time. Picklable, or tensors.

    What they print goes to files in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    pair = [spawn.Process(target=_one, args=(target, args, rank, port, folder)) for rank in range(2)]
    deadline = time.monotonic() + seconds
    for process in pair:
        process.start()
    try:
        while any(process.is_alive() for process in pair) and time.monotonic() < deadline:
            if any(process.exitcode for process in pair):
                time.sleep(3)  # the other may have something to say
                break
            time.sleep(0.05)
    finally:
        codes = [process.exitcode for process in pair]
        for process in pair:
            process.kill()
    if codes != [0, 0]:
        said = "\n".join(f"--- process {rank}\n{_end_of(folder / f'{rank}.log')}" for rank in range(2))
        raise AssertionError(f"exit codes {codes} (None: still running after {seconds} s)\n{said}")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _end_of(file: Path) -> str:
    return file.read_text()[-4000:] if file.exists() else "did not start"


def _one(target: Callable[..., Any], args: tuple[Any, ...], rank: int, port: int, folder: Path) -> None:
    log = (folder / f"{rank}.log").open("w", buffering=1)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    found_by = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "tests"}
    os.environ.update({name: str(value) for name, value in (place | found_by).items()})
    try:
        torch.save(target(*args), folder / f"{rank}.pt")
        if torch.distributed.is_initialized():  # gloo's threads would be ended with the interpreter, now and then badly
            torch.distributed.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # without waiting for the other process
