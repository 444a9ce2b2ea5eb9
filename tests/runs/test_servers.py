"""A run's own rollout servers: when they are started, who finds them, and that none outlives the run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing import connection
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from helpers import fake_run_servers
from helpers.command_line import ROOT
from helpers.fake_run_servers import BY_SERVERS, fake_servers, process_ids
from helpers.server_checks import SAMPLING, assert_answered
from helpers.tiny_policies import mixed_prompts, sharp_policy

from specs_lightning.errors import SpecsError
from specs_lightning.rollout import EngineError, VLLMServers, VLLMSettings
from specs_lightning.rollout.servers import SERVERS_ENV
from specs_lightning.rollout.tokens import TOKEN_ENV
from specs_lightning.runs.processes import CommandFailed
from specs_lightning.runs.servers import RunServers, ServerSettings, rollout_servers, samples_by_servers
from specs_lightning.system.signals import Stopped

SERVERS = "specs_lightning.rollout.VLLMServers"


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_ENV, raising=False)


def assert_gone(ids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while alive := [id for id in ids if psutil.pid_exists(id) and psutil.Process(id).status() != "zombie"]:
        assert time.monotonic() < deadline, f"{alive} live on"
        time.sleep(0.1)


class TestLife:
    def test_they_are_started_for_the_first_stage_that_samples_by_them_and_live_over_stages(
        self, tiny_model_path: Path
    ) -> None:
        """A stage's engine finds them without being told where they are."""
        policy = sharp_policy(tiny_model_path)
        prompts = mixed_prompts(policy)
        with fake_servers(tiny_model_path) as servers:
            servers.ready_for({"data.engine": "hf"})
            assert servers._started == {} and SERVERS_ENV not in os.environ
            servers.ready_for(BY_SERVERS)
            ids = process_ids(servers)
            engine = VLLMServers(start_timeout_s=0)
            engine.sync(policy)
            assert_answered(prompts, engine.generate(prompts, SAMPLING, "seed"))
            assert sorted(server.url for server in engine.servers) == sorted(servers.urls)
            engine.close()
            assert httpx.post(f"{servers.urls[0]}/generate", json={}).status_code == 401
            servers.ready_for(BY_SERVERS)
            assert process_ids(servers) == ids
            os.kill(ids[0], signal.SIGKILL)
            assert connection.wait([servers._started[0].sentinel], timeout=20)  # its end is known
            servers.ready_for(BY_SERVERS)  # one that has died is there again for the next stage
            again = process_ids(servers)
            assert again[1] == ids[1] and again[0] != ids[0]
            assert httpx.get(f"{servers.urls[0]}/health").status_code == 200
        assert_gone([*ids, *again])
        assert SERVERS_ENV not in os.environ and TOKEN_ENV not in os.environ

    @pytest.mark.parametrize("end", [RuntimeError("a stage failed"), KeyboardInterrupt(), Stopped()], ids=repr)
    def test_none_is_left_however_the_run_ends(self, tiny_model_path: Path, end: BaseException) -> None:
        ids: list[int] = []
        with pytest.raises(type(end)), fake_servers(tiny_model_path, count=1) as servers:
            servers.ready_for(BY_SERVERS)
            ids += process_ids(servers)
            raise end
        assert len(ids) == 1
        assert_gone(ids)

    @pytest.mark.slow
    def test_none_is_left_where_the_run_is_killed(self, tiny_model_path: Path) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        command = [sys.executable, fake_run_servers.__file__, str(tiny_model_path)]
        environment = {**os.environ, "PYTHONPATH": path}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            ids: list[int] = []
            for line in watching.stdout:
                if line.replace(" ", "").strip().isdigit():
                    ids = [int(id) for id in line.split()]
                    break
            watching.kill()
        assert len(ids) == 2
        assert_gone(ids)

    def test_what_keeps_one_from_starting_ends_the_run(self, tiny_model_path: Path) -> None:
        said = r"specs serve.*: cannot listen on 127\.0\.0\.1:.*choose another --port"
        with (
            pytest.raises(CommandFailed, match=said),
            fake_servers(tiny_model_path) as servers,
            socket.create_server(("127.0.0.1", servers.ports[1])),
        ):
            servers.ready_for(BY_SERVERS)


class TestSettings:
    @pytest.mark.parametrize(
        ("layers", "expected"),
        [
            ([{"data": {"init_args": {"engine": {"class_path": SERVERS}}}}], True),
            ([{"data": {"engine": {"class_path": SERVERS, "init_args": {"weights": "broadcast"}}}}], True),
            (
                [{"data": {"init_args": {"engine": {"class_path": SERVERS, "init_args": {"urls": ["http://a:1"]}}}}}],
                False,
            ),
            ([{"data.engine": SERVERS}], True),
            ([{"engine": SERVERS}, {"engine.init_args.urls": ["http://a:1"]}], False),
            ([{"data": {"init_args": {"engine": {"class_path": SERVERS}}}}, {"data.engine": "hf"}], False),
            (
                [
                    {"data": {"init_args": {"engine": {"class_path": SERVERS, "init_args": {"urls": ["http://a:1"]}}}}},
                    {"data.engine": {"class_path": SERVERS}},
                ],
                True,
            ),
            (
                [{"trainer": {"callbacks": [{"class_path": "a.B", "init_args": {"engine": {"class_path": SERVERS}}}]}}],
                True,
            ),
            ([{"data": {"engine": "vllm"}}, {"model": "toy:base"}], False),
            ([{}], False),
        ],
    )
    def test_a_stage_samples_by_them_if_its_engine_says_so_and_names_no_others(
        self, layers: list[dict[str, Any]], expected: bool
    ) -> None:
        assert samples_by_servers(*layers) is expected

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"count": 0}, "servers.count must be at least 1"),
            ({"count": 2, "devices": [6]}, r"2 servers of 1 GPUs each need 2 different ones, not \[6\]"),
            ({"count": 2, "devices": [6, 6]}, "need 2 different ones"),
        ],
    )
    @pytest.mark.bad_input("settings")
    def test_what_cannot_work_is_refused(self, settings: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            ServerSettings(**settings)

    def test_each_has_its_own_devices(self) -> None:
        settings = ServerSettings(2, [4, 5, 6, 7], VLLMSettings(tensor_parallel_size=2))
        servers = RunServers(settings, "toy:base")
        seen = [(servers._command(number).environment or {})["CUDA_VISIBLE_DEVICES"] for number in range(2)]
        assert seen == ["4,5", "6,7"]

    def test_where_there_are_gpus_they_must_be_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
        with pytest.raises(SpecsError, match=r"servers\.devices: name the GPUs"):
            RunServers(ServerSettings(), "toy:base").ready_for(BY_SERVERS)

    def test_a_run_without_a_model_must_name_theirs(self) -> None:
        with pytest.raises(SpecsError, match=r"servers\.model: name"), rollout_servers(ServerSettings(), None):
            pass

    def test_an_engine_that_finds_none_says_how_to_have_some(self, tiny_model_path: Path) -> None:
        with pytest.raises(EngineError, match=r"there are no rollout servers: give .*`urls`, or .*`servers`"):
            VLLMServers().sync(sharp_policy(tiny_model_path))


@pytest.mark.slow
@pytest.mark.long
def test_a_run_samples_by_servers_of_its_own(tmp_path: Path) -> None:
    """Real ones, for the base's evaluation and then for a training; nothing is left of them."""
    sets = {"in_distribution": {"path": "toy:id", "limit": 4}, "out_of_distribution": {}}
    small = {"data.rounds": 1, "data.prompts_per_round": 2, "data.steps_per_round": 1, "data.sampling.max_tokens": 16}
    stages = {
        "base": {"kind": "model", "model": "toy:base"},
        "zero": {"kind": "fit", "config": "configs/toy/grpo.yaml", "overrides": {**small, "trainer.callbacks": []}},
    }
    settings = {
        "evaluation": {**sets, "sampling": {"completions_per_prompt": 1, "max_tokens": 16}},
        "stages": stages,
        "engine": "servers",
        "servers": {"count": 1, "vllm": {"max_model_len": 512, "kv_cache_gib": 0.25}},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    command = [
        sys.executable,
        "-m",
        "specs_lightning",
        "run",
        f"--config={tmp_path}/run.yaml",
        f"--run_dir={tmp_path}/r",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("rollout servers: http://127.0.0.1:") == 1
    for stage in ("base", "zero"):
        assert json.loads((tmp_path / "r" / stage / "stage.json").read_text())["status"] == "finished"
    port = done.stdout.partition("rollout servers: http://127.0.0.1:")[2].split()[0]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health")
