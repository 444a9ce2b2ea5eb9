"""The trainer's side of rollout servers: who is asked, who is left out, and real servers."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import torch.multiprocessing
from helpers.questions import prompt
from helpers.server_checks import SAMPLING, MakeEngine, StartServer, assert_answered, fail, warnings_in
from helpers.tiny_models import tiny_qwen2_5_vl
from helpers.tiny_policies import encode, mixed_prompts, sharp_policy
from helpers.vllm_servers import SECRET, RealServer, specs_serve

from specs_lightning.errors import SpecsError
from specs_lightning.groups import Completion, EncodedPrompt, GroupBatch
from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import EngineError, SamplingSettings, VLLMServers, connection
from specs_lightning.rollout.tokens import TOKEN_ENV


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
        assert [len(ids) for ids in asked] == [3, 3]
        assert sorted(asked[0] + asked[1]) == [prompt.id for prompt in prompts]
        assert completions[0][0].logprobs == (-0.1, -1e-9)
        assert engine.generate([], SAMPLING, "seed") == []

    def test_prompts_are_in_one_batch_as_far_as_they_fill_it_twice(
        self, start: StartServer, make: MakeEngine, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        """Of 2 completions each, where the server draws 4 at once."""
        server, seen = start(max_sequences=4), list[int]()
        engine = make(server)
        engine.sync(policy)

        def there() -> int:
            return len(server.sampler.in_flight) + len(server.batch._waiting)

        def look() -> None:
            deadline = time.monotonic() + 20
            while not seen and there() < 4 and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.05)  # for more that might come
            seen.append(there())

        server.sampler.on_generate = look
        assert_answered(prompts, engine.generate(prompts, SAMPLING, "seed"))
        assert max(seen) == 4

    def test_seeds_are_sent_unless_none_are_wanted(
        self, start: StartServer, make: MakeEngine, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        server = start()
        engines = [make(server, seeded=seeded) for seeded in (True, False)]
        for engine in engines:
            engine.sync(policy)
            engine.generate(prompts, SAMPLING, "seed")
        seeds = [request.seed for request in server.sampler.requests]
        assert None not in seeds[:6] and len(set(seeds[:6])) == 6 and seeds[6:] == [None] * 6
        assert engines[0].decisive != engines[1].decisive

    def test_an_interrupt_leaves_no_server_at_work(
        self, start: StartServer, make: MakeEngine, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        server, go_on = start(), threading.Event()
        engine = make(server)
        engine.sync(policy)

        def interrupted() -> None:
            server.sampler.on_generate = go_on.wait  # type: ignore[assignment]
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            go_on.wait(10)

        server.sampler.on_generate = interrupted
        with pytest.raises(KeyboardInterrupt):
            engine.generate(prompts, SAMPLING, "seed")
        jobs = [*server.batch._waiting, *server.batch._in_flight.values()]
        while jobs and not all(job.outcome.cancelled() for job in jobs):
            time.sleep(0.01)
        go_on.set()
        while server.batch.busy:
            time.sleep(0.01)
        assert server.sampler.in_flight == {} and server.batch.aborted > 0

    def test_prompts_are_laid_out_as_the_policy_lays_them_out(
        self, start: StartServer, make: MakeEngine, switching_model_path: Path
    ) -> None:
        silent = sharp_policy(switching_model_path, chat_template_kwargs={"enable_thinking": False})
        asked = silent.encoder().encode(prompt("How many?", 0))
        server = start(switching_model_path)
        engine = make(server)
        engine.sync(silent)
        engine.generate([asked], SAMPLING, "seed")
        (request,) = server.sampler.requests
        assert request.template_ids == tuple(asked.input_ids.tolist())
        assert silent.tokenizer.decode(request.template_ids).endswith("</think>\n\n")


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
        engine = make(*servers)
        engine.sync(policy)
        for server in servers:
            server.sampler.on_generate = fail("an image it cannot take")
        with pytest.raises(EngineError, match=r"prompt prompt \d failed 3 times.*an image it cannot take"):
            engine.generate(prompts, SAMPLING, "seed")
        assert any(server.lost is None for server in engine.servers)

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
        while hanging.batch.busy:
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
        engine = make(*servers)
        engine.sync(policy)

        def refuse() -> None:
            raise EngineError("prompt 3 exceeds max_model_len")

        for server in servers:
            server.sampler.on_generate = refuse
        with pytest.raises(EngineError, match=r"http://127.*: prompt 3 exceeds max_model_len"):
            engine.generate(prompts, SAMPLING, "seed")
        assert sum(server.sampler.calls for server in servers) <= len(prompts)

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


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"urls": []}, "there must be one"),
            ({"urls": ["http://a:1", "http://a:1/"]}, "named once each"),
            ({"urls": ["localhost:8000"]}, "write http://host:port"),
            ({"urls": ["http://a:port"]}, "not a server's address"),
            ({"urls": ["http://a:1"], "timeout_s": 0}, "timeouts are positive"),
        ],
    )
    @pytest.mark.bad_input("settings")
    def test_what_cannot_work_is_refused(self, settings: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            VLLMServers(**settings)

    def test_it_needs_weights_first(self) -> None:
        with pytest.raises(EngineError, match="sync"):
            VLLMServers(["http://127.0.0.1:1"]).generate([], SAMPLING, "seed")


def _one_rank(rank: int, meeting: str, urls: list[str], model: Path, results: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    policy = sharp_policy(model)
    prompt = encode(policy, f"rank {rank}", "How many?")
    for way, url in zip(("folder", "broadcast"), urls, strict=True):
        engine = VLLMServers([url], weights=way, start_timeout_s=0)  # type: ignore[arg-type]
        for version in range(2):
            policy.version = version
            engine.sync(policy)
            assert engine.max_length == 1024 and engine.servers[0].max_sequences == 2  # which the first alone has seen
            results.put([c.text for c in engine.generate([prompt], SAMPLING, "seed")[0]])
        torch.distributed.barrier()
        if rank == 0:  # for the first, no server is there any more
            engine.servers = [connection.Connection("http://127.0.0.1:1")]
        policy.version = 2
        try:
            engine.sync(policy)
        except SpecsError as error:
            results.put(str(error))


@pytest.mark.slow
def test_of_a_distributed_training_the_first_rank_sends_and_all_are_answered(
    start: StartServer, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an error of the first is everyone's."""
    monkeypatch.setenv(TOKEN_ENV, SECRET)
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
            VLLMServers([server.url], folder=str(tmp_path)),
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
