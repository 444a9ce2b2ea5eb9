"""A training on two processes, with servers, a judge and rounds drawn ahead, in which whatever can fail does so.

`benchmarks/soak.py` is its long form.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.faults import Faults

from benchmarks.soak import soak


@pytest.mark.long
def test_no_group_is_lost_or_doubled_whatever_fails(tmp_path: Path) -> None:
    found = soak(tmp_path, 0.0, seed=1, rounds=4, most=1, share=0.3, every_s=0.5, lossy=False, strikes=1)
    (training,) = found.trainings
    assert found.faults.total() >= 3 and training.attempts >= 2, found
    assert (found.lost, found.doubled, found.steps) == (0, 0, 4)
    assert found.differing == [] and found.left_behind == []


def test_faults_follow_from_their_seed() -> None:
    def drawn(seed: int) -> list[str | None]:
        faults = Faults(seed, share=0.5)
        return [faults.draw(["a", "b"]) for _ in range(50)]

    assert drawn(1) == drawn(1) != drawn(2) and set(drawn(1)) == {"a", "b", None}
