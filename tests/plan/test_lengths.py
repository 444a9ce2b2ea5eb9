"""Rows and image tokens are counted as they are packed."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.tiny_policies import long_batch

from specs_lightning.plan.lengths import image_tokens, row_lengths
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.policy.shared_prefix import pack_rows


def test_rows_with_one_completion_each_repeat_the_images(tiny_model_path: Path) -> None:
    policy = Policy(PolicySettings(str(tiny_model_path)))
    token, batch = policy.model.config.image_token_id, long_batch(policy)
    assert image_tokens(batch, False, token) == 4 * image_tokens(batch, True, token) > 0


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_the_rows_of_a_micro_batch_are_those_that_are_packed(tiny_model_path: Path, shared_prefix: bool) -> None:
    policy = Policy(PolicySettings(str(tiny_model_path)))
    batch = long_batch(policy)
    packed, _ = pack_rows(batch, policy.positions, shared_prefix=shared_prefix)
    rows = row_lengths(batch, shared_prefix)
    assert (len(rows), max(rows)) == tuple(packed["input_ids"].shape)
