"""What every metric must do with its state: reset, copy, save, load, and have no value before the first update."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from helpers.metric_shards import empty_metrics, fill
from torch.testing import assert_close

NAMES = sorted(empty_metrics())


def same(left: Any, right: Any) -> None:
    assert_close(left, right, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:.*was called before the ``update`` method.*")
class TestStates:
    def test_nothing_added_is_nan(self, name: str) -> None:
        found = empty_metrics()[name].compute()
        assert all(math.isnan(value) for value in (found.values() if isinstance(found, dict) else [found]))

    def test_a_reset_forgets_and_counts_anew(self, name: str) -> None:
        metrics = fill(empty_metrics())
        before = metrics[name].compute()
        metrics[name].reset()
        found = metrics[name].compute()
        assert all(math.isnan(value) for value in (found.values() if isinstance(found, dict) else [found]))
        same(fill(metrics)[name].compute(), before)

    def test_it_can_be_pickled(self, name: str) -> None:
        metric = fill(empty_metrics())[name]
        same(pickle.loads(pickle.dumps(metric)).compute(), metric.compute())

    def test_its_state_can_be_saved_and_loaded(self, name: str) -> None:
        metric, other = fill(empty_metrics())[name], empty_metrics()[name]
        metric.persistent(True)
        other.load_state_dict(metric.state_dict())
        if name == "generalization_factor":  # its baseline is a setting, not state
            other.baseline = metric.baseline
        same(other.compute(), metric.compute())

    def test_lower_precision_of_the_module_around_it_does_not_reach_it(self, name: str) -> None:
        metric = fill(empty_metrics())[name]
        expected = metric.compute()
        holder = torch.nn.Module()
        holder.metric = metric
        holder.half()
        same(metric.compute(), expected)
        assert metric.dtype == torch.float64 or name == "pass_at_k"
