"""Each published schema on a small file with its true columns and its known oddities."""

import io
import json
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specs_lightning.data.schemas import SCHEMAS, Schema, SchemaError, find_schema, mended
from specs_lightning.data.sources import DataError, PromptSource, load_prompts
from specs_lightning.groups import Prompt
from specs_lightning.prompts.set_aside import SetAside


def png() -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), "red").save(file, "PNG")
    return file.getvalue()


STORED = {"bytes": png(), "path": "1.png"}
CHAT = [{"role": "user", "content": "<image>How many?"}]
FOUND = "[{'bbox_2d': [0, 250, 500, 1000], 'label': 'Cat'}]"


def boxes(normalized: bool, gold: str = FOUND) -> dict[str, Any]:
    parm = {"det_verifier_normalized": normalized}
    return {"answer": None, "ground_truth": f"<answer>{gold}</answer>", "verifier": "detection", "verifier_parm": parm}


def orsta(id: int, source: str = "mm_math", **gold: Any) -> dict[str, Any]:
    model = {"answer": "", "accuracy_ratio": 1.0, "format_ratio": 0.0, "verifier": "mathverify"}
    model |= {"verifier_parm": {"det_verifier_normalized": None}, "ground_truth": r"\boxed{7}", **gold}
    extra = {"id": id, "image_path": "1.png"}
    row = {"data_source": source, "images": [STORED], "prompt": CHAT, "ability": "math"}
    return {**row, "reward_model": model, "extra_info": extra}


def mathvista(pid: str, **values: Any) -> dict[str, Any]:
    row = {"pid": pid, "question": "Which?", "image": "images/1.jpg", "decoded_image": STORED, "choices": None}
    row |= {"unit": None, "precision": None, "answer": "2", "question_type": "free_form", "answer_type": "integer"}
    return {**row, "metadata": {"task": "geometry", "skills": ["algebra"]}, "query": "Hint: …", **values}


def mathverse(index: str, version: str, question: str, query: str, kind: str, answer: str) -> dict[str, Any]:
    row = {"sample_index": index, "problem_version": version, "question": question, "question_for_eval": "AB = ?"}
    return {**row, "image": STORED, "answer": answer, "question_type": kind, "query_wo": query, "query_cot": query}


def mmmu(id: str, **values: Any) -> dict[str, Any]:
    row = {"id": id, "question": "See <image 1> and <image 2>.", "options": "['it\\'s', \"<image 3>\", '5']"}
    row |= {"explanation": "", "answer": "B", "question_type": "multiple-choice", "subfield": "Managerial"}
    return {**row, **{f"image_{n}": STORED if n <= 3 else None for n in range(1, 8)}, **values}


def mega(id: str, answer: dict[str, str], **values: Any) -> dict[str, Any]:
    row = {"id": id, "task_name": "counting", "task_description": "Count. Example: <image>", "global_media": "[]"}
    row |= {"example_media": "['./data/1.png']", "example_text": "Answer: 3", "query_text": "<image> How many?"}
    row |= {"query_media": "['./data/1.png']", "answer": str(answer), "metric_info": "{}", "eval_context": "{}"}
    return {**row, **values}


# schema, rows, what each row that is read gives (images, answer, type), and how the others are refused
FILES: dict[str, tuple[list[dict[str, Any]], list[tuple[int, str, str]], list[str]]] = {
    "orsta_47k": (
        [
            orsta(1),
            orsta(1, "geo170k", ground_truth=r"\boxed{\frac{1}{2}"),
            orsta(2, **boxes(True)),
            orsta(3, **boxes(False)),
            orsta(4, **boxes(True, "[]")),
            orsta(5, verifier="ocr"),
        ],
        [
            (1, "7", "auto"),
            (1, r"\frac{1}{2}", "auto"),
            (1, '[{"bbox_2d": [0.0, 1.0, 2.0, 4.0], "label": "cat"}]', "boxes"),  # of an image of 4 by 4
            (1, '[{"bbox_2d": [0.0, 250.0, 500.0, 1000.0], "label": "cat"}]', "boxes"),
        ],
        ["gold answer is no list of boxes", "no rule for this verifier: ocr"],
    ),
    "virl39k": (
        [
            {"qid": "a-1", "question": "<image><image> Same?", "answer": r"\boxed{A", "image": ["1.png", "data/1.png"]},
            {"qid": "a-2", "question": "2+2?", "answer": r"\boxed{4}", "image": []},
            {"qid": "a-3", "question": "<image>?", "answer": r"\boxed{\frac{1}{2", "image": ["1.png"]},
            {"qid": "a-4", "question": "<image>?", "answer": r"\boxed{4}", "image": ["../1.png"]},
        ],
        [(2, "A", "auto"), (0, "4", "auto")],
        ["unusable gold answer", "image path with '..'"],
    ),
    "mathvista": (
        [
            mathvista("1", unit="cm"),
            mathvista("2", answer="1.2", answer_type="float", precision=1.0),
            mathvista("3", answer="No", answer_type="text", question_type="multi_choice", choices=["Yes", "No"]),
            mathvista("5", answer="4", answer_type="text", question_type="multi_choice", choices=["5", "4", "4"]),
            mathvista("4", answer="[0, 2]", answer_type="list"),
        ],
        [(1, "2 cm", "number"), (1, "1.2", "number"), (1, "No", "choice"), (1, "B", "choice"), (1, "[0, 2]", "math")],
        [],
    ),
    "mathverse": (
        [
            mathverse("1", "Text Lite", "Find AB.\nChoices:\nA:1\nB:2", "…\nQuestion: Find AB.", "multi-choice", "B"),
            mathverse("2", "Vision Only", "", "According to the image, answer.", "free-form", "12"),
        ],
        [(1, "B", "choice"), (1, "12", "auto")],
        [],
    ),
    "mathvision": (
        [
            {"id": "1", "question": "<image1>?", "options": list("ABCDE"), "image": "images/1.jpg", "answer": "C"},
            {"id": "2", "question": "<image1>?", "options": [], "image": "images/1.jpg", "answer": "10"},
        ],
        [(1, "C", "choice"), (1, "10", "auto")],
        [],
    ),
    "mmmu": (
        [mmmu("v1"), mmmu("v2", answer="['2.5', '5/2']", options="[]", question_type="open"), mmmu("t1", answer="?")],
        [(3, "B", "choice"), (3, "2.5", "auto")],
        ["unusable gold answer"],
    ),
    "mega_bench": (
        [
            mega("1", {"answer": "4"}),
            mega("2", {"x": "1", "y": "2"}),
            mega("3", {"answer": "4"}, query_media="['./data/1.mp4']"),
            mega("4", {}),
        ],
        [(2, "4", "auto"), (2, '{"x": "1", "y": "2"}', "auto")],
        ["video, only images are read", "answer has no fields"],
    ),
}
FILES["mathvision"][0][:] = [{**row, "decoded_image": STORED, "level": 1} for row in FILES["mathvision"][0]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for place in (tmp_path / "1.png", tmp_path / "data" / "1.png"):
        place.write_bytes(png())
    return tmp_path


def load(path: Path, **settings: Any) -> tuple[list[Prompt], list[str]]:
    set_aside = SetAside()
    prompts = load_prompts(PromptSource(str(path), **settings), set_aside)
    return prompts, [row.reason.partition(" (")[0] for row in set_aside.rows]


@pytest.mark.parametrize("schema", FILES)
def test_a_published_file_is_read(folder: Path, schema: str) -> None:
    rows, expected, refused = FILES[schema]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    prompts, reasons = load(folder / "train.parquet", schema=schema)
    assert [(len(p.images), p.answer, p.answer_type) for p in prompts] == expected
    assert [reason.startswith(kind) for reason, kind in zip(reasons, refused, strict=True)] == [True] * len(refused)
    assert len({p.id for p in prompts}) == len(prompts)


def test_what_is_particular_to_a_row_is_kept(folder: Path) -> None:
    def first(schema: str) -> Prompt:
        pq.write_table(pa.Table.from_pylist(FILES[schema][0]), folder / f"{schema}.parquet")
        return load(folder / f"{schema}.parquet", schema=schema)[0][-1]

    assert first("mathvista").metadata["published_answer_type"] == "list"
    assert first("mmmu").metadata["alternatives"] == '["5/2"]'
    assert first("mega_bench").metadata["task_name"] == "counting"
    assert first("mathverse").text.startswith("Answer the question in the image.")
    assert first("mathverse").metadata["problem_version"] == "Vision Only"
    assert first("orsta_47k").id == "mm_math/3"


def test_mathvistas_option_that_stands_there_twice_is_found_right_by_its_rule(folder: Path) -> None:
    """Or the row would be set aside before it is asked: its gold is scored against itself."""
    row = mathvista("5", answer="4", answer_type="text", question_type="multi_choice", choices=["5", "4", "4"])
    pq.write_table(pa.Table.from_pylist([row]), folder / "testmini.parquet")
    (prompt,), _ = load(folder / "testmini.parquet", schema="mathvista", benchmark="mathvista")
    assert (prompt.answer, prompt.choices) == ("B", ("5", "4", "4"))


@pytest.mark.parametrize("column", ["message", "conversations"])
def test_mm_eureka_keeps_its_images_inside_the_messages(folder: Path, column: str) -> None:
    parts = [{"type": "image", "image": "file://1.png"}, {"type": "text", "text": "How many?"}]
    messages = [{"role": "system", "content": "Think."}, {"role": "user", "content": parts}]
    if column == "conversations":
        messages = [{"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": "4"}]
    row = {"id": "0", column: json.dumps(messages), "answer": r"\boxed{4}", "images": ["1.png"]}
    outside = {**row, "id": "1", column: json.dumps(messages).replace("1.png", "/etc/1.png"), "images": ["/etc/1.png"]}
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, [row, outside, {**row, "id": "2", column: "[{"}])))
    (prompt,), reasons = load(folder / "a.jsonl", schema="mm_eureka")
    assert prompt.images == ((folder / "1.png").resolve(),)
    assert prompt.messages[-1]["role"] == "user"
    assert [part["type"] for part in prompt.messages[-1]["content"]] == ["image", "text"]
    assert [reason.partition(":")[0] for reason in reasons] == ["image outside the data folder", "message is not JSON"]


@pytest.mark.parametrize("schema", [name for name in SCHEMAS if name != "generic"])
def test_a_file_of_another_kind_is_refused_by_name(folder: Path, schema: str) -> None:
    (folder / "a.jsonl").write_text('{"text": "a"}')
    with pytest.raises(DataError, match=rf"a\.jsonl is not in the schema {schema}: it has no column"):
        load(folder / "a.jsonl", schema=schema)


def test_the_split_with_the_benchmark_inside_is_refused(folder: Path) -> None:
    pq.write_table(pa.Table.from_pylist([orsta(1)]), folder / "test-00000-of-00001.parquet")
    for path, split in ((folder, "test"), (folder / "test-00000-of-00001.parquet", None)):
        with pytest.raises(DataError, match="use split: train"):
            load(path, schema="orsta_47k", split=split)


def test_a_row_without_a_column_of_its_schema_is_set_aside(folder: Path) -> None:
    rows = [{"qid": "1", "question": "2+2?", "answer": "4", "image": []}, {"qid": "2", "question": "3+3?", "image": []}]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert load(folder / "a.jsonl", schema="virl39k")[1] == ["missing column: answer"]


class Doubled(Schema):
    """Somebody's own."""

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "question": row["question"] * 2}


def test_a_schema_of_ones_own_is_named_by_its_class_path(folder: Path) -> None:
    (folder / "a.jsonl").write_text('{"question": "Why? ", "answer": "4"}')
    (prompt,), _ = load(folder / "a.jsonl", schema=f"{__name__}.Doubled")
    assert prompt.text.startswith("Why? Why?")


@pytest.mark.parametrize(
    ("name", "problem"),
    [("mathvista2", "there are: generic"), ("nowhere.Mine", "No module"), ("json.loads", "no subclass")],
)
def test_an_unknown_schema_is_refused(name: str, problem: str) -> None:
    with pytest.raises(SchemaError, match=problem):
        find_schema(name)


def test_a_csv_of_questions_and_a_folder_of_images(folder: Path) -> None:
    text = (
        '\ufeffquestion,image,answer,choices\r\n"How, many?",1.png,2,\r\n"Which?",1.png,B,"one\ntwo"\r\nshort,1.png\r\n'
    )
    (folder / "q.csv").write_text(text, encoding="utf-8", newline="")
    prompts, reasons = load(folder / "q.csv")
    assert [(p.id, p.answer, p.choices, len(p.images)) for p in prompts] == [
        ("q:1", "2", (), 1),
        ("q:2", "B", ("one", "two"), 1),
    ]
    assert reasons == ["other number of fields than the header: 4 expected"]


@pytest.mark.parametrize(
    ("gold", "whole"),
    [
        (r"\boxed{12", "12"),
        (r"$\boxed{\frac{1}{2}$", r"\frac{1}{2}"),
        (r"\boxed{12}", r"\boxed{12}"),
        (r"\boxed{\frac{1}{2", r"\boxed{\frac{1}{2"),
        ("12", "12"),
    ],
)
def test_a_box_that_never_closes_is_mended_where_its_content_is_whole(gold: str, whole: str) -> None:
    assert mended(gold) == whole
