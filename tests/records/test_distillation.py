"""What was distilled, to be looked at."""

from __future__ import annotations

from pathlib import Path

from specs_lightning.records.distillation import PAIRS_PREVIEW, STATISTICS, PairPreview


def test_it_reads_back(tmp_path: Path) -> None:
    pair = PairPreview(
        prompt="p", images=("png",), answer="2", chosen="c", rejected="r", provenance={"judge": {"n": 1}}
    )
    lesson = PairPreview(prompt="p", chosen="c", rejected=None)
    PAIRS_PREVIEW.write(tmp_path, [pair, lesson])
    assert PAIRS_PREVIEW.read(tmp_path) == [pair, lesson]
    STATISTICS.write(tmp_path, {"pairs": 3, "dropped": {"no right sample": 2}, "share": None})
    assert STATISTICS.read(tmp_path) == {"pairs": 3, "dropped": {"no right sample": 2}, "share": None}
