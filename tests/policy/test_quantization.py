"""A base in 4 bits under LoRA: trained, checkpointed, exported and handed to engines."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.small_runs import Curve, adam, small_trainer, write_pair_file
from helpers.tiny_policies import gradient, mixed_batch, mixed_prompts, relative_difference, sharp_policy
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn

from specs_lightning.callbacks import Checkpoints, ExportHF
from specs_lightning.data import PreferenceDataModule
from specs_lightning.errors import SpecsError
from specs_lightning.groups import GroupBatch
from specs_lightning.modules import ColdStartModule, ScheduleSettings
from specs_lightning.objectives import DPO
from specs_lightning.plan.memory import FOUR_BIT_BYTES
from specs_lightning.plan.shapes import model_shape
from specs_lightning.policy.families import vision_modules
from specs_lightning.policy.loading import LoRASettings, PolicySettings, empty_model, layers_in_4_bits, quantized_layers
from specs_lightning.policy.policy import Policy
from specs_lightning.policy.reference import AdapterOffReference, FrozenReference
from specs_lightning.rollout import HFEngine, SamplingSettings

LOGPROB_TOLERANCE = {"float32": 1e-5, "bfloat16": 0.01}
GRADIENT_TOLERANCE = {"float32": 1e-5, "bfloat16": 0.05}
"""Of a policy and its dense twin. In bfloat16 the twin itself is 0.003 and 0.02 off from what it is in float32."""

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


def test_without_adapters_there_would_be_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="quantization needs lora"):
        PolicySettings("m", quantization="4bit")


def test_the_length_of_rows_in_4_bits_is_not_trained() -> None:
    with pytest.raises(ValueError, match=r"lora\.dora measures the rows .* in 4 bits: choose one"):
        PolicySettings("m", lora=LoRASettings(dora=True), quantization="4bit")


def test_a_missing_library_is_named(tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecsError, match=r"pip install 'specs-lightning\[quantization\]'"):
        Policy(PolicySettings(str(tiny_model_path), lora=LoRASettings(), quantization="4bit"))


@pytest.fixture(scope="module")
def settings(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> PolicySettings:
    folder = tmp_path_factory.mktemp("sharp")
    model = str(sharp_policy(tiny_model_path).save(folder / "model"))
    return PolicySettings(model, lora=LoRASettings(rank=4), quantization="4bit")


@needs_bitsandbytes
class TestQuantized:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("trained")

    @pytest.fixture(scope="class")
    def trained(self, settings: PolicySettings, folder: Path) -> tuple[Trainer, ColdStartModule]:
        seed_everything(0)
        module = ColdStartModule(
            settings, DPO(), "adapter_off", optimizer=adam, schedule=ScheduleSettings("constant", 0.0)
        )
        callbacks = Curve(), Checkpoints(every_n_steps=2), ExportHF()
        trainer = small_trainer(folder, *callbacks, enable_checkpointing=True, max_epochs=4)
        data = PreferenceDataModule(str(write_pair_file(folder)), batch_size=4)
        trainer.fit(module, datamodule=data)
        return trainer, module

    def test_the_layers_of_the_language_model_alone_are_in_4_bits(self, settings: PolicySettings) -> None:
        import bitsandbytes

        policy = Policy(settings)
        kinds = {name: type(module) for name, module in policy.model.named_modules() if isinstance(module, nn.Linear)}
        quantized = {name for name, kind in kinds.items() if kind is bitsandbytes.nn.Linear4bit}
        assert quantized and all(".language_model." in name for name in quantized)
        assert type(policy.model.get_output_embeddings()) is nn.Linear
        assert all(type(m) is not bitsandbytes.nn.Linear4bit for v in vision_modules(policy.model) for m in v.modules())
        plan = empty_model(model_shape(settings.model), settings)
        assert len(quantized_layers(plan)) == len(quantized)
        assert {weight.dtype for weight in policy.parameters() if weight.requires_grad} == {torch.float32}

    def test_a_weight_takes_the_bytes_that_are_planned(self) -> None:
        from bitsandbytes.functional import quantize_4bit

        weight, state = quantize_4bit(torch.randn(1024, 1024), quant_type="nf4", compress_statistics=True)
        size = weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
        assert size == pytest.approx(FOUR_BIT_BYTES * 1024**2, rel=0.01)

    def test_training_lowers_the_loss(self, trained: tuple[Trainer, ColdStartModule]) -> None:
        (curve,) = [callback for callback in trained[0].callbacks if isinstance(callback, Curve)]  # type: ignore[attr-defined]
        assert curve["loss"][-1] < 0.9 * curve["loss"][0]
        assert curve["rewards/margins"][0] == pytest.approx(0, abs=1e-5)

    def test_a_checkpoint_holds_the_adapters_alone(
        self, trained: tuple[Trainer, ColdStartModule], folder: Path
    ) -> None:
        module = trained[1]
        *_, newest = sorted((folder / "checkpoints").glob("step=*.ckpt"), key=lambda file: file.stat().st_mtime)
        saved = torch.load(newest, weights_only=True)["state_dict"]
        learned = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        assert saved and set(saved) == set(learned)

    def test_the_exported_model_and_what_engines_get_are_the_policy_in_full_precision(
        self, trained: tuple[Trainer, ColdStartModule], folder: Path
    ) -> None:
        policy = trained[1].policy
        exported = Policy(PolicySettings(str(folder / "model")))
        batch = mixed_batch(policy, 2)
        expected_NT = policy.token_logprobs(batch).logprobs
        torch.testing.assert_close(exported.token_logprobs(batch).logprobs, expected_NT, atol=1e-4, rtol=1e-4)
        pushed = dict(policy.named_weights())
        assert all(torch.equal(weight, pushed[name]) for name, weight in exported.named_weights())
        layout = [(name, f"torch.{dtype}", shape) for name, dtype, shape in policy.weight_layout()]
        assert layout == [(name, str(weight.dtype), tuple(weight.shape)) for name, weight in pushed.items()]
        assert "quantization_config" not in (folder / "model" / "config.json").read_text()

    def test_the_embedded_engine_reports_the_log_probabilities_of_the_policy(
        self, trained: tuple[Trainer, ColdStartModule]
    ) -> None:
        policy, engine = trained[1].policy, HFEngine()
        engine.sync(policy)
        prompts = mixed_prompts(policy)
        answers = engine.generate(prompts, SamplingSettings(2, 6), "seed")
        batch = GroupBatch.from_token_ids(prompts, [[c.token_ids for c in group] for group in answers])
        reported = torch.cat([torch.tensor(c.logprobs) for group in answers for c in group])
        found_NT = policy.token_logprobs(batch).logprobs
        torch.testing.assert_close(found_NT[batch.mask_NT], reported, atol=1e-4, rtol=1e-4)

    def test_the_adapter_switched_off_is_a_frozen_model_in_4_bits(
        self, trained: tuple[Trainer, ColdStartModule], settings: PolicySettings
    ) -> None:
        policy = trained[1].policy
        batch = mixed_batch(policy, 2)
        frozen_NT = FrozenReference(Policy(settings)).token_logprobs(batch)
        torch.testing.assert_close(AdapterOffReference(policy).token_logprobs(batch), frozen_NT, atol=1e-6, rtol=1e-6)

    def test_it_computes_in_bfloat16_where_asked_for(self, settings: PolicySettings) -> None:
        policy = Policy(replace(settings, dtype="bfloat16"))
        policy.token_logprobs(mixed_batch(policy, 2)).logprobs.sum().backward()
        gradients = [weight.grad for weight in policy.parameters() if weight.requires_grad]
        assert gradients and all(g is not None and g.dtype == torch.float32 for g in gradients)


def quantized_policy(settings: PolicySettings) -> Policy:
    """In 4 bits, with adapters that change what it says, on a CPU like the ones whose inference path has no gradients.

    Only what bitsandbytes has found out about the CPU decides on that path, so that it is tried on any.
    """
    policy = Policy(settings)
    for layer in layers_in_4_bits(policy.model):
        layer.support_avx512bf16_for_cpu = True
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if ".lora_B." in name:
                weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    return policy


def dequantized_twin(policy: Policy) -> Policy:
    """The same model with the same adapters, on dense layers that hold what the 4 bits stand for."""
    from bitsandbytes.functional import dequantize_4bit

    twin = Policy(replace(policy.settings, quantization=None))
    dense, own = dict(twin.named_parameters()), dict(policy.named_parameters())
    assert set(dense) == set(own)
    with torch.no_grad():
        for name, weight in own.items():
            state = getattr(weight, "quant_state", None)
            dense[name].copy_(weight if state is None else dequantize_4bit(weight, state))
    assert not layers_in_4_bits(twin.model)
    return twin


@contextmanager
def embedded(policy: Policy) -> Iterator[list[Tensor]]:
    """The embeddings of the tokens that go through the model meanwhile, each as a leaf that gets a gradient."""
    seen: list[Tensor] = []

    def hand_over(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    handle = policy.model.get_input_embeddings().register_forward_hook(hand_over)
    try:
        yield seen
    finally:
        handle.remove()


@needs_bitsandbytes
class TestDequantizedTwin:
    """What is computed through a base in 4 bits is what its dense twin computes, on whatever CPU."""

    @pytest.mark.parametrize("dtype", LOGPROB_TOLERANCE)
    def test_log_probabilities_are_the_twins(self, settings: PolicySettings, dtype: str) -> None:
        policy = quantized_policy(replace(settings, dtype=dtype))
        batch, twin = mixed_batch(policy, 2), dequantized_twin(policy)
        expected_NT = twin.token_logprobs(batch).logprobs.detach()
        with torch.no_grad():
            sampled_NT = policy.token_logprobs(batch).logprobs
        for found_NT in (sampled_NT, policy.token_logprobs(batch).logprobs.detach()):
            assert relative_difference(found_NT, expected_NT) < LOGPROB_TOLERANCE[dtype]

    @pytest.mark.parametrize("checkpointing", [False, True])
    @pytest.mark.parametrize("dtype", GRADIENT_TOLERANCE)
    def test_gradients_of_the_adapters_are_the_twins(
        self, settings: PolicySettings, dtype: str, checkpointing: bool
    ) -> None:
        policy = quantized_policy(replace(settings, dtype=dtype, gradient_checkpointing=checkpointing))
        batch = mixed_batch(policy, 2)
        found, expected = (
            gradient(p, p.token_logprobs(batch).logprobs.sum()) for p in (policy, dequantized_twin(policy))
        )
        assert expected.norm() > 0
        assert relative_difference(found, expected) < GRADIENT_TOLERANCE[dtype]

    @pytest.mark.parametrize("dtype", GRADIENT_TOLERANCE)
    def test_gradients_of_the_inputs_are_the_twins(self, settings: PolicySettings, dtype: str) -> None:
        policy = quantized_policy(replace(settings, dtype=dtype))
        batch, gradients = mixed_batch(policy, 2), []
        for each in (policy, dequantized_twin(policy)):
            with embedded(each) as embeddings:
                loss = each.token_logprobs(batch).logprobs.sum()
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, embeddings)]))
        assert relative_difference(*gradients) < GRADIENT_TOLERANCE[dtype]

    @pytest.mark.parametrize("mode", ["eval", "train"])
    def test_neither_mode_takes_the_gradients_or_changes_the_weights(self, settings: PolicySettings, mode: str) -> None:
        policy = quantized_policy(settings)
        batch, before = mixed_batch(policy, 2), {name: weight.clone() for name, weight in policy.named_weights()}
        getattr(policy, mode)()
        with torch.no_grad():  # as a rollout or a cached reference does
            expected_NT = policy.token_logprobs(batch).logprobs
        scored_NT = policy.token_logprobs(batch).logprobs
        assert torch.equal(scored_NT, expected_NT)
        assert gradient(policy, scored_NT.sum()).norm() > 0
        assert all(torch.equal(weight, before[name]) for name, weight in policy.named_weights())


def test_commands_say_nothing_of_kernels_that_are_not_run() -> None:
    """On a CPU with AVX512-BF16, bitsandbytes warns as it is imported, whether it is used or not."""
    program = "from specs_lightning.cli import main; main(['fit', '--help'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "usage: specs" in done.stdout and "kernel" not in done.stderr
