"""Pairs come back from disk as they were written, and rows that are none are set aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.small_runs import scene_pairs, write_pair_file

from specs_lightning.data.pairs import load_pairs
from specs_lightning.data.tables import DataError
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


def reasons(set_aside: SetAside) -> dict[str | int, str]:
    return {row.row: row.reason.partition(": ")[0] for row in set_aside.rows}


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


class TestForeignFiles:
    def write(self, folder: Path, rows: list[Any]) -> str:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / "pairs.jsonl").write_text("\n".join(lines))
        return str(folder / "pairs.jsonl")

    def test_strings_and_messages_are_both_read(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path,
            [
                {"prompt": "How many?", "chosen": "two", "rejected": "three"},
                {
                    "prompt": [{"role": "user", "content": "How many?"}],
                    "chosen": [{"role": "assistant", "content": "two"}],
                    "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "three"}]}],
                },
            ],
        )
        first, second = load_pairs(path, SetAside())
        assert first.prompt.messages == second.prompt.messages
        assert (first.chosen, first.rejected) == (second.chosen, second.rejected) == ("two", "three")
        assert first.prompt.text == "How many?"  # and no instruction beside it

    def test_rows_that_are_no_pairs_are_set_aside(self, tmp_path: Path) -> None:
        good = {"prompt": "How many?", "chosen": "two", "rejected": "three"}
        path = self.write(
            tmp_path,
            [
                good,
                "{",
                {**good, "chosen": ""},
                {**good, "rejected": None},
                {**good, "rejected": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]},
                {**good, "chosen": ["two"]},
                {**good, "chosen": [{"role": "assistant", "content": ["two"]}]},
                {**good, "prompt": ""},
                {**good, "image": "missing.png"},
                {**good, "answer": "", "answer_type": "of no known kind"},
            ],
        )
        set_aside = SetAside()
        assert len(load_pairs(path, set_aside)) == 2
        no_message = "is not one non-empty assistant message"
        assert reasons(set_aside) == {
            2: "malformed JSON",
            3: f"chosen {no_message}",
            4: f"rejected {no_message}",
            5: f"rejected {no_message}",
            6: f"chosen {no_message}",
            7: f"chosen {no_message}",
            8: "missing question",
            9: "missing image file",
        }

    def test_a_missing_column_is_named(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, [{"prompt": "How many?", "chosen": "two", "worse": "three"}])
        with pytest.raises(DataError, match=r"no column rejected: .*it has prompt, chosen, worse"):
            load_pairs(path, SetAside())

    def test_a_file_without_one_usable_pair_says_why(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, [{"prompt": "How many?", "chosen": "", "rejected": "three"}] * 2)
        with pytest.raises(DataError, match=r"no usable pair[\s\S]*2 x chosen is not one non-empty"):
            load_pairs(path, SetAside())


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
