"""The two ways of weights to a server: files, and a process group that a server may leave."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from helpers.server_checks import MakeEngine, StartServer, assert_holds, warnings_in

from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import weights


def test_one_set_of_files_is_kept_and_removed_in_the_end(
    start: StartServer, make: MakeEngine, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "FILE_BYTES", 100_000)
    server = start()
    engine = make(server, folder=str(tmp_path / "weights"))
    for version in range(2):
        policy.version = version
        engine.sync(policy)
        (written,) = tmp_path.glob("weights/*/*")
        assert written.name.startswith(f"version-{version}-")
        assert len(list(written.iterdir())) > 3
        assert_holds(server, policy)
    engine.close()
    assert list((tmp_path / "weights").iterdir()) == []
    engine.sync(policy)
    assert_holds(server, policy)


def test_one_that_dies_while_it_receives_does_not_hold_up_the_others(
    start: StartServer, make: MakeEngine, policy: Policy, caplog: pytest.LogCaptureFixture
) -> None:
    dying, other = start(), start()
    engine = make(dying, other, weights="broadcast", timeout_s=20)
    engine.sync(policy)

    def die() -> None:
        if len(dying.sampler.weights) == 5:
            dying.cut()
            del dying.sampler.group
            raise RuntimeError("dead")

    dying.sampler.on_weight = die
    policy.version += 1
    began = time.monotonic()
    engine.sync(policy)
    assert time.monotonic() - began < 10
    assert_holds(other, policy)
    assert [dying.url in message for message in warnings_in(caplog) if "left out" in message] == [True]
    dying.stop()
    back = start(dying.served.model, port=dying.port)
    policy.version += 1
    engine.sync(policy)
    assert_holds(back, policy)
    assert_holds(other, policy)
