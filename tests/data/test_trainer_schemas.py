"""Files as verl, EasyR1, TRL, LLaMA-Factory and ms-swift have them, built with their columns and quirks."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature

from specs_lightning.data.columns import recognised
from specs_lightning.data.pairs import PairSource, load_pairs
from specs_lightning.data.sources import DataError, PromptSource, load_prompts
from specs_lightning.groups import Prompt
from specs_lightning.prompts.set_aside import SetAside

SCENE = PIL.Image.new("RGB", (8, 8), "red")
ROLE = {"role": Value("string"), "content": Value("string")}


def png() -> bytes:
    file = io.BytesIO()
    SCENE.save(file, "PNG")
    return file.getvalue()


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def told(who: str, text: str) -> dict[str, str]:
    return {"from": who, "value": text}


def load(path: Path, **settings: Any) -> tuple[list[Prompt], list[str]]:
    set_aside = SetAside()
    prompts = load_prompts(PromptSource(str(path), add_instruction=False, **settings), set_aside)
    return prompts, [row.reason for row in set_aside.rows]


def pairs(path: Path, sides: int = 2, **settings: Any) -> tuple[list[tuple[str, str, str | None]], list[str]]:
    set_aside = SetAside()
    found = load_pairs(PairSource(str(path), **settings), set_aside, sides)
    return [(pair.prompt.text, pair.chosen, pair.rejected) for pair in found], [row.reason for row in set_aside.rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(png())
    return tmp_path


def lines(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def verl_row(index: int, **values: Any) -> dict[str, Any]:
    """As verl's examples make rows of Geometry3K."""
    row = {"data_source": "hiyouga/geometry3k", "prompt": [said("user", "<image>Find x. Answer in \\boxed{}.")]}
    row |= {"images": [SCENE], "ability": "math", "reward_model": {"style": "rule", "ground_truth": "3"}}
    extra = {"split": "train", "index": index, "answer": "3", "question": "<image>Find x.", "need_tools_kwargs": False}
    return row | {"extra_info": extra} | values


class TestVerl:
    def write(self, folder: Path, rows: list[dict[str, Any]]) -> Path:
        features = Features(
            {
                "data_source": Value("string"),
                "prompt": List(ROLE),
                "images": List(ImageFeature()),
                "ability": Value("string"),
                "reward_model": {"style": Value("string"), "ground_truth": Value("string")},
                "extra_info": {
                    **{name: Value("string") for name in ("split", "answer", "question")},
                    "index": Value("int64"),
                    "need_tools_kwargs": Value("bool"),
                },
            }
        )
        Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")
        return folder / "train.parquet"

    @pytest.mark.parametrize("schema", ["verl", "auto"])
    def test_a_parquet_file_gives_prompts_golds_and_images(self, folder: Path, schema: str) -> None:
        rows = [verl_row(0), verl_row(0, images=[], prompt=[said("system", "Think."), said("user", "2+2?")])]
        (first, second), reasons = load(self.write(folder, rows), schema=schema)
        assert (first.answer, len(first.images), reasons) == ("3", 1, [])
        assert [part["type"] for part in first.messages[0]["content"]] == ["image", "text"]
        assert [message["role"] for message in second.messages] == ["system", "user"]
        assert first.metadata["data_source"] == "hiyouga/geometry3k"  # what its reward functions take
        assert first.metadata["reward_model"]["ground_truth"] == "3" and first.metadata["extra_info"]["index"] == 0
        assert first.id != second.id  # although their index is one

    def test_what_needs_more_than_one_answer_is_set_aside(self, folder: Path) -> None:
        rows = [verl_row(0), verl_row(1), verl_row(2, reward_model={"style": "model", "ground_truth": ""})]
        rows[1]["extra_info"] = rows[1]["extra_info"] | {"need_tools_kwargs": True}
        _, reasons = load(self.write(folder, rows))
        assert [reason.partition(":")[0] for reason in reasons] == ["prompt that needs tools", "empty gold answer"]

    def test_an_image_may_be_a_place_and_a_video_none(self, folder: Path) -> None:
        rows: list[dict[str, Any]] = [verl_row(0, images=[{"image": f"file://{folder}/images/1.png"}])]
        rows += [
            verl_row(1, images=[{"path": "images/1.png", "bytes": None}]),
            verl_row(2, images=[], videos=["a.mp4"]),
        ]
        found, reasons = load(lines(folder / "a.jsonl", rows))
        assert [len(prompt.images) for prompt in found] == [1, 1]
        assert reasons == ["videos, only images and text are read"]

    def test_orsta_is_not_taken_for_plain_verl(self, folder: Path) -> None:
        gold = {"ground_truth": "[]", "verifier": "detection"}
        with pytest.raises(DataError, match="as the schema orsta_47k reads it"):
            load(lines(folder / "a.jsonl", [verl_row(0, images=[], reward_model=gold)]))


@pytest.mark.parametrize("schema", ["easyr1", "auto"])
def test_easyr1s_problems_are_read_with_and_without_images(folder: Path, schema: str) -> None:
    features = Features({"problem": Value("string"), "answer": Value("string"), "images": List(ImageFeature())})
    rows = [{"problem": "<image>Find x.", "answer": "3", "images": [SCENE]}]
    rows += [{"problem": "2+2?", "answer": "4", "images": []}]
    Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")
    found, _ = load(folder / "train.parquet", schema=schema)
    assert [(prompt.answer, len(prompt.images)) for prompt in found] == [("3", 1), ("4", 0)]
    row = {"problem": "<video>?", "answer": "3", "videos": ["a.mp4"]}
    with pytest.raises(DataError, match="videos, only images"):
        load(lines(folder / "a.jsonl", [row]), schema="easyr1")


class TestTRL:
    @pytest.mark.parametrize("schema", ["trl", "auto"])
    def test_the_solution_is_the_gold(self, folder: Path, schema: str) -> None:
        """As its GRPO example for images makes rows: parts in the messages, one image in a column."""
        asked = [said("system", "Think."), {"role": "user", "content": [{"type": "image"}, text("Find x.")]}]
        rows = [{"prompt": asked, "solution": "$\\frac{1}{3}$", "image": "images/1.png"}]
        rows += [{"prompt": [said("user", "Q?")], "solution": "<answer> 3 </answer>", "image": None}]
        (first, second), _ = load(lines(folder / "a.jsonl", rows), schema=schema)
        assert (first.answer, len(first.images), second.answer) == ("$\\frac{1}{3}$", 1, "3")
        assert [message["role"] for message in first.messages] == ["system", "user"]

    def test_an_answer_beside_a_worked_solution_is_not_passed_over(self, folder: Path) -> None:
        row = {"prompt": "2+2?", "solution": "Two and two make 4.", "answer": "4"}
        assert load(lines(folder / "a.jsonl", [row]))[0][0].answer == "4"

    def test_pairs_of_messages_with_images(self, folder: Path) -> None:
        """As RLAIF-V is for it: every content in parts, parquet's missing keys None."""
        part = {"type": Value("string"), "text": Value("string")}
        turn = List({"role": Value("string"), "content": List(part)})
        features = Features({"prompt": turn, "chosen": turn, "rejected": turn, "images": List(ImageFeature())})
        user = {"role": "user", "content": [{"type": "image", "text": None}, text("How many?")]}
        sides = {name: [{"role": "assistant", "content": [text(name)]}] for name in ("chosen", "rejected")}
        rows = [{"prompt": [user], "images": [SCENE], **sides}]
        Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")
        assert pairs(folder / "train.parquet") == ([("How many?", "chosen", "rejected")], [])
        assert pairs(folder / "train.parquet", schema="trl") == ([("How many?", "chosen", "rejected")], [])

    def test_an_implicit_prompt_is_what_both_sides_begin_with(self, folder: Path) -> None:
        asked = [said("user", "Sky?"), said("assistant", "Blue."), said("user", "Sure?")]
        row = {"chosen": [*asked, said("assistant", "Yes.")], "rejected": [*asked, said("assistant", "No.")]}
        texts = {"chosen": "Sky? Blue.", "rejected": "Sky? Green."}
        found, reasons = pairs(lines(folder / "a.jsonl", [row, texts]))
        assert [side[1:] for side in found] == [("Yes.", "No.")] and found[0][0].endswith("Sure?")
        assert [reason.partition(":")[0] for reason in reasons] == ["pair without a prompt"]

    def test_a_bad_completion_is_no_demonstration(self, folder: Path) -> None:
        rows = [{"prompt": "Sky?", "completion": "Blue.", "label": True}]
        rows += [{"prompt": "Sky?", "completion": "Green.", "label": False}]
        found, reasons = pairs(lines(folder / "a.jsonl", rows), sides=1)
        assert found == [("Sky?", "Blue.", None)]
        assert reasons == ["answer that is marked as a bad one: its label is false"]


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


class TestLLaMAFactory:
    def write(self, folder: Path, rows: list[dict[str, Any]]) -> Path:
        (folder / "data.json").write_text(json.dumps(rows, indent=2))
        return folder / "data.json"

    @pytest.mark.parametrize("schema", ["llama_factory", "auto"])
    def test_pairs_of_sharegpt(self, folder: Path, schema: str) -> None:
        row = {"conversations": [told("human", "<image>How many?")], "images": ["images/1.png"], "system": "Count."}
        row |= {"chosen": told("gpt", "Two."), "rejected": told("gpt", "Three.")}
        path = self.write(folder, [row])
        assert pairs(path, schema=schema) == ([("Count.\nHow many?", "Two.", "Three.")], [])
        (pair,) = load_pairs(PairSource(str(path), schema), SetAside())
        assert len(pair.prompt.images) == 1
        assert [message["role"] for message in pair.prompt.messages] == ["system", "user"]

    @pytest.mark.parametrize("schema", ["llama_factory", "auto"])
    def test_demonstrations_in_both_of_its_forms(
        self, folder: Path, schema: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        share = [told("human", "<image>Who?"), told("gpt", "Kane.")]
        openai = [
            said("user", "<image>Who?"),
            said("assistant", "Kane."),
            said("user", "Why?"),
            said("assistant", "So."),
        ]
        with caplog.at_level(logging.WARNING):
            found, _ = pairs(
                self.write(folder, [{"conversations": share, "images": ["images/1.png"]}]), 1, schema=schema
            )
            assert found == [("Who?", "Kane.", None)] and not caplog.records
            found, _ = pairs(self.write(folder, [{"messages": openai, "images": ["images/1.png"]}]), 1, schema=schema)
        assert found[0][1:] == ("So.", None) and found[0][0].endswith("Why?")
        assert "earlier answers of 1 demonstrations are context" in caplog.text

    def test_what_is_no_single_answer_to_images_is_set_aside(self, folder: Path) -> None:
        asked = [told("human", "Who?"), told("gpt", "Kane.")]
        rows: list[dict[str, Any]] = [{"conversations": asked}]
        rows += [{"conversations": [told("human", "Q?"), told("function_call", "{}"), told("observation", "4")]}]
        rows += [{"conversations": asked, "videos": ["a.mp4"]}, {"conversations": asked, "tools": "[…]"}]
        rows += [{"conversations": asked, "kto_tag": False}, {"conversations": [told("gpt", "Kane.")]}]
        rows += [{"conversations": asked, "chosen": told("gpt", "a"), "rejected": told("gpt", "b")}]
        rows += [{"conversations": asked[:1]}, {"conversations": "Who?"}]
        found, reasons = pairs(self.write(folder, rows), 1, schema="llama_factory")
        assert found == [("Who?", "Kane.", None)]
        assert sorted(reason.partition(":")[0] for reason in reasons) == [
            "answer that is marked as a bad one",
            "chosen is not one non-empty assistant message",
            "conversation that ends with an answer beside chosen",
            "messages are not a list",
            "messages without one of the user",
            "tools, only images and text are read",
            "turn of a tool",
            "videos, only images and text are read",
        ]

    def test_as_prompts_they_are_asked_without_their_answer(self, folder: Path) -> None:
        path = self.write(folder, [{"conversations": [told("human", "Who?"), told("gpt", "Kane.")]}])
        (prompt,), _ = load(path, schema="llama_factory")
        assert (prompt.text, prompt.answer) == ("Who?", None)
        with pytest.raises(DataError, match="messages do not end with the user's"):
            load(path)  # a chat alone is not taken for its prompt unless one says so


class TestMsSwift:
    @pytest.mark.parametrize("schema", ["ms_swift", "auto"])
    def test_the_last_answer_is_chosen_and_the_other_beside_it(self, folder: Path, schema: str) -> None:
        asked = [said("system", "Count."), said("user", "<image>How many?"), said("assistant", "Two.")]
        rows: list[dict[str, Any]] = [{"messages": asked, "images": ["images/1.png"], "rejected_response": "Three."}]
        rows += [rows[0] | {"rejected_response": [said("assistant", "Four.")]}]
        path = lines(folder / "a.jsonl", rows)
        expected = [("Count.\nHow many?", "Two.", "Three."), ("Count.\nHow many?", "Two.", "Four.")]
        assert pairs(path, schema=schema) == (expected, [])
        assert pairs(path, 1, schema=schema)[0] == expected

    @pytest.mark.parametrize("schema", ["ms_swift", "auto"])
    def test_prompts_have_their_gold_in_solution(self, folder: Path, schema: str) -> None:
        rows = [{"messages": [said("user", "<image>Find x.")], "images": [{"bytes": None, "path": "images/1.png"}]}]
        rows[0]["solution"] = "\\boxed{3}"  # type: ignore[assignment]
        (prompt,), _ = load(lines(folder / "a.jsonl", rows), schema=schema)
        assert (prompt.answer, len(prompt.images)) == ("3", 1)

    def test_demonstrations_leave_out_what_is_not_to_be_learned(self, folder: Path) -> None:
        asked = [said("user", "Who?"), said("assistant", "Kane.")]
        rows: list[dict[str, Any]] = [{"messages": asked}, {"messages": [asked[0], asked[1] | {"loss": False}]}]
        rows += [{"messages": asked, "objects": {"ref": ["a"], "bbox": [[0, 0, 1, 1]]}}]
        rows += [{"messages": asked, "rejected_messages": asked}, {"messages": asked, "rejected_images": ["b.png"]}]
        found, reasons = pairs(lines(folder / "a.jsonl", rows), 1)
        assert found == [("Who?", "Kane.", None)]
        assert sorted(reason.partition(":")[0] for reason in reasons) == [
            "answer that is not to be learned",
            "objects to fill into the text",
            *["rejected side with messages or images of its own"] * 2,
        ]

    def test_absolute_paths_are_read_from_the_folder_that_is_named(self, folder: Path) -> None:
        (folder / "lists").mkdir()
        asked = [said("user", "<image>Who?"), said("assistant", "Kane.")]
        path = lines(folder / "lists" / "a.jsonl", [{"messages": asked, "images": [f"{folder}/images/1.png"]}])
        assert len(pairs(path, 1, image_root=str(folder))[0]) == 1
        with pytest.raises(DataError, match="image outside the data folder"):
            pairs(path, 1)


@pytest.mark.parametrize(
    ("columns", "schema"),
    [
        (("prompt", "chosen", "rejected", "images"), "generic"),  # ours
        (("question", "answer", "solution"), "generic"),
        (("problem", "solution"), "generic"),  # a worked solution, perhaps
        (("messages", "answer", "solution"), "generic"),
        (("conversations", "answer"), "generic"),
        (("data_source", "prompt", "ability", "reward_model", "extra_info"), "verl"),
    ],
)
def test_a_schema_is_told_by_columns_only_where_no_other_reading_fits(columns: tuple[str, ...], schema: str) -> None:
    assert recognised("auto", columns) == schema
    assert recognised("generic", columns) == "generic"
