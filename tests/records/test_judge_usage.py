"""What judges cost, summed over processes and attempts."""

from __future__ import annotations

from pathlib import Path

from specs_lightning.records.judge_usage import JUDGE, JudgeUsage, summed_by_model


def test_the_lines_of_a_judge_are_summed(tmp_path: Path) -> None:
    JUDGE.append(tmp_path, [JudgeUsage(3, 1, 0, 2, 100, 50, model="large")])
    JUDGE.append(tmp_path, [JudgeUsage(1, model="small", base_url="http://here/v1"), JudgeUsage(1, 1, model="large")])
    assert summed_by_model(JUDGE.read(tmp_path)) == [
        JudgeUsage(4, 2, 0, 2, 100, 50, model="large"),
        JudgeUsage(1, model="small", base_url="http://here/v1"),
    ]
