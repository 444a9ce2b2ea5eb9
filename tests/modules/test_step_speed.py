"""A step's figures of speed are those of its clock, its tokens and its weights, and change nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from helpers.small_runs import small_trainer, write_pair_file
from helpers.tiny_policies import mixed_batch, sharp_policy
from torch.utils.flop_counter import FlopCounterMode

from specs_lightning.data import PreferenceDataModule
from specs_lightning.modules import ColdStartModule
from specs_lightning.modules.metrics_file import MetricsFile
from specs_lightning.modules.step_speed import StepSpeed, operations_a_token, peak_tflops
from specs_lightning.policy.loading import LoRASettings, PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.records.metrics import is_timing, read_metrics

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def policy(tiny_model_path: Path) -> Policy:
    return sharp_policy(tiny_model_path)


def test_phases_add_up_and_tokens_are_those_of_the_step_over_its_seconds(policy: Policy) -> None:
    batch = mixed_batch(policy, 2)
    speed = StepSpeed(CPU)
    for name in ("forward", "backward", "forward"):
        with speed.phase(name):
            time.sleep(0.02)
    figures = speed.figures(policy, batch)
    assert 0.04 <= figures["speed/forward_seconds"] <= figures["speed/step_seconds"] - figures["speed/backward_seconds"]
    tokens = sum(len(prompt) for prompt in batch.prompts) + int(batch.lengths_N.sum())
    assert figures["speed/tokens_per_second"] == pytest.approx(tokens / figures["speed/step_seconds"])
    assert 0.1 < figures["speed/memory_gib"] < 100
    assert "speed/mfu" not in figures and all(map(is_timing, figures))


def test_the_share_of_the_peak_is_that_of_the_operations_in_the_weights(policy: Policy) -> None:
    batch = mixed_batch(policy, 2)
    figures = StepSpeed(CPU, tflops=1e-3).figures(policy, batch)
    operations = operations_a_token(policy.model)
    done = figures["speed/tokens_per_second"] * (operations.forward + operations.backward)
    assert figures["speed/mfu"] == pytest.approx(done / 1e9)


@pytest.mark.parametrize("lora", [None, LoRASettings(rank=4)])
def test_operations_are_what_torch_counts_but_for_attention_and_what_is_left_out(
    tiny_model_path: Path, lora: LoRASettings | None
) -> None:
    """torch counts matrix products as they run: here of a text, and of each token's logits."""
    policy = Policy(PolicySettings(str(tiny_model_path), lora=lora))
    policy.requires_grad_(lora is None)
    for name, weight in policy.named_parameters():
        weight.requires_grad_(lora is None or ".lora_" in name)
    ids_RL = torch.arange(2, 66)[None]
    with FlopCounterMode(display=False) as counter:
        policy.model(input_ids=ids_RL).logits.sum().backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for operation, count in counts.items() if "attention" not in str(operation))
    operations = operations_a_token(policy.model)
    expected = operations.forward + operations.backward
    # The first layer's input needs no gradient where no weight before it is trained.
    assert products / 64 == pytest.approx(expected, rel=0.02 if lora is None else 0.12)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA A10G", None),
        ("Some other device", None),
    ],
)
def test_the_peak_is_known_by_the_devices_whole_name(name: str, peak: float | None) -> None:
    assert peak_tflops(name) == peak


def test_each_step_of_a_training_is_logged_with_them(tiny_model_path: Path, tmp_path: Path) -> None:
    data = PreferenceDataModule(str(write_pair_file(tmp_path)), batch_size=4)
    module = ColdStartModule(PolicySettings(str(tiny_model_path)), peak_tflops=1.0)
    logger = MetricsFile(tmp_path / "metrics.csv")
    small_trainer(tmp_path, max_steps=2, logger=logger, log_every_n_steps=1).fit(module, datamodule=data)
    logged = read_metrics(tmp_path)
    names = ("forward_seconds", "backward_seconds", "optimizer_seconds", "step_seconds", "tokens_per_second", "mfu")
    for name in names:
        assert len(logged[f"speed/{name}"].values) == 2 and min(logged[f"speed/{name}"].values) > 0
