"""What a rollout server does with a request, while it is at work on others, and which folders it may read."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from helpers.server_checks import SAMPLING, MakeEngine, StartServer, assert_answered, assert_holds
from helpers.vllm_servers import SECRET

from specs_lightning.groups import EncodedPrompt
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.rollout import EngineError
from specs_lightning.rollout.server.served import FolderRule, Refused, ServedSampler
from specs_lightning.rollout.vllm import sample_request
from specs_lightning.rollout.wire import request_to_json


def test_a_server_that_is_at_work_stays_responsive_and_takes_what_else_is_asked(
    start: StartServer, make: MakeEngine, policy: Policy, prompts: list[EncodedPrompt]
) -> None:
    """More than it has threads for answers."""
    server, go_on = start(max_sequences=512), threading.Event()
    engine = make(server)
    engine.sync(policy)
    server.sampler.on_generate = go_on.wait  # type: ignore[assignment]
    many = [replace(prompts[0], id=f"prompt {i}") for i in range(100)]
    with ThreadPoolExecutor(1) as thread:
        drawn = thread.submit(engine.generate, many, SAMPLING, "seed")
        while server.sampler.calls + len(server.batch._waiting) < 100:
            time.sleep(0.01)
        health = httpx.get(f"{server.url}/health", timeout=5).json()
        assert health["ready"] and health["busy"] and health["version"] == 0 and health["max_model_len"] == 1024
        go_on.set()
        assert_answered(many, drawn.result())
    assert not httpx.get(f"{server.url}/health").json()["busy"]


def test_what_nobody_waits_for_is_not_drawn_and_counted(
    start: StartServer, make: MakeEngine, policy: Policy, prompts: list[EncodedPrompt]
) -> None:
    """A training that was killed keeps no server from the next."""
    server, go_on = start(), threading.Event()
    engine = make(server)
    engine.sync(policy)
    server.sampler.on_generate = go_on.wait  # type: ignore[assignment]
    request = request_to_json(sample_request(prompts[0], PromptEncoder(policy.processor), "seed"))
    held = {"weights_id": engine.weights_id, "version": 0, "stop_ids": [2]}
    message = {"request": request, "sampling": {}} | held
    shown = {"Authorization": f"Bearer {SECRET}"}

    def hang_up(unused: int) -> None:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/generate", json=message, headers=shown, timeout=0.5)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(hang_up, range(3)))
    while not all(job.outcome.cancelled() for job in [*server.batch._waiting, *server.batch._in_flight.values()]):
        time.sleep(0.01)
    server.sampler.on_generate = lambda: None
    policy.version += 1
    with ThreadPoolExecutor(1) as thread:
        synced = thread.submit(engine.sync, policy)
        go_on.set()
        synced.result()
    assert len(server.sampler.requests) == 1  # that of the step which hung
    assert httpx.get(f"{server.url}/health").json()["aborted"] == 2
    assert_answered(prompts, engine.generate(prompts, SAMPLING, "seed"), version=1)


def test_folders_out_of_bounds_are_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "weights" / "version-1", tmp_path / "weights-of-others"
    inside.mkdir(parents=True), outside.mkdir()
    (tmp_path / "weights" / "link").symlink_to(outside)
    rule = FolderRule(tmp_path / "weights", local=True)
    assert rule.check(str(inside)) == inside.resolve()
    for folder in (outside, tmp_path, inside / ".." / ".." / "weights-of-others", tmp_path / "weights" / "link"):
        with pytest.raises(Refused, match="outside the server's weights_dir") as refused:
            rule.check(str(folder))
        assert refused.value.status == 403
    with pytest.raises(Refused, match="not there"):
        rule.check(str(tmp_path / "weights" / "version-2"))
    with pytest.raises(Refused, match="--weights_dir"):
        FolderRule(None, local=False).check(str(inside))
    assert FolderRule(None, local=True).check(str(outside)) == outside.resolve()


def test_a_refused_folder_is_the_trainers_error(
    start: StartServer, make: MakeEngine, policy: Policy, tmp_path: Path
) -> None:
    server = start(may_read=FolderRule(tmp_path / "allowed", True))
    with pytest.raises(EngineError, match="outside the server's weights_dir"):
        make(server, folder=str(tmp_path / "other")).sync(policy)
    make(server, folder=str(tmp_path / "allowed")).sync(policy)
    assert_holds(server, policy)


@pytest.mark.parametrize(
    ("asked", "caller"), [("10.0.0.8", "10.0.0.7"), ("node8", "10.0.0.7"), ("127.0.0.1", "10.0.0.7"), ("10.0.0.7", "")]
)
def test_weights_are_met_nowhere_but_where_the_request_came_from(
    served: ServedSampler, asked: str, caller: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[str] = []
    monkeypatch.setattr(served.sampler, "join_weight_group", lambda host, *unused, size: met.append(host))
    place = {"port": 1, "backend": "gloo", "timeout_s": 1, "architecture": served.architecture}
    with pytest.raises(Refused, match=rf"the machine that asks \({caller}\), not from {asked}: connect") as refused:
        asyncio.run(served.join({"host": asked, **place}, caller))
    assert refused.value.status == 403 and met == []
    asyncio.run(served.join({"host": "10.0.0.7", **place}, "::ffff:10.0.0.7"))
    assert met == ["10.0.0.7"]
