"""Files as lmms-eval's tracker and VLMEvalKit's inference write them, read and put to their questions."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.recorded_answers import questions, sample, write_predictions, write_samples

from specs_lightning.data.recorded import Recorded, answered, read_recorded
from specs_lightning.data.sources import load_prompts
from specs_lightning.errors import DataError
from specs_lightning.prompts.set_aside import SetAside


def test_responses_are_taken_as_they_were_before_filters(tmp_path: Path) -> None:
    rows = [
        sample(0, "4", "4"),
        sample(1, "5", "B", resps=["<think>so</think> B"]),
        sample(2, "6", ["6", "7"], resps=[["6"], ["7"]]),  # asked twice
        sample(3, "7", [[-1.5, False], [-2.0, True]]),  # by likelihoods: nothing was said
    ]
    set_aside = SetAside()
    found = read_recorded(write_samples(tmp_path / "a_samples_b.jsonl", rows), set_aside)
    assert found == [
        Recorded(0, "", ("4",), "4"),
        Recorded(1, "", ("<think>so</think> B",), "5"),
        Recorded(2, "", ("6", "7"), "6"),
    ]
    assert [row.reason for row in set_aside.rows] == ["no recorded answer: a response is no text but float"]


def test_predictions_go_by_their_index(tmp_path: Path) -> None:
    file = write_predictions(tmp_path / "M_D.tsv", [("q1", "B", 'It says "B",\nso\tB.'), ("q2", "", "7")])
    assert read_recorded(file, SetAside()) == [
        Recorded(None, "q1", ('It says "B",\nso\tB.',), "B"),
        Recorded(None, "q2", ("7",), None),
    ]


def test_a_place_counts_over_all_files_of_a_split(tmp_path: Path) -> None:
    source = questions(tmp_path, ["0", "1", "2", "3"])
    prompts = load_prompts(source, SetAside())
    samples = [Recorded(place, "", (str(place),), None) for place in (3, 0, 9)]
    assert [(prompt.id, one.texts) for prompt, one in answered(prompts, samples, source)] == [
        ("q0", ("0",)),
        ("q3", ("3",)),
    ]
    by_id = [Recorded(None, "q2", ("2",), None)]
    assert [prompt.id for prompt, _ in answered(prompts, by_id, source)] == ["q2"]


def test_what_is_no_such_file_or_of_other_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="PRED_FORMAT=tsv"):
        read_recorded(tmp_path / "M_D.xlsx", SetAside())
    with pytest.raises(DataError, match=r"neither a samples file of lmms-eval .* it has question"):
        read_recorded(write_samples(tmp_path / "a.jsonl", [{"question": "?"}]), SetAside())
    source = questions(tmp_path, ["0", "1", "2"])
    prompts = load_prompts(source, SetAside())
    with pytest.raises(DataError, match=r"are of 17, …, and its are q0, q1, q2, …; map the column with their ids"):
        answered(prompts, [Recorded(None, "17", ("0",), None)], source)
    with pytest.raises(DataError, match="two recorded answers are of one question, 1"):
        answered(prompts, [Recorded(1, "", ("0",), None)] * 2, source)
