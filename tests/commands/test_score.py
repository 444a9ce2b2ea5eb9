"""Recorded answers come out as an evaluation of ours would have them, and of other questions not at all."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from helpers.recorded_answers import questions, sample, write_predictions, write_samples

from specs_lightning.commands.score import score
from specs_lightning.errors import DataError

GOLDS = ["4", "12", "7 cm", "30"]
SAID = ["It is 4.", "<answer>13</answer>", r"so \boxed{0.07 m}", ""]


def test_the_tables_of_an_evaluation_are_made_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = questions(tmp_path, GOLDS)
    rows = [sample(i, gold, said) for i, (gold, said) in enumerate(zip(GOLDS, SAID, strict=True))]
    samples = write_samples(tmp_path / "1_samples_mine.jsonl", rows)
    base = write_predictions(tmp_path / "B_mine.tsv", [(f"q{i}", gold, "12") for i, gold in enumerate(GOLDS)])
    score(str(samples), data, str(base), str(tmp_path / "out"))
    of_set = json.loads((tmp_path / "out" / "score.json").read_text())["sets"]["data"]
    assert (of_set["n"], of_set["correct"], of_set["unscored"]) == (4, 0.5, {})
    assert "tokens" not in of_set  # which nobody recorded
    lines = (tmp_path / "out" / "score_answers.jsonl").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    assert [(a["prompt_id"], a["text"], a["correct"]) for a in answers] == [
        (f"q{i}", said, right) for i, (said, right) in enumerate(zip(SAID, [1.0, 0.0, 1.0, 0.0], strict=True))
    ]
    said = " ".join(capsys.readouterr().out.split())
    assert "+25.0" in said and "all count as finished" in said  # one of four is right in the base's
    assert "B_mine.tsv" in (tmp_path / "out" / "score.html").read_text()


def test_rows_in_another_order_are_noticed_by_their_golds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = questions(tmp_path, GOLDS)
    turned = write_samples(tmp_path / "a.jsonl", [sample(i, GOLDS[i - 1], "4") for i in range(4)])
    with pytest.raises(DataError, match=r"4 of 4 recorded golds are others .* such as '30', where it has '4' .*order"):
        score(str(turned), data, output=str(tmp_path / "out"))
    few = write_samples(tmp_path / "b.jsonl", [sample(0, "4", "4"), sample(1, "12", "4"), sample(3, "31", "4")])
    with caplog.at_level(logging.WARNING):
        score(str(few), data, output=str(tmp_path / "out"))
    assert "1 of 3 recorded golds are others" in caplog.text and "no answer to 1 of the 4 prompts" in caplog.text
