"""What judges cost, summed over processes and attempts."""

from __future__ import annotations

from pathlib import Path

from specs_lightning.records.judge_usage import JUDGE, JudgeUsage, summed_by_model


def test_the_lines_of_a_judge_are_summed(tmp_path: Path) -> None:
    JUDGE.append(tmp_path, [JudgeUsage("large", None, 3, 1, 0, 2, 100, 50)])
    JUDGE.append(tmp_path, [JudgeUsage("small", "http://here/v1", 1), JudgeUsage("large", None, 1, 1)])
    assert summed_by_model(JUDGE.read(tmp_path)) == [
        JudgeUsage("large", None, 4, 2, 0, 2, 100, 50),
        JudgeUsage("small", "http://here/v1", 1),
    ]
