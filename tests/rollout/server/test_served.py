"""What a rollout server does with a request: one thing at a time, and only folders that it may read."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from helpers.server_checks import SAMPLING, MakeEngine, StartServer, assert_answered, assert_holds
from helpers.vllm_servers import SECRET

from specs_lightning.groups import EncodedPrompt
from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import EngineError
from specs_lightning.rollout.server.served import FolderRule, Refused, ServedSampler


def test_a_server_does_one_thing_at_a_time_and_stays_responsive(
    start: StartServer, make: MakeEngine, policy: Policy, prompts: list[EncodedPrompt]
) -> None:
    server, go_on = start(), threading.Event()
    engine = make(server, prompts_per_request=6)
    engine.sync(policy)
    server.sampler.on_generate = go_on.wait  # type: ignore[assignment]
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(engine.generate, prompts, SAMPLING, "seed")
        while server.sampler.calls == 0:
            time.sleep(0.01)
        message = {"requests": [], "sampling": {}, "stop_ids": [], "weights_id": engine.weights_id, "version": 0}
        shown = {"Authorization": f"Bearer {SECRET}"}
        others = [threads.submit(httpx.post, f"{server.url}/generate", json=message, headers=shown) for _ in range(2)]
        time.sleep(0.1)
        health = httpx.get(f"{server.url}/health", timeout=5).json()
        assert health["ready"] and health["busy"] and health["version"] == 0 and health["max_model_len"] == 1024
        go_on.set()
        assert_answered(prompts, first.result())
        assert [other.result().status_code for other in others] == [200, 200]
    assert server.sampler.most_at_once == 1
    assert not httpx.get(f"{server.url}/health").json()["busy"]


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
        served.join({"host": asked, **place}, caller)
    assert refused.value.status == 403 and met == []
    served.join({"host": "10.0.0.7", **place}, "::ffff:10.0.0.7")
    assert met == ["10.0.0.7"]
