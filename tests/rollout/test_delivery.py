"""The policy's weights on their way to rollout servers: every change reaches every server, by both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from helpers.server_checks import SAMPLING, MakeEngine, StartServer, assert_answered, assert_holds, fail
from helpers.tiny_models import tiny_qwen2_5_vl
from helpers.tiny_policies import sharp_policy

from specs_lightning.groups import EncodedPrompt
from specs_lightning.policy.loading import LoRASettings
from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import EngineError


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
