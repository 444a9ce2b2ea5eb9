"""Which model a checkpoint's weights belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from specs_lightning.modules.checkpoint_files import CheckpointError
from specs_lightning.modules.checkpoint_policy import policy_of_checkpoint
from specs_lightning.policy.loading import LoRASettings, PolicySettings

GIVEN = PolicySettings("toy:base", dtype="bfloat16", attention="eager")


def state(**policy: Any) -> dict[str, Any]:
    return {"settings": {"model": {"init_args": {"policy": {"model": "some/model", "lora": None, **policy}}}}}


def test_the_model_and_what_was_trained_of_it_are_the_checkpoints_and_how_it_computes_is_given() -> None:
    lora = {"rank": 3, "alpha": 6, "target_modules": ["q_proj"], "vision": False, "of_a_later_version": 1}
    found = policy_of_checkpoint(Path("c.ckpt"), state(lora=lora, dtype="float32"), GIVEN)
    assert found.model == "some/model" and found.lora == LoRASettings(3, 6, ("q_proj",))
    assert (found.dtype, found.attention) == ("bfloat16", "eager")
    assert policy_of_checkpoint(Path("c.ckpt"), state(dtype="float32"), None).dtype == "float32"


def test_one_without_settings_is_of_the_model_that_is_given() -> None:
    assert policy_of_checkpoint(Path("c.ckpt"), {}, GIVEN) is GIVEN
    with pytest.raises(CheckpointError, match="does not say which model"):
        policy_of_checkpoint(Path("c.ckpt"), {}, None)


def test_where_its_model_is_gone_only_one_of_all_weights_can_be_used(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    assert policy_of_checkpoint(Path("c.ckpt"), state(model=gone), GIVEN).model == "toy:base"
    with pytest.raises(CheckpointError, match="give its new place"):
        policy_of_checkpoint(Path("c.ckpt"), state(model=gone), None)
    with pytest.raises(CheckpointError, match=f"beside the model {gone}, which is not there"):
        policy_of_checkpoint(Path("c.ckpt"), state(model=gone, lora={"rank": 2}), GIVEN)
    with pytest.raises(CheckpointError, match="trained alone"):  # a folder is one of shards
        policy_of_checkpoint(tmp_path, state(model=gone), GIVEN)


def test_what_the_template_is_told_is_what_is_given_or_else_what_it_was_in_training() -> None:
    trained = state(chat_template_kwargs={"enable_thinking": False})
    told = PolicySettings("toy:base", chat_template_kwargs={"enable_thinking": True})
    for given, expected in ((None, False), (GIVEN, False), (told, True)):
        found = policy_of_checkpoint(Path("c.ckpt"), trained, given)
        assert found.chat_template_kwargs == {"enable_thinking": expected}
