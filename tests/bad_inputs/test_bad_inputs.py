"""What users bring that cannot be used: each is refused, or set aside, with a message that says what is wrong."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from specs_lightning.data.check import check
from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.errors import SpecsError
from specs_lightning.judge import JudgeSettings
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.scoring.comparison import check_gold

GOOD: dict[str, Any] = {"id": "good", "question": "How many?", "answer": "2"}


def image(form: str = "PNG") -> bytes:
    file = io.BytesIO()
    PIL.Image.effect_noise((24, 24), 50).convert("RGB").save(file, form)
    return file.getvalue()


# one row, among good ones, and the reason for which it is set aside
ROWS: dict[str, tuple[Any, str]] = {
    "half_a_line": ('{"question": "How', "malformed JSON"),
    "a_list": ("[1, 2]", "not a JSON object: a list"),
    "a_number": ("7", "not a JSON object: a int"),
    "not_utf8": (b'{"question": "\xff\xfe"}', "malformed JSON"),
    "deep_nesting": ("[" * 100_000, "malformed JSON"),
    "no_question": ({"question": None}, "missing question"),
    "blank_question": ({"question": " \n"}, "missing question"),
    "question_is_a_number": ({"question": 5}, "question is not text: int"),
    "question_is_a_table": ({"question": {"a": 1}}, "question is not text: dict"),
    "no_answer": ({"answer": None}, "empty gold answer"),
    "blank_answer": ({"answer": "  "}, "empty gold answer"),
    "answer_is_nan": ('{"id": "x", "question": "?", "answer": NaN}', "empty gold answer"),
    "answer_is_a_list": ({"answer": ["2"]}, "gold answer is not text or a number: list"),
    "answer_unbalanced": ({"answer": r"\frac{1}{"}, "unusable gold answer"),
    "answer_of_signs": ({"answer": "?!"}, "unusable gold answer"),
    "answer_is_vague": ({"answer": "about half"}, "unusable gold answer"),
    "number_in_words": ({"answer": "several", "answer_type": "number"}, "unusable gold answer"),
    "empty_box": ({"answer": r"\boxed{}"}, "unusable gold answer: the gold answer is empty"),
    "unknown_type": ({"answer_type": "integer"}, "unknown answer type: integer"),
    "type_is_a_number": ({"answer_type": 3}, "answer_type is not text: int"),
    "unknown_format": ({"answer_format": "xml"}, "unknown answer format 'xml'"),
    "choice_out_of_range": ({"answer": "D", "choices": ["x", "y"]}, "unusable gold answer"),
    "choices_are_text": ({"answer": "A", "choices": "x or y"}, "choices are not a list: 'x or y'"),
    "choices_are_a_number": ({"answer": "A", "choices": 4}, "choices are not a list: int"),
    "choices_hold_tables": ({"answer": "A", "choices": [{}]}, "choice is not text or a number: dict"),
    "too_many_choices": ({"answer": "1", "choices": [*map(str, range(27))]}, "too many choices: 27"),
    "precision_in_words": ({"precision": "two"}, "precision is no number of decimal places: 'two'"),
    "precision_below_zero": ({"precision": -1}, "precision is no number of decimal places: -1"),
    "precision_of_a_half": ({"precision": 1.5}, "precision is no number of decimal places: 1.5"),
    "unit_is_a_number": ({"unit": 3}, "unit is not text: int"),
    "id_is_a_list": ({"id": [1]}, "id is not text or a number: list"),
    "id_again": ({"id": "good"}, "duplicate id: good (first at 1 in"),
    "control_token": ({"question": "<|image_pad|>?"}, "control token in the text: <|image_pad|>"),
    "no_such_image": ({"image": "none.png"}, "missing image file"),
    "image_is_a_folder": ({"image": "folder"}, "missing image file"),
    "image_upwards": ({"image": "../a.png"}, "image path with '..'"),
    "image_absolute": ({"image": "/etc/passwd"}, "image outside the data folder: /etc/passwd is absolute"),
    "image_by_link": ({"image": "link.png"}, "image outside the data folder: link.png is a link"),
    "image_by_url": ({"image": "http://host.invalid/a.png"}, "image is a URL, only local files are read"),
    "image_in_the_row_is_none": ({"image": "data:image/png;base64,AAAA"}, "not an image of a known format"),
    "data_of_another_kind": ({"image": "data:text/html;base64,AAAA"}, "image is a URL, only local files are read"),
    "base64_cut_short": ({"image": base64.b64encode(image()).decode()[:401]}, "broken base64 for an image"),
    "base64_of_no_image": ({"image": "QUFB" * 2000}, "not an image of a known format: 6000 bytes"),
    "image_name_too_long": ({"image": "a" * 300 + ".png"}, "unreadable image file"),
    "image_in_a_loop_of_links": ({"image": "loop.png"}, "image path cannot be followed: loop.png"),
    "no_image_among_images": ({"images": ["ok.png", None]}, "image is neither a path nor bytes: NoneType"),
    "images_given_twice": (
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "ok.png"}]}], "image": "a.svg"},
        "images given twice",
    ),
    "half_a_character": ('{"id": "bad", "question": "How \\ud83d many?", "answer": "2"}', "half a character"),
    "half_a_character_within": (
        r'{"id": "bad", "messages": [{"role": "user", "content": "\ud83d"}], "answer": "2"}',
        "half a character (a lone surrogate) in the text: in 'messages'",
    ),
    "half_a_character_as_bytes": (b'{"question": "\xed\xa0\xbd"}', "half a character"),
    "choices_of_numpy": ({"answer": "A", "choices": "['a' 'b']"}, "array as numpy prints it, without commas"),
    "choices_of_numpy_lines": ({"answer": "A", "choices": "['a'\n 'b']"}, "array as numpy prints it"),
    "choices_of_numpy_numbers": ({"answer": "A", "choices": "[1 2 3]"}, "array as numpy prints it"),
    "one_choice": ({"answer": "A", "choices": ["a, b"]}, "one choice only: 'a, b'"),
    "gold_of_two_options": ({"answer": "(b)", "choices": ["(c)", "(a)", "(b)"]}, "gold answer that names two options"),
    "gold_of_several_boxes": ({"answer": r"\boxed{2} it is, or perhaps \boxed{3}."}, "gold answer with several boxes"),
    "gold_in_empty_tags": ({"answer": "<answer> </answer>"}, "unusable gold answer: the gold answer is empty"),
    "image_is_a_number": ({"image": 7}, "image is neither a path nor bytes: int"),
    "image_path_with_nul": ({"image": "a\0.png"}, "image path holds a null character"),
    "image_empty": ({"image": "empty.png"}, "empty image"),
    "image_is_text": ({"image": "text.png"}, "not an image of a known format"),
    "image_is_svg": ({"image": "a.svg"}, "not an image of a known format"),
    "image_is_postscript": ({"image": "a.eps"}, "not an image of a known format"),
    "image_cut_short": ({"image": "cut.png"}, "truncated image"),
    "jpeg_cut_short": ({"image": "cut.jpg"}, "truncated image"),
    "image_is_a_bomb": ({"image": "bomb.png"}, "broken image"),
    "more_places_than_images": ({"question": "<image> <image>?", "image": "ok.png"}, "more image placeholders"),
    "a_place_and_no_image": ({"question": "<image>?"}, "missing image: the text refers to one"),
    "image_0": ({"question": "<image0>?", "images": ["ok.png"]}, "more image placeholders than images"),
    "messages_are_text": ({"messages": "hello"}, "messages are not a list: str"),
    "messages_are_empty": ({"messages": []}, "messages do not end with the user's: leave out"),
    "message_without_role": ({"messages": [{"content": "?"}]}, "message without a role"),
    "assistant_last": ({"messages": [{"role": "assistant", "content": "2"}]}, "messages do not end with the user's"),
    "message_of_nothing": ({"messages": [{"role": "user", "content": 5}]}, "message content is neither text nor parts"),
    "message_with_audio": (
        {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
        "audio, only images are read: a message part of type 'audio'",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    (data / "folder").mkdir(parents=True)
    (tmp_path / "outside.png").write_bytes(image())
    (data / "link.png").symlink_to(tmp_path / "outside.png")
    (data / "loop.png").symlink_to("loop.png")
    (data / "ok.png").write_bytes(image())
    (data / "empty.png").touch()
    (data / "text.png").write_text("not a picture")
    (data / "a.svg").write_text("<svg/>")
    (data / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (data / "cut.png").write_bytes(image()[:300])
    (data / "cut.jpg").write_bytes(image("JPEG")[:-200])
    header = bytearray(image())
    header[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height, which a reader would make room for
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    (data / "bomb.png").write_bytes(bytes(header))
    return data


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.bad_input("data rows")
def test_a_bad_row_is_set_aside_with_its_reason(folder: Path, name: str) -> None:
    bad, reason = ROWS[name]
    if isinstance(bad, dict):
        bad = json.dumps({**GOOD, "id": "bad", **bad})
    line = bad if isinstance(bad, bytes) else bad.encode()
    last = json.dumps({**GOOD, "id": "last"}).encode()
    (folder / "rows.jsonl").write_bytes(b"\n".join([json.dumps(GOOD).encode(), line, last]))
    set_aside = SetAside()
    prompts = load_prompts(PromptSource(str(folder / "rows.jsonl")), set_aside)
    assert [prompt.id for prompt in prompts] == ["good", "last"]
    assert [(row.source, row.row) for row in set_aside.rows] == [(str(folder / "rows.jsonl"), 2)]
    assert reason in set_aside.rows[0].reason


def csv_in_latin1(folder: Path) -> PromptSource:
    (folder / "a.csv").write_bytes("question,answer\nWie groß?,2\n".encode("latin-1"))
    return PromptSource(str(folder / "a.csv"))


def csv_with_a_quote_left_open(folder: Path) -> PromptSource:
    (folder / "a.csv").write_text('question,answer\n"How many?,2\n')
    return PromptSource(str(folder / "a.csv"))


def csv_with_columns_of_one_name(folder: Path) -> PromptSource:
    (folder / "a.csv").write_text("question,answer,answer\na,b,c\n")
    return PromptSource(str(folder / "a.csv"))


def parquet_cut_short(folder: Path) -> PromptSource:
    pq.write_table(pa.table({"question": ["a"] * 1000}), folder / "a.parquet")
    whole = (folder / "a.parquet").read_bytes()
    (folder / "a.parquet").write_bytes(whole[:-20])
    return PromptSource(str(folder / "a.parquet"))


def written(name: str, text: str, **settings: Any) -> Callable[[Path], PromptSource]:
    def write(folder: Path) -> PromptSource:
        (folder / name).write_text(text)
        return PromptSource(str(folder / name), **settings)

    return write


ROW = json.dumps(GOOD)
FILES: dict[str, tuple[Callable[[Path], PromptSource], str]] = {
    "no_file": (lambda folder: PromptSource(str(folder / "none.jsonl")), "no such file or folder"),
    "a_spreadsheet": (written("a.xlsx", "PK"), "convert it"),
    "an_empty_file": (written("a.jsonl", ""), "has no usable row"),
    "an_empty_folder": (lambda folder: PromptSource(str(folder / "folder")), "holds no parquet files"),
    "broken_json": (written("a.json", "[{]"), "is not valid JSON"),
    "no_question_column": (written("a.jsonl", '{"text": "a"}'), "map one with `columns`"),
    "a_mapped_column_that_is_not_there": (written("a.jsonl", ROW, columns={"id": "key"}), "has no column 'key'"),
    "a_split_of_a_file": (written("a.jsonl", ROW, split="train"), "only folders have splits"),
    "an_image_root_that_is_not_there": (written("a.jsonl", ROW, image_root="/nowhere"), "image_root /nowhere is no"),
    "another_schema": (written("a.jsonl", ROW, schema="virl39k"), "is not in the schema virl39k"),
    "every_row_bad": (written("a.jsonl", '{"question": ""}'), "1 x missing question"),
    "no_template": (written("a.jsonl", ROW, template="none.txt"), "template none.txt cannot be read"),
    "csv_in_latin1": (csv_in_latin1, "is not UTF-8"),
    "csv_with_a_quote_left_open": (csv_with_a_quote_left_open, "check the quotes there"),
    "csv_with_columns_of_one_name": (csv_with_columns_of_one_name, "columns of the same name"),
    "parquet_cut_short": (parquet_cut_short, "may be damaged or cut short"),
    "not_parquet": (written("a.parquet", "question,answer"), "may be damaged or cut short"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.bad_input("sources")
def test_a_bad_file_is_refused(folder: Path, name: str) -> None:
    make, problem = FILES[name]
    with pytest.raises(SpecsError) as refused:
        load_prompts(make(folder), SetAside())
    assert problem in str(refused.value)


SETTINGS: dict[str, tuple[Callable[[], object], str]] = {
    "limit": (lambda: PromptSource("a", limit=0), "limit must be positive, not 0"),
    "format": (lambda: PromptSource("a", answer_format="xml"), "unknown answer format 'xml'"),
    "schema": (lambda: PromptSource("a", schema="mathvist"), "unknown schema 'mathvist'"),
    "benchmark": (lambda: PromptSource("a", benchmark="gsm8k"), "unknown benchmark 'gsm8k'"),
    "columns": (lambda: PromptSource("a", columns={"anwser": "a"}), "columns maps anwser"),
    "judge_url": (lambda: JudgeSettings("m", base_url="localhost:80"), "is no address"),
    "judge_key_in_the_url": (lambda: JudgeSettings("m", base_url="http://a:b@host/v1"), "holds a password"),
    "judge_budget": (lambda: JudgeSettings("m", max_requests=0), "max_requests must be positive"),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.bad_input("settings")
def test_a_bad_setting_is_refused(name: str) -> None:
    make, problem = SETTINGS[name]
    with pytest.raises(ValueError, match=re.escape(problem)):
        make()


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "no data set in"), ("a: {path: x.jsonl, limits: 3}", "no setting 'limits'"), ("a: [1", "line 1: not YAML")],
)
@pytest.mark.bad_input("settings")
def test_a_bad_configuration_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SpecsError, match=problem):
        check([str(tmp_path / "c.yaml")], output=str(tmp_path))


def without(*names: str) -> Callable[[Path], None]:
    def remove(model: Path) -> None:
        for name in names:
            (model / name).unlink()

    return remove


def cut_short(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def with_a_weight(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def rewrite(model: Path) -> None:
        weights = load_file(model / "model.safetensors")
        change(weights)
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def configured(old: str, new: str) -> Callable[[Path], None]:
    def rewrite(model: Path) -> None:
        (model / "config.json").write_text((model / "config.json").read_text().replace(old, new))

    return rewrite


def an_adapter(model: Path) -> None:
    (model / "config.json").unlink()
    (model / "adapter_config.json").write_text("{}")


def emptied(model: Path) -> None:
    shutil.rmtree(model)
    model.mkdir()


def a_training(model: Path) -> None:
    copied = shutil.copytree(model, model.parent / "copy")
    emptied(model)
    copied.rename(model / "model")


NORM = "model.norm.weight"
# what becomes of a good model folder, and what the message says of it
MODELS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "not_there": (shutil.rmtree, ("nothing is there", "Give a folder written by save_pretrained")),
    "an_empty_folder": (emptied, ("It is empty", "Give a folder written by save_pretrained")),
    "no_configuration": (without("config.json"), ("it has no config.json. It holds chat_template.jinja",)),
    "a_lora_adapter": (an_adapter, ("a LoRA adapter", "merge_and_unload()")),
    "the_folder_of_a_training": (a_training, ("The model of this training is", "/m/model")),
    "configuration_is_not_json": (configured("{", "["), ("the configuration of", "copy config.json again")),
    "unknown_architecture": (configured("qwen2_5_vl", "qwen9_vl"), ("`qwen9_vl`", "needs a newer transformers")),
    "no_weights": (without("model.safetensors"), ("the weights of", "model.safetensors", "download them again")),
    "weights_cut_short": (cut_short, ("the weights of", "download them again")),
    "weights_of_other_shapes": (
        with_a_weight(lambda weights: weights.update({NORM: torch.zeros(3, 3)})),
        ("norm.weight is (3, 3), not (64,)", "safetensors files that fit config.json"),
    ),
    "a_weight_lacking": (
        with_a_weight(lambda weights: weights.__delitem__(NORM)),
        ("norm.weight is in none of its files", "safetensors files that fit config.json"),
    ),
    "no_tokenizer": (
        without("tokenizer.json", "tokenizer_config.json"),
        ("the processor of", "tokenizer.json", "copy tokenizer, image processor and chat template"),
    ),
    "no_image_processor": (
        without("processor_config.json"),
        ("the processor of", "image processor", "copy tokenizer, image processor and chat template"),
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.bad_input("model folders")
def test_a_bad_model_folder_is_named_with_a_remedy(tiny_model_path: Path, tmp_path: Path, name: str) -> None:
    change, said = MODELS[name]
    model = shutil.copytree(tiny_model_path, tmp_path / "m")
    change(model)
    with pytest.raises(SpecsError) as refused:
        Policy(PolicySettings(model=str(model)))
    for part in (str(model), *said):
        assert part in str(refused.value)


def test_a_file_in_place_of_a_model_folder_is_named_with_its_folder(tiny_model_path: Path) -> None:
    with pytest.raises(SpecsError, match=rf"it is a file. The folder that it lies in is {tiny_model_path}"):
        Policy(PolicySettings(model=str(tiny_model_path / "model.safetensors")))


def test_a_model_of_the_hub_that_cannot_be_had_is_named_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SpecsError, match=r"nobody/no-such-model is no folder here.*check the name and the network"):
        Policy(PolicySettings(model="nobody/no-such-model"))


@pytest.mark.parametrize("answer", ["", " ", r"\boxed{", "about half", "?!", r"\frac{1}{2"])
def test_a_bad_gold_answer_is_named(answer: str) -> None:
    assert "the gold answer" in str(check_gold(answer, "number"))
