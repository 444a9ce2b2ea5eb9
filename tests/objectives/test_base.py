"""Parts of a step's metrics, joined piece by piece and over processes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from specs_lightning.objectives.base import EffectiveSampleSize, JoinedBy, Maximum, Part, Share


def values(parts: dict[str, Part]) -> dict[str, float]:
    return {name.removeprefix("mismatch/"): part.value.item() for name, part in parts.items()}


def test_each_kind_is_joined_in_its_way() -> None:
    def numbers(*values: float) -> list[Tensor]:
        return [torch.tensor(value) for value in values]

    assert Share(*numbers(3, 2)).join(Share(*numbers(1, 2))).value == 1
    assert Maximum(*numbers(3)).join(Maximum(*numbers(1))).value == 3
    size = EffectiveSampleSize(*numbers(2, 4, 1)).join(EffectiveSampleSize(*numbers(1, 1, 1)))
    assert size.value == pytest.approx(9 / (2 * 5))


def test_ranks_are_told_how_to_reduce() -> None:
    """Two ranks with the same part: sums double, a maximum stays."""

    def twice(values: Tensor, joined_by: JoinedBy) -> Tensor:
        return values * 2 if joined_by == "sum" else values

    part = Share(torch.tensor(3), torch.tensor(2)).over_ranks(twice)
    assert (part.total.item(), part.count.item()) == (6, 4)
    assert Maximum(torch.tensor(3)).over_ranks(twice).value == 3
