"""What all preference objectives have in common."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from helpers.step_batches import batch_of, random_logprobs

from specs_lightning.objectives import (
    DPO,
    IPO,
    ORPO,
    SFT,
    APODown,
    APOZero,
    LengthNormalizedDPO,
    PreferenceObjective,
    SimPO,
)

MENU: list[type[PreferenceObjective]] = [DPO, LengthNormalizedDPO, IPO, SimPO, ORPO, APOZero, APODown]


@pytest.mark.parametrize("kind", MENU)
def test_the_supervised_term_is_that_of_sft_by_its_weight(kind: Any) -> None:
    pairs = batch_of([[3, 2], [4, 1]])
    logprobs_NT = random_logprobs(pairs, 1)
    pairs.reference_logprobs_N = logprobs_NT.sum(-1) + 1
    two = pairs.lengths_N.new_tensor(2)
    supervised = SFT()(logprobs_NT[0::2], pairs.select([0, 2]), two).loss
    without, with_it = (kind(sft_weight=weight)(logprobs_NT, pairs, two).loss for weight in (0.0, 3.0))
    assert supervised > 0
    torch.testing.assert_close(with_it - without, 3 * supervised)


@pytest.mark.parametrize("kind", MENU)
def test_groups_must_be_pairs(kind: Any) -> None:
    batch = batch_of([[1], [1, 1, 1]])
    with pytest.raises(ValueError, match="pair"):
        kind()(random_logprobs(batch, 0), batch, torch.tensor(1))


@pytest.mark.parametrize("kind", MENU)
def test_a_reference_is_asked_for_where_it_is_needed_and_not_used_where_not(kind: Any) -> None:
    batch = batch_of([[1, 1]])
    logprobs_NT = random_logprobs(batch, 0)
    if kind.needs_reference:
        with pytest.raises(ValueError, match=f"{kind.__name__} needs the reference"):
            kind()(logprobs_NT, batch, torch.tensor(1))
    else:
        assert kind()(logprobs_NT, batch, torch.tensor(1)).loss.isfinite()


@pytest.mark.parametrize("kind", MENU)
def test_settings_out_of_range(kind: Any) -> None:
    scale = next(field.name for field in fields(kind) if not field.name.startswith("sft"))
    for name, value in ((scale, 0.0), (scale, -1.0), ("sft_weight", -0.1)):
        with pytest.raises(ValueError, match=f"{name} must be"):
            kind(**{name: value})
