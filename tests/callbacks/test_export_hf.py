"""What is exported opens in plain transformers and is the trained policy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.small_runs import adam, small_trainer, write_pair_file
from helpers.tiny_policies import mixed_batch, plain_logprobs
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from specs_lightning.callbacks import ExportHF
from specs_lightning.data import PreferenceDataModule
from specs_lightning.modules import ColdStartModule, ScheduleSettings
from specs_lightning.objectives import SFT
from specs_lightning.policy.loading import LoRASettings, PolicySettings
from specs_lightning.policy.model_files import ModelNotFound, model_source
from specs_lightning.policy.policy import Policy


def test_the_trained_policy_opens_in_plain_transformers(tiny_model_path: Path, tmp_path: Path) -> None:
    module = ColdStartModule(
        PolicySettings(str(tiny_model_path)), SFT(), optimizer=adam, schedule=ScheduleSettings("constant", 0.0)
    )
    data = PreferenceDataModule(str(write_pair_file(tmp_path)), batch_size=4)
    small_trainer(tmp_path, ExportHF("exported")).fit(module, datamodule=data)

    folder = tmp_path / "exported"
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    trained, start = module.policy, Policy(PolicySettings(str(tiny_model_path)))
    for name, weight in model.named_parameters():
        assert torch.equal(weight, trained.model.get_parameter(name))
    assert processor.chat_template == trained.processor.chat_template
    assert GenerationConfig.from_pretrained(folder).eos_token_id == start.model.generation_config.eos_token_id

    batch = mixed_batch(start, 1)
    with torch.no_grad():
        before_NT, after_NT = plain_logprobs(start, batch), trained.token_logprobs(batch).logprobs
        start.model = model
        exported_NT = plain_logprobs(start, batch)
    torch.testing.assert_close(exported_NT, after_NT, atol=1e-4, rtol=1e-4)
    assert (after_NT - before_NT).abs().max() > 0.01


def test_adapters_are_left_alone_beside_the_merged_model(tiny_model_path: Path, tmp_path: Path) -> None:
    policy = PolicySettings(str(tiny_model_path), lora=LoRASettings(rank=2))
    pairs = str(write_pair_file(tmp_path))
    for _ in range(2):  # the second training keeps what the first has left
        module = ColdStartModule(policy, SFT(), optimizer=adam, schedule=ScheduleSettings("constant", 0.0))
        small_trainer(tmp_path, ExportHF("exported")).fit(module, datamodule=PreferenceDataModule(pairs, batch_size=4))
    for name in ("exported-adapter", "exported-adapter.1"):
        assert {file.name for file in (tmp_path / name).iterdir()} >= {
            "adapter_config.json",
            "adapter_model.safetensors",
        }
    with pytest.raises(ModelNotFound, match=r"a LoRA adapter\. Merged into its model, it is .*exported\."):
        model_source(str(tmp_path / "exported-adapter"))
