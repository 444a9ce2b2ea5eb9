"""What truncation leaves of a distribution, against cutting by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.truncated import cut

from specs_lightning.rollout import SamplingSettings
from specs_lightning.rollout.truncation import kept_logmass, truncation_of

SETTINGS: list[dict[str, Any]] = [
    {"top_p": 0.7},
    {"top_p": 0.01},
    {"top_k": 3},
    {"top_k": 100},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"min_p": 0.05, "top_k": 12, "top_p": 0.9},
    {"min_p": 0.3, "top_k": 3, "top_p": 0.99},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_leaves_what_cutting_by_hand_leaves(settings: dict[str, Any]) -> None:
    sampling = SamplingSettings(**settings)
    truncation = truncation_of(sampling)
    assert truncation is not None
    logits_MV = 2 * torch.randn((50, 40), generator=torch.Generator().manual_seed(0))
    before_MV = logits_MV.clone()
    left_MV, kept_M = truncation(logits_MV), kept_logmass(logits_MV, truncation)
    assert torch.equal(logits_MV, before_MV)
    for logits_V, left_V, kept in zip(logits_MV, left_MV, kept_M.tolist(), strict=True):
        whole = dict(enumerate(logits_V.double().softmax(-1).tolist()))
        expected = cut(whole, sampling)
        assert set(left_V.isfinite().nonzero()[:, 0].tolist()) == expected.keys()
        assert left_V.softmax(-1)[list(expected)].tolist() == pytest.approx(list(expected.values()), abs=1e-6)
        assert kept == pytest.approx(math.log(sum(whole[i] for i in expected)), abs=1e-5)


def test_the_order_is_that_of_vllm() -> None:
    """Of 0.4, 0.3, 0.2 and 0.1 the first two are 0.7 of the whole, and more of what `min_p` or `top_k` leaves."""
    logits_1V = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()

    def left(**settings: Any) -> int:
        truncation = truncation_of(SamplingSettings(**settings))
        assert truncation is not None
        return int(truncation(logits_1V).isfinite().sum())

    assert left(top_p=0.75) == 3
    assert left(top_p=0.75, top_k=3) == left(top_p=0.75, min_p=0.4) == 2


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.0, "top_p": 0.5, "top_k": 3, "min_p": 0.1}])
def test_where_nothing_is_cut_there_is_none(settings: dict[str, Any]) -> None:
    assert truncation_of(SamplingSettings(**settings)) is None
