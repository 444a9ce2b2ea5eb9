"""Pairs of others are read in both ways of writing them, and rows that are none are set aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from specs_lightning.data import PreferenceDataModule
from specs_lightning.data.pairs import PairSource, load_pairs
from specs_lightning.data.schemas import SchemaError
from specs_lightning.errors import DataError
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.settings.hints import HintingParser


def reasons(set_aside: SetAside) -> dict[str | int, str]:
    return {row.row: row.reason.partition(": ")[0] for row in set_aside.rows}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


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

    def test_a_message_needs_no_list_around_it(self, tmp_path: Path) -> None:
        prompt = [{"role": "user", "content": "Q?"}]
        path = self.write(
            tmp_path,
            [
                {"prompt": prompt, "chosen": answer("x"), "rejected": answer("y")},
                {"prompt": prompt, "chosen": {"from": "gpt", "value": "x"}, "rejected": "y"},
                {"prompt": prompt, "chosen": {"role": "user", "content": "x"}, "rejected": answer("y")},
            ],
        )
        set_aside = SetAside()
        assert [(pair.chosen, pair.rejected) for pair in load_pairs(path, set_aside)] == [("x", "y")] * 2
        assert reasons(set_aside) == {3: "chosen is not one non-empty assistant message"}

    def test_a_pair_of_one_text_is_set_aside(self, tmp_path: Path) -> None:
        good = {"prompt": "How many?", "chosen": "two", "rejected": "three"}
        same = {**good, "rejected": [answer(" two\n")]}
        set_aside = SetAside()
        assert len(load_pairs(self.write(tmp_path, [good, same]), set_aside)) == 1
        assert reasons(set_aside) == {2: "chosen and rejected are the same text"}

    def test_half_a_character_in_a_response_is_set_aside(self, tmp_path: Path) -> None:
        good = {"prompt": "How many?", "chosen": "two", "rejected": "three"}
        set_aside = SetAside()
        load_pairs(self.write(tmp_path, [good, {**good, "chosen": [answer("\ud83d")]}]), set_aside)
        assert reasons(set_aside) == {2: "half a character (a lone surrogate) in the text"}

    def test_a_missing_column_is_named(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, [{"prompt": "How many?", "chosen": "two", "worse": "three"}])
        with pytest.raises(DataError, match=r"no column rejected: .*it has prompt, chosen, worse"):
            load_pairs(path, SetAside())

    @pytest.mark.parametrize("column", ["chosen", "completion"])
    def test_demonstrations_need_no_rejected_side(self, tmp_path: Path, column: str) -> None:
        path = self.write(tmp_path, [{"prompt": "How many?", column: [answer("two")]}])
        assert [(pair.chosen, pair.rejected) for pair in load_pairs(path, SetAside(), sides=1)] == [("two", None)]
        with pytest.raises(DataError, match=r"no column .*rejected: .*SFT does without rejected"):
            load_pairs(path, SetAside(), sides=2)

    def test_a_rejected_side_that_is_there_is_read_all_the_same(self, tmp_path: Path) -> None:
        """The control by SFT is on the rows that DPO is on."""
        good = {"prompt": "How many?", "chosen": "two", "rejected": "three"}
        rows = [good, {**good, "rejected": "two"}, {**good, "rejected": 5}, {**good, "rejected": None}]
        set_aside = SetAside()
        pairs = load_pairs(self.write(tmp_path, rows), set_aside, sides=1)
        assert [pair.rejected for pair in pairs] == ["three", None]
        assert list(reasons(set_aside)) == [2, 3]

    def test_without_a_chosen_side_there_is_no_demonstration(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, [{"prompt": "How many?", "answer": "two"}])
        with pytest.raises(DataError, match=r"no column completion: demonstrations need prompt and chosen"):
            load_pairs(path, SetAside(), sides=1)

    def test_a_file_without_one_usable_pair_says_why(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, [{"prompt": "How many?", "chosen": "", "rejected": "three"}] * 2)
        with pytest.raises(DataError, match=r"no usable pair[\s\S]*2 x chosen is not one non-empty"):
            load_pairs(path, SetAside())


class TestSource:
    @pytest.mark.parametrize(
        ("given", "source"),
        [
            (["--data.train=a.jsonl"], PairSource("a.jsonl")),
            (["--data.train={path: a.jsonl, schema: trl}"], PairSource("a.jsonl", "trl")),
            (
                ["--data.train.path=a.jsonl", "--data.train.image_root=images"],
                PairSource("a.jsonl", image_root="images"),
            ),
        ],
    )
    def test_settings_name_a_path_or_say_more(self, given: list[str], source: PairSource) -> None:
        parser = HintingParser(exit_on_error=False)
        parser.add_class_arguments(PreferenceDataModule, "data")
        data = parser.instantiate(parser.parse_args(given)).data
        assert (data.source, data.train) == (source, source.path)

    def test_a_schema_that_does_not_exist_is_refused_at_once(self) -> None:
        with pytest.raises(SchemaError, match="unknown schema 'sharegpt'"):
            PairSource("a.jsonl", "sharegpt")
