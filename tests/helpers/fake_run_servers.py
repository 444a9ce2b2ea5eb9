"""A run's servers around fake samplers, in processes that are forked from this one and so share what is replaced here.

    python fake_run_servers.py MODEL

starts two, says their processes, and waits to be killed.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.vllm_servers import FakeSampler

from specs_lightning.rollout.server import http
from specs_lightning.runs import processes
from specs_lightning.runs.servers import RunServers, ServerSettings, rollout_servers

BY_SERVERS = {"data.engine": "servers"}
"""Settings of a stage that samples by them."""


@contextmanager
def fake_servers(model: Path, count: int = 2) -> Iterator[RunServers]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "CONTEXT", multiprocessing.get_context("fork"))
        patch.setattr(http, "check_vllm", lambda: None)
        patch.setattr(http, "installed_vllm", lambda: "0")
        patch.setattr(http, "VLLMSampler", lambda *unused: FakeSampler())
        with rollout_servers(ServerSettings(count), str(model)) as servers:
            assert servers is not None
            yield servers


def process_ids(servers: RunServers) -> list[int]:
    return [started._process.pid for started in servers._started.values()]


if __name__ == "__main__":
    with fake_servers(Path(sys.argv[1])) as servers:
        servers.ready_for(BY_SERVERS)
        print(*process_ids(servers), flush=True)
        time.sleep(300)
