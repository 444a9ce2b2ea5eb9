"""Format rate, accuracy, length and entropy are means over what is known: torchmetrics' own MeanMetric computes them.

In float64, since its float32 default no longer counts single tokens beyond 2²⁴ of them.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from helpers.metric_shards import mean_of_known
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics import MeanMetric

VALUES = st.lists(st.lists(st.one_of(st.just(math.nan), st.integers(-(2**20), 2**20).map(lambda i: i / 1024))))


@given(VALUES)
def test_it_is_the_mean_of_what_is_known(batches: list[list[float]]) -> None:
    mean = mean_of_known()
    mean.update(math.nan)
    for batch in batches:
        mean.update(torch.tensor(batch))
    known = [Fraction(value) for batch in batches for value in batch if not math.isnan(value)]
    found = mean.compute().item()
    assert found == float(sum(known) / len(known)) if known else math.isnan(found)


def test_float32_would_stop_counting() -> None:
    lengths = [torch.tensor([2**24]), torch.tensor([1]), torch.tensor([1])]
    single, double = MeanMetric(nan_strategy="ignore"), mean_of_known()
    for length in lengths:
        single.update(length)
        double.update(length)
    assert double.compute().item() == (2**24 + 2) / 3
    assert single.compute().item() != double.compute().item()


def test_a_mask_is_a_weight() -> None:
    entropy_NT, mask_NT = torch.tensor([[1.0, 2.0], [4.0, 0.0]]), torch.tensor([[True, True], [True, False]])
    mean = mean_of_known()
    mean.update(entropy_NT, mask_NT)
    assert mean.compute().item() == 7 / 3
