"""What is not there yet is assumed, and every assumption is said, once and with the setting that tells better."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.small_runs import write_pair_file, write_prompt_file

from specs_lightning.data import PreferenceDataModule, PromptSource
from specs_lightning.errors import DataError
from specs_lightning.plan.known import Known, models_named
from specs_lightning.plan.settings import PlanSettings

MODEL = "toy:base"


def test_data_that_is_not_there_has_assumed_sizes_no_longer_than_is_allowed() -> None:
    known = Known(PlanSettings())
    groups = known.prompts(PromptSource("data/train", limit=500), MODEL, longest=300)
    assert groups.rows == 500 and len(groups.prompts[0]) == 300
    assert [note.partition(":")[0] for note in known.taken()] == ["data/train", "data/train"]
    assert known.taken() == []


def test_what_is_said_is_taken(tmp_path: Path) -> None:
    known = Known(PlanSettings(rows=70, prompt_tokens=30, completion_tokens=11))
    groups = known.pairs_of(PreferenceDataModule(str(tmp_path / "pairs.parquet")), 2, MODEL)
    assert (groups.rows, len(groups.prompts[0]), groups.completions) == (70, 30, ((11, 11),))
    assert known.taken() == []


def test_data_that_is_there_is_measured(tmp_path: Path) -> None:
    known = Known(PlanSettings())
    groups = known.prompts(PromptSource(str(write_prompt_file(tmp_path))), MODEL)
    pairs = known.pairs_of(PreferenceDataModule(str(write_pair_file(tmp_path))), 2, MODEL)
    assert known.taken() == []
    assert len({len(prompt) for prompt in groups.prompts}) > 1 and len(set(pairs.completions)) > 1


def test_data_that_is_there_is_counted_where_the_models_processor_is_not(tmp_path: Path) -> None:
    known, absent = Known(PlanSettings()), "runs/of/none/model"
    file = write_prompt_file(tmp_path)
    assert known.prompts(PromptSource(str(file)), absent).rows == len(file.read_text().splitlines())
    (note,) = known.taken()
    assert "--prompt_tokens" in note


def test_data_that_is_there_and_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"question": ""}\n')
    with pytest.raises(DataError):
        Known(PlanSettings()).prompts(PromptSource(str(file)), MODEL)


def test_a_model_that_is_not_there_has_the_shape_of_the_one_beneath_it() -> None:
    files = [{"model": {"init_args": {"policy": {"model": name}}}} for name in ("runs/a/b/model", "Qwen/Qwen2.5-VL-7B")]
    files.insert(1, {"model": {"init_args": {"policy": {"model": "runs/c/d/model"}}}})  # nor is this one there
    known = Known(PlanSettings(), models_named([{}, *files]))
    assert known.source("runs/a/b/model") == "Qwen/Qwen2.5-VL-7B"
    (note,) = known.taken()
    assert "--shape" in note
    assert known.source("Qwen/Qwen2.5-VL-7B") == "Qwen/Qwen2.5-VL-7B" and known.taken() == []


def test_a_shape_that_was_asked_for_is_never_replaced() -> None:
    known = Known(PlanSettings(shape="runs/of/none"), ("Qwen/Qwen2.5-VL-7B",))
    assert known.source("runs/a/b/model") == "runs/of/none" and known.taken() == []
