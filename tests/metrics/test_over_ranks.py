"""Two processes that share the answers find what one process finds that has them all."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest
import torch
from helpers.metric_shards import empty_metrics, fill, one_rank, results
from torch.testing import assert_close

SECONDS = 120


@pytest.mark.slow
def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=one_rank, args=(rank, 2, tmp_path)) for rank in range(2)]
    deadline = time.monotonic() + SECONDS
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(max(0.0, deadline - time.monotonic()))
        assert [process.exitcode for process in ranks] == [0, 0]
    finally:
        for process in ranks:
            process.kill()
    expected = results(fill(empty_metrics()))
    for rank in range(2):
        (first, again), own_state_kept, score = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        # Equal up to the order of float64 sums.
        assert_close(first, expected, rtol=1e-14, atol=1e-15, equal_nan=True)
        assert_close(again, first, rtol=0, atol=0, equal_nan=True)
        assert own_state_kept
        assert score == 1.0  # the other rank had nothing to add
