"""Which of a file's columns holds what."""

from __future__ import annotations

from pathlib import Path

import pytest

from specs_lightning.data.columns import find_columns, listed
from specs_lightning.errors import DataError

FILE = Path("q.jsonl")


def test_usual_names_are_found_the_first_that_exists() -> None:
    found = find_columns({}, "generic", FILE, ("prompt", "problem", "answer", "image"))
    assert found == {"question": "problem", "answer": "answer", "images": "image"}


def test_the_schema_comes_before_usual_names_and_the_settings_before_both() -> None:
    existing = ("qid", "pid", "question", "question_type", "answer_type", "answer", "gold", "precision", "image")
    assert find_columns({}, "generic", FILE, existing)["id"] == "qid"
    assert find_columns({}, "mathvista", FILE, existing)["id"] == "pid"
    found = find_columns({"id": "qid", "answer": "gold", "precision": ""}, "mathvista", FILE, existing)
    assert (found["id"], found["answer"]) == ("qid", "gold") and "precision" not in found


def test_a_dot_leads_into_a_column_that_must_be_there() -> None:
    found = find_columns({"answer": "reward_model.ground_truth"}, "generic", FILE, ("question", "reward_model"))
    assert found["answer"] == "reward_model.ground_truth"
    with pytest.raises(DataError, match=r"no column 'other\.gold' for answer; it has question, reward_model"):
        find_columns({"answer": "other.gold"}, "generic", FILE, ("question", "reward_model"))


def test_what_is_missing_is_named_with_what_is_there() -> None:
    with pytest.raises(DataError, match=r"no column with the question; it has q, gold: map one with `columns`"):
        find_columns({}, "generic", FILE, ("q", "gold"))
    with pytest.raises(DataError, match=r"not in the schema mathvista: it has no column '.*', but q, gold"):
        find_columns({}, "mathvista", FILE, ("q", "gold"))


def test_a_file_without_columns_has_none_to_find() -> None:
    assert find_columns({}, "generic", FILE, ()) == {}


def test_many_columns_are_counted_rather_than_listed() -> None:
    assert listed(()) == "none"
    assert listed(tuple(f"c{i}" for i in range(50))).endswith("c39, … (50 in all)")
