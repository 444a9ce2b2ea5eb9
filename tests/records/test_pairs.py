"""Pairs come back from disk as they were written, whole or not at all, and TRL reads them unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.small_runs import scene_pairs, write_pair_file

from specs_lightning.data.pairs import load_pairs
from specs_lightning.groups import Prompt
from specs_lightning.prompts.messages import build_messages
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.pairs import PreferencePair, write_pairs


def without_empty(messages: Any) -> Any:
    """Parquet fills up the parts: an image part has a text of null."""
    return [
        {"role": m["role"], "content": [{k: v for k, v in part.items() if v is not None} for part in m["content"]]}
        for m in messages
    ]


def test_pairs_come_back_as_they_were_written(tmp_path: Path) -> None:
    pairs, set_aside = scene_pairs(), SetAside()
    assert {len(pair.prompt.images) for pair in pairs} == {0, 1, 2}
    write_pairs(pairs, tmp_path / "new" / "pairs.parquet")
    loaded = load_pairs(str(tmp_path / "new" / "pairs.parquet"), set_aside)
    assert not set_aside.rows
    for pair, written in zip(loaded, pairs, strict=True):
        assert (pair.chosen, pair.rejected, pair.provenance) == (written.chosen, written.rejected, written.provenance)
        assert (pair.prompt.id, pair.prompt.images) == (written.prompt.id, written.prompt.images)
        assert without_empty(pair.prompt.messages) == without_empty(written.prompt.messages)


def test_images_on_disk_are_stored_in_the_file(tmp_path: Path) -> None:
    picture = scene_pairs(1)[0].prompt.images[0]
    assert isinstance(picture, bytes)
    (tmp_path / "a.png").write_bytes(picture)
    prompt = Prompt("p", build_messages("How many?", 1), (tmp_path / "a.png",), "2")
    write_pairs([PreferencePair(prompt, "a", "b")], tmp_path / "pairs.parquet")
    (tmp_path / "a.png").unlink()
    assert load_pairs(str(tmp_path / "pairs.parquet"), SetAside())[0].prompt.images == (picture,)


@pytest.mark.parametrize("answer", [None, "2"])
def test_pairs_without_images_and_without_provenance(tmp_path: Path, answer: str | None) -> None:
    prompt = Prompt("p", build_messages("How many?", 0), answer=answer)
    write_pairs([PreferencePair(prompt, "a", "b")], tmp_path / "pairs.parquet")
    (pair,) = load_pairs(str(tmp_path / "pairs.parquet"), SetAside())
    assert (pair.prompt.images, pair.chosen, pair.rejected, pair.provenance) == ((), "a", "b", {})


def test_nothing_is_left_where_writing_fails(tmp_path: Path) -> None:
    write_pair_file(tmp_path, 2)
    before = (tmp_path / "pairs.parquet").read_bytes()
    missing = Prompt("p", build_messages("How many?", 1), (tmp_path / "missing.png",))
    with pytest.raises(FileNotFoundError):
        write_pairs([PreferencePair(missing, "a", "b")], tmp_path / "pairs.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.parquet"]
    assert (tmp_path / "pairs.parquet").read_bytes() == before


@pytest.mark.slow
def test_trl_trains_on_the_file_unchanged(tiny_model_path: Path, tmp_path: Path) -> None:
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    write_pairs(scene_pairs(4), tmp_path / "pairs.parquet")
    data = datasets.Dataset.from_parquet(str(tmp_path / "pairs.parquet"), cache_dir=str(tmp_path / "cache"))
    settings = trl.DPOConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=2,
        per_device_train_batch_size=2,
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, 1.0],
        learning_rate=1e-3,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    trainer = trl.DPOTrainer(model=str(tiny_model_path), args=settings, train_dataset=data)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(1 < loss < 20 for loss in losses)  # ln 2 for the preference, ln 400 or less for a token
