"""What a comparison found, read back for the terminal's table."""

from __future__ import annotations

from pathlib import Path

import pytest

from specs_lightning.records.comparison import COMPARISON, Against, ComparisonRecord, ComparisonRow
from specs_lightning.records.record import DamagedRecord
from specs_lightning.statistics.intervals import Estimate
from specs_lightning.statistics.seeds import Difference


def test_it_reads_back(tmp_path: Path) -> None:
    figures = {"solved_id": Estimate(0.5, 2, (0.4, 0.6)), "solved_ood": Estimate(0.5, 1, None)}
    against = {"solved_id": Against(Difference(-0.1, 2, None, None), 0.25, 20)}
    row = ComparisonRow("dpo", ("sft",), (0, 1), figures, 20, {"solved_id": {0: 0.4, 1: 0.6}}, against, 3.5)
    found = ComparisonRecord({"dpo": {0: "runs/dpo"}}, {"rl, seed 1": "no pairs"}, {"final": (row,)})
    COMPARISON.write(tmp_path, found)
    assert COMPARISON.read(tmp_path) == found


def test_a_damaged_one_is_named(tmp_path: Path) -> None:
    (tmp_path / COMPARISON.name).write_text('{"stages": {"final": [{"experiment": "dpo"}]}}')
    with pytest.raises(DamagedRecord, match=r"comparison\.json is damaged \(stages\.final\.0\.alike: Field required\)"):
        COMPARISON.read(tmp_path)
