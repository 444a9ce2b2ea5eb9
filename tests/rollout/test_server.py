"""Rollout servers and the engine that talks to them: what may go wrong on the way, and real servers."""

from __future__ import annotations

import http.server
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import torch.multiprocessing
from helpers.tiny_models import tiny_qwen2_5_vl
from helpers.tiny_policies import encode, mixed_prompts, sharp_policy
from helpers.vllm_servers import FakeSampler, FakeServer, RealServer, specs_serve
from starlette.testclient import TestClient

from specs_lightning.groups import Completion, EncodedPrompt, GroupBatch
from specs_lightning.policy.loading import LoRASettings
from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import EngineError, SamplingSettings, VLLMServers, connection, weights
from specs_lightning.rollout.server.http import Guard, application, serve
from specs_lightning.rollout.server.served import FolderRule, Refused, ServedSampler
from specs_lightning.rollout.wire import TOKEN_ENV, architecture, differences

SAMPLING = SamplingSettings(2, 8)
SECRET = "s3cret-of-the-test"

StartServer = Callable[..., FakeServer]
MakeEngine = Callable[..., VLLMServers]


@pytest.fixture
def policy(tiny_model_path: Path) -> Policy:
    return sharp_policy(tiny_model_path)


@pytest.fixture
def prompts(policy: Policy) -> list[EncodedPrompt]:
    mixed = mixed_prompts(policy)
    return [replace(mixed[i % len(mixed)], id=f"prompt {i}") for i in range(6)]


@pytest.fixture
def start(tiny_model_path: Path) -> Iterator[StartServer]:
    """Starts fake servers."""
    started: list[FakeServer] = []

    def start_one(*args: Any, **settings: Any) -> FakeServer:
        started.append(FakeServer(*(args or (tiny_model_path,)), **settings))
        return started[-1]

    yield start_one
    for server in started:
        server.stop()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeEngine]:
    """Makes engines of one prompt a request."""
    monkeypatch.delenv(TOKEN_ENV, raising=False)
    made: list[VLLMServers] = []

    def make_one(*servers: FakeServer, **settings: Any) -> VLLMServers:
        chosen = {"prompts_per_request": 1, "start_timeout_s": 0.0, **settings}
        made.append(VLLMServers([server.url for server in servers], **chosen))
        return made[-1]

    yield make_one
    for engine in made:
        engine.close()


def assert_answered(prompts: list[EncodedPrompt], completions: list[list[Completion]], version: int = 0) -> None:
    """Each prompt once, in order, by this version."""
    expected = [[f"{prompt.id}/{n}" for n in range(2)] for prompt in prompts]
    assert [[c.text for c in group] for group in completions] == expected
    assert {c.policy_version for group in completions for c in group} == {version}


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the trainer's side warned of."""
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def fail(message: str, times: int = 1000) -> Callable[[], None]:
    remaining = [times]

    def raise_it() -> None:
        remaining[0] -= 1
        if remaining[0] >= 0:
            raise RuntimeError(message)

    return raise_it


class TestSpreading:
    def test_all_servers_answer_and_each_prompt_is_answered_once(
        self, start: StartServer, make: MakeEngine, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        servers = [start(), start()]
        for server in servers:
            server.sampler.on_generate = lambda: time.sleep(0.05)
        engine = make(*servers)
        engine.sync(policy)
        completions = engine.generate(prompts, SAMPLING, "seed")
        assert_answered(prompts, completions)
        asked = [[request.prompt_id for request in server.sampler.requests] for server in servers]
        assert all(asked) and sorted(asked[0] + asked[1]) == [prompt.id for prompt in prompts]
        assert completions[0][0].logprobs == (-0.1, -1e-9)

    def test_requests_are_of_the_size_that_is_set(
        self, start: StartServer, make: MakeEngine, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        server = start()
        engine = make(server, prompts_per_request=4)
        engine.sync(policy)
        assert_answered(prompts, engine.generate(prompts, SAMPLING, "seed"))
        assert server.sampler.calls == 2
        assert engine.generate([], SAMPLING, "seed") == []

    def test_a_prompt_arrives_as_it_was_sent(
        self, start: StartServer, make: MakeEngine, policy: Policy, tmp_path: Path
    ) -> None:
        """Images byte by byte, be they in memory or in files."""
        server = start()
        engine = make(server)
        engine.sync(policy)
        prompt = encode(policy, "p", "<image> or <image>?", [(84, 84), (60, 60)])
        first, second = prompt.question.images
        assert isinstance(second, bytes)
        (tmp_path / "second.png").write_bytes(second)
        as_file = replace(prompt, prompt=replace(prompt.question, images=(first, tmp_path / "second.png")))
        engine.generate([as_file], SAMPLING, "seed")
        (request,) = server.sampler.requests
        assert request.images == (first, second)
        assert request.expanded_ids == tuple(prompt.input_ids.tolist())
        assert len(request.template_ids) < len(request.expanded_ids)

    def test_a_server_does_one_thing_at_a_time_and_stays_responsive(
        self, start: StartServer, make: MakeEngine, policy: Policy, prompts: list[EncodedPrompt]
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
            others = [threads.submit(httpx.post, f"{server.url}/generate", json=message) for _ in range(2)]
            time.sleep(0.1)
            health = httpx.get(f"{server.url}/health", timeout=5).json()
            assert health["ready"] and health["busy"] and health["version"] == 0 and health["max_model_len"] == 1024
            go_on.set()
            assert_answered(prompts, first.result())
            assert [other.result().status_code for other in others] == [200, 200]
        assert server.sampler.most_at_once == 1
        assert not httpx.get(f"{server.url}/health").json()["busy"]


class TestLostServers:
    def test_one_that_dies_in_the_middle_is_replaced_by_another(
        self,
        start: StartServer,
        make: MakeEngine,
        policy: Policy,
        prompts: list[EncodedPrompt],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        dying, other = start(), start()
        engine = make(dying, other)
        engine.sync(policy)

        def die() -> None:
            if dying.sampler.calls == 2:
                dying.cut()
                dying.running.join()

        dying.sampler.on_generate = die
        other.sampler.on_generate = lambda: time.sleep(0.1)
        assert_answered(prompts, engine.generate(prompts, SAMPLING, "seed"))
        assert_answered(prompts, engine.generate(prompts, SAMPLING, "again"))
        (warning,) = warnings_in(caplog)
        assert dying.url in warning and "left out" in warning

    def test_one_that_comes_back_gets_the_weights_first(
        self,
        start: StartServer,
        make: MakeEngine,
        policy: Policy,
        prompts: list[EncodedPrompt],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Also where the policy has not changed."""
        lost, other = start(), start()
        engine = make(lost, other)
        engine.sync(policy)
        lost.stop()
        assert_answered(prompts, engine.generate(prompts, SAMPLING, "seed"))
        engine.sync(policy)
        assert [lost.url in message for message in warnings_in(caplog)] == [True]  # once
        back = start(lost.served.model, port=lost.port)
        assert_answered(prompts, engine.generate(prompts, SAMPLING, "seed"))
        assert back.sampler.calls == 0
        engine.sync(policy)
        assert "is back" in warnings_in(caplog)[-1]
        assert len(back.sampler.weights) == len(dict(policy.named_weights()))
        assert len(other.sampler.loads) == 1
        back.sampler.on_generate = other.sampler.on_generate = lambda: time.sleep(0.05)
        assert_answered(prompts, engine.generate(prompts, SAMPLING, "seed"))
        assert back.sampler.calls > 0

    def test_one_that_is_started_again_with_old_weights_is_not_used(
        self, start: StartServer, make: MakeEngine, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        restarted, other = start(), start()
        engine = make(restarted, other)
        engine.sync(policy)
        restarted.served.weights_id, restarted.sampler.version = "", -1
        assert_answered(prompts, engine.generate(prompts, SAMPLING, "seed"))
        assert restarted.sampler.calls == 0
        policy.version += 1
        engine.sync(policy)
        restarted.sampler.version = 0
        other.stop()
        with pytest.raises(EngineError, match="409: it holds version 0, where version 1 was asked for"):
            engine.generate(prompts, SAMPLING, "seed")

    def test_weights_of_another_training_are_noticed_though_their_version_is_the_same(
        self, start: StartServer, make: MakeEngine, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        server = start()
        mine, other = make(server), make(server)
        mine.sync(policy)
        other.sync(policy)
        assert_answered(prompts, other.generate(prompts, SAMPLING, "seed"))
        with pytest.raises(EngineError, match="version 0 of another training"):
            mine.generate(prompts, SAMPLING, "seed")
        mine.sync(policy)
        assert_answered(prompts, mine.generate(prompts, SAMPLING, "seed"))

    def test_a_fault_is_forgiven_once(
        self,
        start: StartServer,
        make: MakeEngine,
        policy: Policy,
        prompts: list[EncodedPrompt],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        server = start()
        engine = make(server)
        engine.sync(policy)
        server.sampler.on_generate = fail("out of memory", times=1)
        assert_answered(prompts, engine.generate(prompts, SAMPLING, "seed"))
        assert warnings_in(caplog) == []
        server.sampler.on_generate = fail("out of memory")
        with pytest.raises(EngineError, match=r"no rollout server is left:\n.*500: RuntimeError: out of memory"):
            engine.generate(prompts, SAMPLING, "seed")

    def test_prompts_that_fail_everywhere_do_not_cost_all_servers(
        self, start: StartServer, make: MakeEngine, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        servers = [start() for _ in range(4)]
        engine = make(*servers, prompts_per_request=6)
        engine.sync(policy)
        for server in servers:
            server.sampler.on_generate = fail("an image it cannot take")
        with pytest.raises(EngineError, match=r"prompts prompt 0 to prompt 5 failed 3 times.*an image it cannot take"):
            engine.generate(prompts, SAMPLING, "seed")

    def test_one_that_hangs_is_left_out_until_it_has_ended(
        self,
        start: StartServer,
        make: MakeEngine,
        policy: Policy,
        prompts: list[EncodedPrompt],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        hanging, other, go_on = start(), start(), threading.Event()
        engine = make(hanging, other, timeout_s=0.5)
        engine.sync(policy)
        hanging.sampler.on_generate = go_on.wait  # type: ignore[assignment]
        assert_answered(prompts, engine.generate(prompts, SAMPLING, "seed"))
        assert "no answer within 0.5 s" in warnings_in(caplog)[0]
        policy.version += 1
        engine.sync(policy)
        assert len(warnings_in(caplog)) == 1
        assert_answered(prompts, engine.generate(prompts, SAMPLING, "seed"), version=1)
        go_on.set()
        while hanging.served.busy:
            time.sleep(0.01)
        engine.sync(policy)
        assert "is back" in warnings_in(caplog)[1]
        assert hanging.sampler.version == 1

    def test_with_none_left_it_says_what_became_of_each(
        self, start: StartServer, make: MakeEngine, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        servers = [start(), start()]
        engine = make(*servers)
        engine.sync(policy)
        for server in servers:
            server.stop()
        lost = rf"no rollout server is left:\n  {servers[0].url}: .*refused\n  {servers[1].url}: .*refused\n"
        with pytest.raises(EngineError, match=rf"{lost}Start one with: specs serve --model {policy.source}"):
            engine.generate(prompts, SAMPLING, "seed")
        with pytest.raises(EngineError, match=lost):
            engine.sync(policy)
        with pytest.raises(EngineError, match="no rollout server is left"):
            make(*servers).sync(policy)

    def test_a_request_that_is_at_fault_is_not_retried(
        self, start: StartServer, make: MakeEngine, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        servers = [start(), start()]
        engine = make(*servers, prompts_per_request=6)
        engine.sync(policy)

        def refuse() -> None:
            raise EngineError("prompt 3 exceeds max_model_len")

        for server in servers:
            server.sampler.on_generate = refuse
        with pytest.raises(EngineError, match=r"http://127.*: prompt 3 exceeds max_model_len"):
            engine.generate(prompts, SAMPLING, "seed")
        assert sum(server.sampler.calls for server in servers) == 1

    def test_the_first_sync_waits_for_those_that_are_still_starting(
        self, start: StartServer, make: MakeEngine, policy: Policy, prompts: list[EncodedPrompt], tiny_model_path: Path
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        engine = VLLMServers([f"http://127.0.0.1:{port}"], start_timeout_s=30)
        later = threading.Timer(0.5, lambda: start(tiny_model_path, port=port))
        later.start()
        engine.sync(policy)
        assert_answered(prompts, engine.generate(prompts, SAMPLING, "seed"))
        engine.close()

    def test_what_is_no_rollout_server_is_said_so(self, make: MakeEngine, policy: Policy) -> None:
        class Other(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()

            def log_message(self, *unused: Any) -> None:
                """Quiet."""

        other = http.server.HTTPServer(("127.0.0.1", 0), Other)
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(EngineError, match="what answers there is not `specs serve`"):
            VLLMServers([f"http://127.0.0.1:{other.server_port}"], start_timeout_s=0).sync(policy)
        other.shutdown()

    def test_another_version_of_the_protocol_is_refused(
        self, start: StartServer, make: MakeEngine, policy: Policy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "PROTOCOL", 99)
        with pytest.raises(EngineError, match="another version of specs-lightning"):
            make(start()).sync(policy)


def assert_holds(server: FakeServer, policy: Policy) -> None:
    named = dict(policy.named_weights())
    assert server.sampler.weights.keys() == named.keys()
    assert all(torch.equal(weight, named[name]) for name, weight in server.sampler.weights.items())
    assert server.sampler.version == policy.version


class TestWeights:
    @pytest.mark.parametrize("way", ["folder", "broadcast"])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_every_change_reaches_every_server_once(
        self, start: StartServer, make: MakeEngine, tiny_model_path: Path, way: str, dtype: str
    ) -> None:
        servers = [start(), start()]
        engine = make(*servers, weights=way)
        policy = sharp_policy(tiny_model_path, dtype=dtype, lora=LoRASettings())
        for version in range(3):
            with torch.no_grad():
                for weight in policy.parameters():
                    weight += torch.randn_like(weight) * 0.1
            policy.version = version
            engine.sync(policy)
            engine.sync(policy)
            for server in servers:
                assert_holds(server, policy)
                assert len(server.sampler.loads) == version + 1
        other = sharp_policy(tiny_model_path)
        other.version = policy.version
        engine.sync(other)
        for server in servers:
            assert_holds(server, other)

    def test_one_set_of_files_is_kept_and_removed_in_the_end(
        self, start: StartServer, make: MakeEngine, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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

    @pytest.mark.parametrize("way", ["folder", "broadcast"])
    def test_one_that_cannot_take_them_is_left_out(
        self, start: StartServer, make: MakeEngine, policy: Policy, prompts: list[EncodedPrompt], way: str
    ) -> None:
        failing, other = start(), start()
        engine = make(failing, other, weights=way, timeout_s=20)
        engine.sync(policy)

        def refuse(*unused: Any) -> None:
            failing.sampler.version = -1
            raise OSError("no space")

        failing.sampler.load_folder = failing.sampler.receive_weights = refuse  # type: ignore[method-assign]
        policy.version += 1
        engine.sync(policy)
        assert_holds(other, policy)
        assert failing.sampler.version == -1
        assert_answered(prompts, engine.generate(prompts, SAMPLING, "seed"), version=1)
        del failing.sampler.load_folder, failing.sampler.receive_weights
        engine.sync(policy)
        assert_holds(failing, policy)

    def test_one_that_dies_while_it_receives_does_not_hold_up_the_others(
        self, start: StartServer, make: MakeEngine, policy: Policy, caplog: pytest.LogCaptureFixture
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

    @pytest.mark.parametrize("way", ["folder", "broadcast"])
    def test_another_model_is_refused_with_what_differs(
        self, start: StartServer, make: MakeEngine, policy: Policy, tmp_path: Path, way: str
    ) -> None:
        """A head of its own would be taken for nothing by a server with a tied one, without an error."""
        server = start(tiny_qwen2_5_vl(tmp_path, tied=False))
        with pytest.raises(EngineError, match=r"another model than .*tie_word_embeddings is True, not False"):
            make(server, weights=way, timeout_s=20).sync(policy)

    def test_weights_that_failed_on_the_way_are_not_sampled_from(
        self, start: StartServer, make: MakeEngine, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        server = start()
        engine = make(server)
        engine.sync(policy)
        server.sampler.load_folder = fail("torn")  # type: ignore[method-assign, assignment]
        policy.version += 1
        with pytest.raises(EngineError, match="no rollout server is left"):
            engine.sync(policy)
        with pytest.raises(EngineError, match="no weights yet"):
            engine.generate(prompts, SAMPLING, "seed")

    def test_a_servers_claim_is_checked(
        self, start: StartServer, make: MakeEngine, policy: Policy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = start()
        server.sampler.load_folder = lambda folder, version: None  # type: ignore[method-assign]
        with pytest.raises(EngineError, match="holds version -1 after version 0 was sent"):
            make(server).sync(policy)

    def test_the_layout_is_that_of_the_weights(self, tiny_model_path: Path) -> None:
        for settings in ({}, {"lora": LoRASettings(rank=2)}, {"dtype": "bfloat16"}):
            policy = sharp_policy(tiny_model_path, **settings)
            sent = [(n, str(w.dtype).removeprefix("torch."), tuple(w.shape)) for n, w in policy.named_weights()]
            assert policy.weight_layout() == sent

    def test_architectures_that_differ_in_habits_alone_are_the_same(self, policy: Policy) -> None:
        config = policy.model.config
        mine = architecture(config)
        assert differences(json.loads(json.dumps(mine)), mine) == []
        other = type(config).from_dict(config.to_dict() | {"dtype": "float16", "eos_token_id": 3})
        other.text_config.use_cache = False
        assert differences(mine, architecture(other)) == []
        other.text_config.rope_parameters = other.text_config.rope_parameters | {"rope_theta": 5.0}
        assert differences(mine, architecture(other)) == ["text_config.rope_parameters.rope_theta is 10000.0, not 5.0"]


@pytest.fixture
def served(tiny_model_path: Path) -> ServedSampler:
    return ServedSampler(FakeSampler(), ThreadPoolExecutor(1), str(tiny_model_path))  # type: ignore[arg-type]


class TestSecurity:
    def test_other_machines_need_a_token(self, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MY_TOKEN", " ")
        for host in ("0.0.0.0", "::", "192.168.1.5", "node7"):
            with pytest.raises(EngineError, match=f"{host} can be reached from other machines.*MY_TOKEN"):
                serve(str(tiny_model_path), host=host, token_env="MY_TOKEN")

    def test_a_taken_port_is_said_before_anything_is_loaded(self, tiny_model_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(EngineError, match=f"127.0.0.1:{port} .*choose another --port"):
                serve(str(tiny_model_path), port=port)

    def test_everything_but_health_needs_the_token(self, served: ServedSampler) -> None:
        client = TestClient(application(served, SECRET, FolderRule(None, True)))
        assert client.get("/health").status_code == 200
        for path in ("/generate", "/weights", "/weights/group", "/weights/broadcast", "/docs", "/"):
            for headers in ({}, {"Authorization": SECRET}, {"Authorization": f"Bearer {SECRET}x"}):
                answer = client.post(path, json={}, headers=headers)
                assert (answer.status_code, answer.json()) == (401, {"error": "the token is missing or wrong"})
        assert client.post("/generate", json={}, headers={"Authorization": f"Bearer {SECRET}"}).status_code == 400

    def test_there_are_no_other_endpoints(self, served: ServedSampler) -> None:
        client = TestClient(application(served, None, FolderRule(None, True)))
        for path in ("/docs", "/openapi.json", "/collective_rpc", "/pause", "/v1/completions", "/metrics", "/shutdown"):
            assert (client.get(path).status_code, client.post(path, json={}).status_code) == (404, 404)

    def test_the_right_token_is_taken_and_never_shown(
        self,
        start: StartServer,
        make: MakeEngine,
        policy: Policy,
        prompts: list[EncodedPrompt],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
        tmp_path: Path,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        server = start(token=SECRET)
        monkeypatch.setenv(TOKEN_ENV, SECRET)
        engine = make(server, folder=str(tmp_path))
        engine.sync(policy)
        assert_answered(prompts, engine.generate(prompts, SAMPLING, "seed"))
        connections = [(server, vars(server), server.client.headers) for server in engine.servers]
        shown = f"{engine!r} {vars(engine)} {connections} {caplog.text} {capfd.readouterr()}"
        monkeypatch.setenv(TOKEN_ENV, "wrong-" + SECRET)
        with pytest.raises(EngineError, match=f"the token is missing or wrong. Set .*{TOKEN_ENV}") as error:
            make(server).sync(policy)
        assert SECRET not in f"{shown} {error.value} {caplog.text} {capfd.readouterr()}"
        assert not any(SECRET.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())

    def test_a_password_in_an_address_is_refused_without_repeating_it(self) -> None:
        with pytest.raises(ValueError, match="the address of host holds a password") as error:
            VLLMServers([f"http://me:{SECRET}@host:8000"])
        assert SECRET not in str(error.value)

    def test_folders_out_of_bounds_are_refused(self, tmp_path: Path) -> None:
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
        self, start: StartServer, make: MakeEngine, policy: Policy, tmp_path: Path
    ) -> None:
        server = start(may_read=FolderRule(tmp_path / "allowed", True))
        with pytest.raises(EngineError, match="outside the server's weights_dir"):
            make(server, folder=str(tmp_path / "other")).sync(policy)
        make(server, folder=str(tmp_path / "allowed")).sync(policy)
        assert_holds(server, policy)

    def test_what_is_no_request_is_refused_unread(self, served: ServedSampler, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("specs_lightning.rollout.server.http.MAX_REQUEST_BYTES", 100)
        client = TestClient(Guard(application(served, None, FolderRule(None, True)), None))
        form = client.post("/weights", content="{}", headers={"Content-Type": "text/plain"})
        endless = client.post("/weights", content=iter([b"{}"]), headers={"Content-Type": "application/json"})
        large = client.post("/weights", json={"folder": "x" * 100})
        assert [answer.status_code for answer in (form, endless, large)] == [415, 411, 413]

    @pytest.mark.parametrize(
        ("path", "body", "said"),
        [
            ("/generate", "[1", "JSONDecodeError"),
            ("/generate", "[1]", "TypeError"),
            ("/generate", "{}", "'requests'"),
            ("/generate", '{"requests": [], "sampling": {"top_p": 1}}', "top_p"),
            (
                "/generate",
                '{"requests": [{"prompt_id": "", "template_ids": [], "expanded_ids": [], "images": ["ä"]}]}',
                "",
            ),
            ("/weights", '{"folder": "/", "weights_id": "a", "version": "b"}', "ValueError"),
            ("/weights/group", "{}", "'host'"),
            ("/weights/broadcast", "{}", "'layout'"),
        ],
    )
    def test_what_cannot_be_read_is_the_requests_fault(
        self, served: ServedSampler, path: str, body: str, said: str
    ) -> None:
        client = TestClient(application(served, None, FolderRule(None, True)))
        answer = client.post(path, content=body.encode(), headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
        assert "the request cannot be read" in answer.json()["error"] and said in answer.json()["error"]


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"urls": []}, "there must be one"),
            ({"urls": ["http://a:1", "http://a:1/"]}, "named once each"),
            ({"urls": ["localhost:8000"]}, "write http://host:port"),
            ({"urls": ["http://a:port"]}, "not a server's address"),
            ({"urls": ["http://a:1"], "prompts_per_request": 0}, "prompts_per_request"),
        ],
    )
    def test_what_cannot_work_is_refused(self, settings: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            VLLMServers(**settings)

    def test_it_needs_weights_first(self) -> None:
        with pytest.raises(EngineError, match="sync"):
            VLLMServers(["http://127.0.0.1:1"]).generate([], SAMPLING, "seed")

    def test_a_request_that_no_server_would_take_says_what_to_set(
        self,
        start: StartServer,
        make: MakeEngine,
        policy: Policy,
        prompts: list[EncodedPrompt],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        engine = make(start())
        engine.sync(policy)
        monkeypatch.setattr(connection, "MAX_REQUEST_BYTES", 100)
        with pytest.raises(EngineError, match="prompts_per_request lower"):
            engine.generate(prompts, SAMPLING, "seed")


# ----------------------------------------------------------------------------------------- several processes


def _one_rank(rank: int, meeting: str, urls: list[str], model: Path, results: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    policy = sharp_policy(model)
    prompt = encode(policy, f"rank {rank}", "How many?")
    for way, url in zip(("folder", "broadcast"), urls, strict=True):
        engine = VLLMServers([url], weights=way, start_timeout_s=0)  # type: ignore[arg-type]
        for version in range(2):
            policy.version = version
            engine.sync(policy)
            results.put([c.text for c in engine.generate([prompt], SAMPLING, "seed")[0]])
        torch.distributed.barrier()
        if rank == 0:  # for the first, no server is there any more
            engine.servers = [connection.Connection("http://127.0.0.1:1")]
        policy.version = 2
        try:
            engine.sync(policy)
        except EngineError as error:
            results.put(str(error))


@pytest.mark.slow
def test_of_a_distributed_training_the_first_rank_sends_and_all_are_answered(
    start: StartServer, tiny_model_path: Path, tmp_path: Path
) -> None:
    """And an error of the first is everyone's."""
    servers = [start(), start()]
    results = torch.multiprocessing.get_context("spawn").Queue()
    urls = [server.url for server in servers]
    torch.multiprocessing.spawn(_one_rank, (str(tmp_path / "meeting"), urls, tiny_model_path, results), nprocs=2)
    found = [results.get(timeout=10) for _ in range(12)]
    answers = sorted(answer for answer in found if isinstance(answer, list))
    assert answers == [["rank 0/0", "rank 0/1"]] * 4 + [["rank 1/0", "rank 1/1"]] * 4
    errors = [error for error in found if isinstance(error, str)]
    assert len(errors) == 4 and all("no rollout server is left" in error for error in errors)
    assert [len(server.sampler.loads) for server in servers] == [2, 2]


# --------------------------------------------------------------------------------------------- a real server


def gap(policy: Policy, prompts: list[EncodedPrompt], completions: list[list[Completion]]) -> float:
    """The largest difference between the trainer's log-probabilities and the engine's."""
    batch = GroupBatch.from_token_ids(prompts, [[c.token_ids for c in group] for group in completions])
    sampled = [torch.tensor(c.logprobs) for group in completions for c in group]
    with torch.no_grad():
        found_NT = policy.token_logprobs(batch).logprobs
    return (found_NT - torch.nn.utils.rnn.pad_sequence(sampled, batch_first=True)).abs().max().item()


@pytest.fixture(scope="module")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen2_5_vl(tmp_path_factory.mktemp("model"), heads=2)


@pytest.mark.slow
def test_a_real_server_samples_from_the_policy(
    served_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By both ways of the weights, before and after a change; then it is killed while it samples."""
    monkeypatch.setenv(TOKEN_ENV, SECRET)
    policy = sharp_policy(served_model)
    long = "Which colour has more circles, here or there? " * 22
    prompts = [*mixed_prompts(policy), encode(policy, "long", long, [(84, 84)])]
    with specs_serve(served_model, tmp_path, f"--weights_dir={tmp_path}") as server:
        engines = [
            VLLMServers([server.url], folder=str(tmp_path), prompts_per_request=2),
            VLLMServers([server.url], weights="broadcast"),
        ]
        for engine in engines:
            for _ in range(2):
                engine.sync(policy)
                completions = engine.generate(prompts, SamplingSettings(3, 8), "seed")
                assert {c.policy_version for group in completions for c in group} == {policy.version}
                assert gap(policy, prompts, completions) <= 1e-4
                with torch.no_grad():
                    for name, weight in policy.model.named_parameters():
                        if weight.dim() > 1 and "visual" not in name:
                            weight += torch.randn_like(weight) * weight.std() * 0.3
                policy.version += 1
                assert gap(policy, prompts, completions) > 1e-2
        engine.sync(policy)
        kill_while_sampling(server, engine, prompts)
        assert SECRET not in server.log.read_text()
    engines[0].close()
    assert not list(tmp_path.glob("specs-weights-*"))


def kill_while_sampling(server: RealServer, engine: VLLMServers, prompts: list[EncodedPrompt]) -> None:
    with ThreadPoolExecutor(1) as thread:
        drawn = thread.submit(engine.generate, prompts, SamplingSettings(16, 400), "seed")
        while not httpx.get(f"{server.url}/health").json()["busy"]:
            time.sleep(0.02)
        server.kill()
        with pytest.raises(EngineError, match=rf"no rollout server is left:\n  {server.url}: "):
            drawn.result()
    assert os.environ[TOKEN_ENV] == SECRET
