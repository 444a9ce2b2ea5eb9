"""What others take of a policy has the names, types and shapes of the model's files."""

from __future__ import annotations

from pathlib import Path

from helpers.tiny_policies import sharp_policy

from specs_lightning.policy.loading import LoRASettings


def test_the_layout_is_that_of_the_weights(tiny_model_path: Path) -> None:
    for settings in ({}, {"lora": LoRASettings(rank=2)}, {"dtype": "bfloat16"}):
        policy = sharp_policy(tiny_model_path, **settings)
        sent = [(n, str(w.dtype).removeprefix("torch."), tuple(w.shape)) for n, w in policy.named_weights()]
        assert policy.weight_layout() == sent
