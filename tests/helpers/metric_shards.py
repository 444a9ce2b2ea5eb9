"""Every metric fed with one rank's share of the same answers; importable, since each rank is a process of its own."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from specs_lightning.metrics import GeneralizationFactor, PassAtK, RolloutBranchingFactor, StuckRate

NAN = math.nan
PROMPTS = 7


def mean_of_known() -> MeanMetric:
    """As docs/metrics.md recommends it: no class of this package."""
    mean = MeanMetric(nan_strategy="ignore")
    mean.set_dtype(torch.float64)
    return mean


def empty_metrics() -> dict[str, Metric]:
    return {
        "generalization_factor": GeneralizationFactor({"boxed": 1.0, "json": 3.0}),
        "pass_at_k": PassAtK((1, 2, 4)),
        "rollout_branching_factor": RolloutBranchingFactor(),
        "stuck_rate": StuckRate(),
        "mean": mean_of_known(),
    }


def fill(metrics: dict[str, Metric], rank: int = 0, world_size: int = 1) -> dict[str, Metric]:
    """Add this rank's share. Shares differ in size, and of some things rank 1 has none."""
    draw = torch.Generator().manual_seed(0)
    mine = slice(rank, None, world_size)
    factor = metrics["generalization_factor"]
    assert isinstance(factor, GeneralizationFactor)
    for is_base in (True, False):
        factor.reset()
        for name in factor.names:
            scores = torch.rand(PROMPTS, 2, generator=draw).round()
            scores[3, 1] = NAN
            ids = [str(i) for i in range(PROMPTS) for _ in range(2)]
            if name == "json":  # on rank 0 alone, and without ids
                if rank == 0:
                    factor.update(name, scores)
            else:
                flat = scores.flatten()[mine]
                factor.update(name, flat, ids[mine])
        if is_base:
            factor.keep_as_baseline()
    correct_PG = torch.rand(PROMPTS, 5, generator=draw).round()
    correct_PG[1, 2:] = NAN
    metrics["pass_at_k"].update(correct_PG[mine])
    sizes_NT = torch.randint(1, 9, (PROMPTS, 6), generator=draw).float()
    mask_NT = torch.arange(6) < torch.arange(PROMPTS)[:, None]
    if rank == 0:
        metrics["rollout_branching_factor"].update(sizes_NT, mask_NT)
    answers = [["1", "1"], ["1", "2"], [None, None], ["3", "3"], ["4"], ["5", "5"], ["6", "6"]]
    right = [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0], [NAN, NAN], [0.0, NAN]]
    metrics["stuck_rate"].update(answers[mine], right[mine])
    metrics["mean"].update(torch.tensor([1.0, NAN, 0.0, 2.0, 5.0, NAN, 0.25])[mine])
    return metrics


def results(metrics: dict[str, Metric]) -> dict[str, Any]:
    found: dict[str, Any] = {name: metric.compute() for name, metric in metrics.items()}
    factor = metrics["generalization_factor"]
    assert isinstance(factor, GeneralizationFactor)
    found["scores"], found["baseline"] = factor.scores(), factor.baseline
    found["intervals"] = {name: tuple(interval) for name, interval in factor.intervals(resamples=100).items()}
    return found


def one_rank(rank: int, world_size: int, folder: Path) -> None:
    """Measure a share together with the other ranks, and write what this one found, asked twice."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", store, timedelta(seconds=60), world_size, rank)
    metrics = fill(empty_metrics(), rank, world_size)
    own = own_states(metrics)
    found = [results(metrics), results(metrics)]
    nothing = GeneralizationFactor({"boxed": 1.0})
    if rank == 0:
        nothing.update("id", torch.ones(2))
    torch.save((found, own == own_states(metrics), nothing.scores()["id"]), folder / f"{rank}.pt")
    dist.destroy_process_group()


def own_states(metrics: dict[str, Metric]) -> list[str]:
    """What each metric holds by itself: gathering must not add to it."""
    states = [state for metric in metrics.values() for state in metric.metric_state.values()]
    return [
        repr(state.tolist() if isinstance(state, Tensor) else [part.tolist() for part in state]) for state in states
    ]
