import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import jsonargparse
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specs_lightning.data.sources import DataError, PromptSource, load_prompts
from specs_lightning.groups import Prompt
from specs_lightning.prompts.images import load_image
from specs_lightning.prompts.looks import alter
from specs_lightning.prompts.set_aside import SetAside

MATHVISION = Path(__file__).parents[3] / "shared" / "data" / "mathvision-sample" / "problems.jsonl"
GOOD = {"id": "good", "question": "2+2?", "answer": "4"}


def png(colour: str = "red") -> bytes:
    file = io.BytesIO()
    image = PIL.Image.effect_noise((32, 32), 90) if colour == "noise" else PIL.Image.new("RGB", (4, 4), colour)
    image.save(file, "PNG")
    return file.getvalue()


def write_jsonl(folder: Path, *rows: Any) -> str:
    """Rows as lines; a string is a line as it is."""
    path = folder / "data.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def load(path: str | Path, thorough: bool = True, **options: Any) -> tuple[list[Prompt], SetAside]:
    set_aside = SetAside()
    return load_prompts(PromptSource(str(path), **options), set_aside, thorough), set_aside


def load_all(path: str | Path, **options: Any) -> list[Prompt]:
    prompts, set_aside = load(path, **options)
    assert set_aside.rows == []
    return prompts


def image_count(prompt: Prompt) -> int:
    return sum(part["type"] == "image" for message in prompt.messages for part in message["content"])


@pytest.mark.skipif(not MATHVISION.exists(), reason="the MATH-Vision sample is not there")
def test_the_real_mathvision_sample_loads_whole() -> None:
    prompts = load_all(MATHVISION)
    assert len(prompts) == 120
    assert sum(prompt.answer_type == "choice" for prompt in prompts) == 60
    assert all(bool(prompt.choices) == (prompt.answer_type == "choice") for prompt in prompts)
    assert all(len(prompt.images) == image_count(prompt) == 1 for prompt in prompts)
    figures = {prompt.id: prompt.text.count("<image") for prompt in prompts if "<image" in prompt.text}
    assert figures == {"837": 2, "1767": 2, "2646": 4, "2792": 2}, "their one image shows several numbered figures"
    first = prompts[0]
    assert (first.id, first.answer, first.metadata["subject"]) == ("29", "10", "counting")


class TestColumns:
    def test_a_plain_row_becomes_a_prompt(self, tmp_path: Path) -> None:
        path = write_jsonl(tmp_path, {**GOOD, "level": 3, "tags": ["a"]})
        (prompt,) = load_all(path)
        assert (prompt.id, prompt.answer, prompt.answer_type, prompt.answer_format) == (
            "good",
            "4",
            "auto",
            "think_answer",
        )
        assert prompt.messages[0]["content"][0]["text"].startswith("2+2?\nReason inside <think>")
        assert prompt.metadata == {"level": 3, "tags": ["a"], "source_file": path, "source_row": 1}

    @pytest.mark.parametrize("question", ["question", "problem", "prompt"])
    @pytest.mark.parametrize("id", ["id", "qid", "pid"])
    @pytest.mark.parametrize("choices", ["choices", "options"])
    def test_usual_names_are_found(self, tmp_path: Path, question: str, id: str, choices: str) -> None:
        row = {id: 7, question: "Which?", choices: ["red", "blue"], "answer": "B"}
        (prompt,) = load_all(write_jsonl(tmp_path, row))
        assert (prompt.id, prompt.choices, prompt.answer_type) == ("7", ("red", "blue"), "choice")
        assert "(A) red\n(B) blue" in prompt.text

    def test_other_names_are_mapped_and_dots_lead_into_nested_columns(self, tmp_path: Path) -> None:
        path = write_jsonl(tmp_path, {"q": "1+1?", "reward_model": {"answer": "2"}, "a.b": "x1"})
        columns = {"question": "q", "answer": "reward_model.answer", "id": "a.b"}
        (prompt,) = load_all(path, columns=columns)
        assert (prompt.id, prompt.answer) == ("x1", "2")

    def test_an_empty_name_ignores_a_column(self, tmp_path: Path) -> None:
        path = write_jsonl(tmp_path, {**GOOD, "answer_type": "integer", "images": ["none.png"]})
        (prompt,) = load_all(path, columns={"answer_type": "", "images": ""})
        assert (prompt.answer_type, prompt.images) == ("auto", ())

    def test_rows_override_the_settings(self, tmp_path: Path) -> None:
        one = {"question": "?a", "answer": "4", "answer_type": "text", "answer_format": "json"}
        two = {"question": "?b", "answer": "4", "answer_type": None}
        a, b = load_all(write_jsonl(tmp_path, one, two), answer_type="number", answer_format="boxed")
        assert (a.answer_type, a.answer_format, b.answer_type, b.answer_format) == ("text", "json", "number", "boxed")
        assert "JSON" in a.text
        assert "boxed" in b.text

    def test_the_instruction_can_be_left_out_and_a_system_message_put_first(self, tmp_path: Path) -> None:
        (prompt,) = load_all(write_jsonl(tmp_path, GOOD), add_instruction=False, system="Be brief.")
        assert prompt.text == "Be brief.\n2+2?"

    def test_a_system_message_of_a_rows_own_stands_in_place_of_the_settings(self, tmp_path: Path) -> None:
        own = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "2+2?"}]
        rows = write_jsonl(tmp_path, {"id": "a", "messages": own}, {"id": "b", "messages": own[1:]})
        a, b = load_all(rows, add_instruction=False, system="Be brief.")
        assert [message["role"] for message in a.messages] == ["system", "user"] == [m["role"] for m in b.messages]
        assert (a.text, b.text) == ("Be exact.\n2+2?", "Be brief.\n2+2?")

    def test_the_instruction_can_be_of_ones_own(self, tmp_path: Path) -> None:
        (prompt,) = load_all(write_jsonl(tmp_path, GOOD), answer_format="boxed", instruction="Box it.")
        assert prompt.text == "2+2?\nBox it." and prompt.answer_format == "boxed"

    def test_images_may_look_otherwise_and_nothing_else_changes(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png())
        rows = write_jsonl(tmp_path, {**GOOD, "image": "a.png"})
        (plain,), (dim,) = load_all(rows), load_all(rows, looks="dim")
        assert replace(dim, images=plain.images) == plain
        assert dim.images == (alter(plain.images[0], "dim"),)

    def test_looks_that_there_are_not_are_refused_with_those_that_there_are(self) -> None:
        with pytest.raises(ValueError, match=r"unknown looks 'neon'; there are: blurred, coarse, dim"):
            PromptSource("q.jsonl", looks="neon")

    def test_rows_without_id_get_one_from_their_place(self, tmp_path: Path) -> None:
        rows = [{"question": "a"}, {"question": "b", "id": None}, {"question": "c", "id": 3}]
        assert [prompt.id for prompt in load_all(write_jsonl(tmp_path, *rows))] == ["data:1", "data:2", "3"]

    def test_without_an_answer_column_there_is_no_gold_answer(self, tmp_path: Path) -> None:
        (prompt,) = load_all(write_jsonl(tmp_path, {"question": "Describe."}))
        assert prompt.answer is None

    def test_choices_may_be_a_python_list_in_a_string(self, tmp_path: Path) -> None:
        row = {"question": "Which?", "options": "['it\\'s red', \"blue\", 3]", "answer": "A"}
        prompt, without = load_all(write_jsonl(tmp_path, row, {**GOOD, "options": "[]"}))
        assert prompt.choices == ("it's red", "blue", "3")
        assert (without.choices, without.answer_type) == ((), "auto")

    def test_chat_messages_are_taken_as_they_are(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png())
        messages = [{"role": "user", "content": "Look at <image>."}]
        for column in ("messages", "prompt"):
            (prompt,) = load_all(write_jsonl(tmp_path, {column: messages, "image": "a.png"}), add_instruction=False)
            assert [part["type"] for part in prompt.messages[0]["content"]] == ["text", "image", "text"]

    def test_the_limit_counts_usable_rows(self, tmp_path: Path) -> None:
        rows = ["{", {"question": "a"}, {"question": "b"}, {"question": "c"}, "{"]
        prompts, set_aside = load(write_jsonl(tmp_path, *rows), limit=2)
        assert [prompt.id for prompt in prompts] == ["data:2", "data:3"]
        assert len(set_aside.rows) == 1

    def test_conversations_of_from_and_value_are_read(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png())
        turns = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "<image>How many?"}]
        (prompt,) = load_all(write_jsonl(tmp_path, {"conversations": turns, "image": "a.png", "answer": "2"}))
        assert [message["role"] for message in prompt.messages] == ["system", "user"]
        assert image_count(prompt) == 1

    def test_a_question_comes_before_a_conversation_that_may_hold_its_answer(self, tmp_path: Path) -> None:
        turns = [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "4"}]
        other = {"id": "other", "conversations": turns[:1], "answer": "4"}
        prompt, conversation = load_all(write_jsonl(tmp_path, {**GOOD, "conversations": turns}, other))
        assert prompt.text.startswith("2+2?") and conversation.text.startswith("Q?")

    @pytest.mark.parametrize(
        "part",
        [
            {"type": "image", "image": "a.png"},
            {"type": "image", "image": "file://a.png"},
            {"type": "image", "path": "a.png"},
            {"type": "image_url", "image_url": {"url": "a.png"}},
            {"type": "image_url", "image_url": "a.png"},
        ],
    )
    def test_images_within_messages_are_read(self, tmp_path: Path, part: dict[str, Any]) -> None:
        (tmp_path / "a.png").write_bytes(png())
        messages = [{"role": "user", "content": [part, {"type": "text", "text": "How many?"}]}]
        for column in ({}, {"images": ["a.png"]}):
            (prompt,) = load_all(write_jsonl(tmp_path, {"messages": messages, "answer": "2", **column}))
            assert prompt.images == ((tmp_path / "a.png").resolve(),)
            assert image_count(prompt) == 1

    def test_options_without_their_labels_and_golds_without_their_tags(self, tmp_path: Path) -> None:
        row = {"question": "Which?", "choices": ["A. the cat", "B. the dog"], "answer": "<answer> B </answer>"}
        (prompt,) = load_all(write_jsonl(tmp_path, row))
        assert (prompt.choices, prompt.answer, prompt.answer_type) == (("the cat", "the dog"), "B", "choice")
        assert "(A) the cat\n(B) the dog" in prompt.text

    def test_a_column_an_option_as_in_tables_of_benchmarks(self, tmp_path: Path) -> None:
        (tmp_path / "a.tsv").write_text("question\tanswer\tA\tB\tC\nWhich?\tB\tcat\tdog\t\n")
        (prompt,) = load_all(tmp_path / "a.tsv")
        assert (prompt.choices, prompt.answer_type) == (("cat", "dog"), "choice")
        (prompt,) = load_all(tmp_path / "a.tsv", columns={"choices": ""})
        assert prompt.choices == ()


class TestGolds:
    def test_a_gold_that_its_scorer_finds_wrong_is_set_aside(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "specs_lightning.scoring.golds.GoldCheck.cause",
            lambda check, prompt: "never right" if prompt.answer == "5" else None,
        )
        rows = [GOOD, {"id": "bad", "question": "2+3?", "answer": "5"}, {"id": "last", "question": "?", "answer": "6"}]
        prompts, set_aside = load(write_jsonl(tmp_path, *rows))
        assert [prompt.id for prompt in prompts] == ["good", "last"]
        assert [(row.row, row.reason) for row in set_aside.rows] == [(2, "unusable gold answer: never right")]
        prompts, _ = load(write_jsonl(tmp_path, *rows), limit=2)
        assert [prompt.id for prompt in prompts] == ["good", "last"]  # filled up with the next
        prompts, _ = load(write_jsonl(tmp_path, *rows), thorough=False)
        assert len(prompts) == 3

    def test_an_id_whose_row_is_set_aside_is_free(self, tmp_path: Path) -> None:
        rows = [{"id": "a", "question": "?", "answer": "about half"}, {"id": "a", "question": "?", "answer": "4"}]
        prompts, set_aside = load(write_jsonl(tmp_path, *rows))
        assert ([prompt.answer for prompt in prompts], len(set_aside.rows)) == (["4"], 1)


def test_values_that_a_schema_cannot_read_are_one_rows_matter(tmp_path: Path) -> None:
    good = {"prompt": [{"role": "user", "content": "Q?"}], "reward_model": {"ground_truth": "4"}, "images": []}
    path = write_jsonl(tmp_path, good, {**good, "reward_model": "4"})
    prompts, set_aside = load(path, schema="orsta_47k")
    assert len(prompts) == 1
    assert set_aside.rows[0].reason.startswith("not as orsta_47k has it: AttributeError")


class TestImages:
    def test_paths_start_from_the_file_or_from_image_root(self, tmp_path: Path) -> None:
        (tmp_path / "pictures").mkdir()
        (tmp_path / "pictures" / "a.png").write_bytes(png())
        inside = (tmp_path / "pictures" / "a.png").resolve()
        (prompt,) = load_all(write_jsonl(tmp_path, {**GOOD, "image": "pictures/a.png"}))
        assert prompt.images == (inside,)
        path = write_jsonl(tmp_path, {**GOOD, "image": ["a.png"]})
        (prompt,) = load_all(path, image_root=str(tmp_path / "pictures"))
        assert prompt.images == (inside,)

    def test_parquet_holds_paths_bytes_and_what_datasets_writes(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png())
        for value in (
            "a.png",
            ["a.png"],
            png(),
            [png()],
            {"bytes": png(), "path": "elsewhere.png"},
            {"bytes": None, "path": "a.png"},
            [{"bytes": png(), "path": None}],
        ):
            path = tmp_path / "data.parquet"
            pq.write_table(pa.Table.from_pylist([{**GOOD, "images": value}]), path)
            (prompt,) = load_all(path)
            (image,) = prompt.images
            assert load_image(image).size == (4, 4)

    def test_image_features_written_by_datasets_stay_encoded(self, tmp_path: Path) -> None:
        features = datasets.Features({"question": datasets.Value("string"), "images": datasets.List(datasets.Image())})
        images = [PIL.Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
        data = datasets.Dataset.from_dict({"question": ["<image2> or <image1>"], "images": [images]}, features=features)
        data.to_parquet(tmp_path / "data.parquet")
        data.save_to_disk(tmp_path / "saved")
        for path in (tmp_path / "data.parquet", tmp_path / "saved"):
            (prompt,) = load_all(path)
            assert all(isinstance(image, bytes) for image in prompt.images)
            colours = [load_image(image).getpixel((0, 0)) for image in prompt.images]
            assert colours == [(0, 0, 255), (255, 0, 0)], "images follow their parts"

    def test_one_column_an_image_is_read_in_order(self, tmp_path: Path) -> None:
        row = {"question": "<image 1> <image 2>?", "image_2": png("blue"), "image_1": png("red"), "image_10": None}
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "data.parquet")
        (prompt,) = load_all(tmp_path / "data.parquet")
        assert prompt.images == (png("red"), png("blue"))

    def test_the_question_may_stand_on_the_image(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png())
        (prompt,) = load_all(write_jsonl(tmp_path, {**GOOD, "question": "<image1>", "image": "a.png"}))
        assert [part["type"] for part in prompt.messages[0]["content"]] == ["image", "text"]

    def test_a_list_column_that_lacks_an_image_is_no_sheet_of_figures(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png())
        row = {"question": "<image1> and <image2>", "answer": "4", "image": ["a.png"]}
        _, set_aside = load(write_jsonl(tmp_path, GOOD, row))
        assert "more image placeholders than images" in set_aside.rows[0].reason
        (_, prompt) = load_all(write_jsonl(tmp_path, GOOD, {**row, "image": "a.png"}))
        assert image_count(prompt) == 1

    def test_rows_without_images_are_text_only(self, tmp_path: Path) -> None:
        none: list[Any] = [None, "", [], {"bytes": None, "path": None}]
        rows = [{"question": "a", "image": value} for value in none]
        assert all(prompt.images == () for prompt in load_all(write_jsonl(tmp_path, *rows)))

    def test_unchecked_images_are_not_decoded_but_must_be_there(self, tmp_path: Path) -> None:
        (tmp_path / "cut.png").write_bytes(png("noise")[:200])
        path = write_jsonl(tmp_path, {"question": "a", "image": "cut.png"}, {"question": "b", "image": "none.png"})
        prompts, set_aside = load(path, thorough=False)
        assert len(prompts) == 1
        assert set_aside.rows[0].reason.startswith("missing image file: ")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"question": "cut o', "malformed JSON: "),
        ("[1, 2]", "not a JSON object: a list"),
        ({"answer": "4"}, "missing question"),
        ({"question": "  ", "answer": "4"}, "missing question"),
        ({"question": 5, "answer": "4"}, "question is not text: int"),
        ({"question": [], "answer": "4"}, "messages do not end"),
        ({"question": ["hello"], "answer": "4"}, "message without a role"),
        ({"question": "What is <image>?", "answer": "4"}, "missing image: "),
        ({"question": "What is <image>?", "answer": "4", "image": None}, "missing image: "),
        ({"question": "What happens?", "answer": "4", "video": "a.mp4"}, "video, only images are read: in 'video'"),
        ({"question": "What happens?", "answer": "4", "videos": ["a.mp4"]}, "video, only images are read: in 'videos'"),
        ({"question": "<video> What happens?", "answer": "4"}, "video, only images are read: <video> in the text"),
        ({"question": "<image> or <image>", "answer": "4", "image": "a.png"}, "more image placeholders than images: 2"),
        ({"question": "What is <|image_pad|>?", "answer": "4"}, "control token in the text: <|image_pad|>"),
        ({"question": "What?", "answer": "4", "image": "none.png"}, "missing image file: "),
        ({"question": "What?", "answer": "4", "image": "cut.png"}, "truncated image: "),
        ({"question": "What?", "answer": "4", "image": "text.png"}, "not an image of a known format: "),
        ({"question": "What?", "answer": "4", "image": "../a.png"}, "image path with '..'"),
        ({"question": "What?", "answer": "4", "image": "/etc/a.png"}, "image outside the data folder: "),
        ({"question": "What?", "answer": "4", "image": "out.png"}, "image outside the data folder: "),
        ({"question": "What?", "answer": "4", "image": "https://a.b/c.png"}, "image is a URL"),
        ({"question": "What?", "answer": "4", "image": 5}, "image is neither a path nor bytes: int"),
        ({"question": "What?", "answer": "4", "image": ["a.png", None]}, "image is neither a path nor bytes: NoneType"),
        ({"question": "What?", "answer": None}, "empty gold answer"),
        ({"question": "What?"}, "empty gold answer"),
        ({"question": "What?", "answer": " "}, "empty gold answer"),
        ('{"question": "What?", "answer": NaN}', "empty gold answer"),
        ({"question": "What?", "answer": ["4"]}, "gold answer is not text or a number: list"),
        ({"question": "What?", "answer": r"\boxed{\frac{1}{2}", "answer_type": "math"}, "unusable gold answer: "),
        ({"question": "What?", "answer": "F", "choices": ["x", "y"]}, "unusable gold answer: "),
        ({"question": "What?", "answer": "4", "answer_type": "integer"}, "unknown answer type: integer"),
        ({"question": "What?", "answer": "4", "answer_format": "xml"}, "unknown answer format 'xml'"),
        ({"question": "What?", "answer": "4", "answer_format": 3}, "answer_format is not text: int"),
        ({"question": "What?", "answer": "4", "choices": "red or blue"}, "choices are not a list: "),
        ({"question": "What?", "answer": "4", "choices": {"A": "x"}}, "choices are not a list: dict"),
        ({"question": "What?", "answer": "A", "choices": ["x", None]}, "choice is not text or a number: NoneType"),
        ({"question": "What?", "answer": "A", "choices": ["x"] * 30}, "too many choices: 30"),
        ({"id": "good", "question": "What?", "answer": "4"}, "duplicate id: good (first at 1 in "),
        ({"id": [1], "question": "What?", "answer": "4"}, "id is not text or a number: list"),
    ],
)
def test_a_bad_row_is_set_aside_with_its_line_and_reason(tmp_path: Path, row: Any, reason: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.png").write_bytes(png())
    (tmp_path / "a.png").write_bytes(png())
    (data / "cut.png").write_bytes(png("noise")[:900])
    (data / "text.png").write_text("not an image")
    (data / "out.png").symlink_to(tmp_path / "a.png")
    good = {**GOOD, "choices": None, "image": None, "answer_type": None, "answer_format": None}
    path = write_jsonl(data, good, row)
    prompts, set_aside = load(path)
    assert [prompt.id for prompt in prompts] == ["good"]
    (refused,) = set_aside.rows
    assert (refused.source, refused.row) == (path, 2)
    assert refused.reason.startswith(reason)


class TestErrors:
    def test_a_missing_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no such file or folder: .*none\.jsonl"):
            load(tmp_path / "none.jsonl")

    def test_a_mapped_column_that_does_not_exist_is_an_error_that_lists_the_others(self, tmp_path: Path) -> None:
        path = write_jsonl(tmp_path, {"q": "a", "gold": "b"})
        with pytest.raises(DataError, match=r"no column 'text' for question; it has q, gold"):
            load(path, columns={"question": "text"})

    def test_a_file_without_a_question_column_is_an_error_that_lists_the_others(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no column with the question; it has q, gold"):
            load(write_jsonl(tmp_path, {"q": "a", "gold": "b"}))

    def test_no_usable_row_is_an_error_with_counts_and_a_remedy(self, tmp_path: Path) -> None:
        rows = [{"question": str(i), "image": f"{i}.png"} for i in range(3)]
        set_aside = SetAside()
        with pytest.raises(DataError) as error:
            load_prompts(PromptSource(write_jsonl(tmp_path, "{", *rows)), set_aside)
        for part in ("data.jsonl has no usable row", "3 x missing image file", "1 x malformed JSON", "`image_root`"):
            assert part in str(error.value)
        assert len(set_aside.rows) == 4

    @pytest.mark.parametrize("content", ["", "\n\n", "{\n"])
    def test_files_without_any_row_are_an_error(self, tmp_path: Path, content: str) -> None:
        with pytest.raises(DataError, match="no usable row"):
            load(write_jsonl(tmp_path, content), columns={"question": "q"})

    def test_an_unreadable_parquet_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "data.parquet").write_bytes(b"PAR1 no more")
        with pytest.raises(DataError, match=r"data\.parquet cannot be read"):
            load(tmp_path / "data.parquet")

    def test_an_image_root_that_is_no_folder_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="none is no folder"):
            load(write_jsonl(tmp_path, GOOD), image_root=str(tmp_path / "none"))

    def test_an_unknown_answer_type_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="unknown answer type 'integer'; there are: auto"):
            load(write_jsonl(tmp_path, GOOD), answer_type="integer")

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"answer_format": "xml"}, "unknown answer format"),
            ({"columns": {"questions": "q"}}, "columns maps questions; it can map id, question"),
            ({"limit": 0}, "limit must be positive"),
        ],
    )
    def test_settings_are_checked_where_they_are_made(self, options: dict[str, Any], problem: str) -> None:
        with pytest.raises(ValueError, match=problem):
            PromptSource("a.jsonl", **options)


def test_toy_names_are_resolved_by_the_toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(write_jsonl(tmp_path, GOOD))
    monkeypatch.setattr("specs_lightning.data.sources.resolve", {"toy:scenes": path}.__getitem__)
    assert [prompt.id for prompt in load_all("toy:scenes")] == ["good"]


def test_settings_come_from_yaml_and_explain_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--data", type=PromptSource)
    config = parser.parse_string("data: {path: a.jsonl, columns: {question: q}, limit: 3, image_root: null}")
    source = parser.instantiate(config).data
    assert source == PromptSource("a.jsonl", columns={"question": "q"}, limit=3)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "image paths start from" in " ".join(capsys.readouterr().out.split())


def test_a_template_lays_out_question_and_choices(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("Q: {question}\n{choices}\nThink.")
    (tmp_path / "q.jsonl").write_text('{"question": "Is {choices} x?", "choices": ["a", "b"], "answer": "A"}')
    source = PromptSource(str(tmp_path / "q.jsonl"), template=str(tmp_path / "t.txt"), add_instruction=False)
    assert load_prompts(source, SetAside())[0].text == "Q: Is {choices} x?\n(A) a\n(B) b\nThink."
