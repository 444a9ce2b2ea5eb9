"""What differs between published data sets: each schema turns a row as it was published into one with our columns.

`PromptSource.schema` names one, or the class path of one of your own. Reading files, images, choices and answers is
the same for all (`data.sources`). How other trainers lay out their files is in `data.trainer_schemas`.
"""

from __future__ import annotations

import ast
import importlib
import io
import json
import re
import tokenize
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, ClassVar

from specs_lightning.data.schema_base import Schema as Schema
from specs_lightning.data.trainer_schemas import TRL, EasyR1, LLaMAFactory, MsSwift, Verl
from specs_lightning.errors import SpecsError
from specs_lightning.prompts.images import load_image
from specs_lightning.prompts.messages import as_turn, message_images
from specs_lightning.scoring.boxes import read_boxes
from specs_lightning.scoring.choices import LETTERS

_VIDEO = re.compile(r"\.(?:mp4|avi|mov|mkv|webm)$", re.IGNORECASE)


class SchemaError(SpecsError, ValueError):
    """A schema that does not exist, or whose class cannot be used."""


class Orsta47k(Schema):
    """Orsta-Data-47k: chat messages, the gold in `reward_model`. Its test split holds rows of MEGA-Bench.

    The gold of a detection row is a list of boxes. Where its `verifier_parm` says that they are normalized, in
    thousandths of the image, they become pixels: Qwen2.5-VL answers in these, as long as its processor does not scale
    the image by more than to multiples of 28.
    """

    columns: ClassVar = {
        "id": "id",
        "question": "prompt",
        "answer": "answer",
        "answer_type": "answer_type",
        "images": "images",
    }
    required = ("prompt", "reward_model")
    forbidden_splits = ("test",)

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        gold, extra = row.get("reward_model") or {}, row.get("extra_info") or {}
        verifier = gold.get("verifier") or "mathverify"
        if verifier not in ("mathverify", "detection"):
            raise ValueError(f"no rule for this verifier: {verifier}")
        answer = mended(gold.get("ground_truth") or gold.get("answer"))
        if verifier == "detection":
            answer = in_pixels(answer, gold, row.get("images"))
        # ids are those of the data sets that it was gathered from
        id = f"{row.get('data_source')}/{extra['id']}" if extra.get("id") not in (None, "") else None
        return {**row, "id": id, "answer": answer, "answer_type": "boxes" if verifier == "detection" else "auto"}


class ViRL39k(Schema):
    r"""ViRL39K: images by relative path; some golds in a `\boxed` that never closes."""

    required = ("question", "answer", "qid", "image")

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "answer": mended(row["answer"])}


class MMEureka(Schema):
    """MM-Eureka: chat messages as a JSON string in `message` or `conversations`, image paths inside them."""

    columns: ClassVar = {"messages": "messages", "images": "images"}
    required = ("answer",)

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        messages = row.get("message") or row.get("conversations")
        if isinstance(messages, str):
            try:
                messages = json.loads(messages)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"message is not JSON: {error}") from error
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise ValueError("message is not a list of chat messages")
        while messages and as_turn(messages[-1])["role"] == "assistant":  # the solution, which is the model's to find
            messages = messages[:-1]
        images = message_images(messages) or row.get("images") or []
        return {**row, "messages": messages, "images": images, "answer": mended(row["answer"])}


class MathVista(Schema):
    """MathVista (testmini): the gold of a multiple-choice row is the option's text; decimals have a precision.

    One row has an option twice, which is the gold: there it is given by its first letter, and either counts.
    """

    columns: ClassVar = {"id": "pid", "images": "image", "precision": "precision", "unit": "unit"}
    required = ("pid", "question", "question_type", "answer_type", "answer")

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        kinds = {"integer": "number", "float": "number", "text": "text", "list": "math"}
        kind = "choice" if row["question_type"] == "multi_choice" else kinds.get(row["answer_type"], "auto")
        gold = row["answer"]
        if kind == "choice" and (options := list(row.get("choices") or [])).count(gold) > 1:
            gold = LETTERS[options.index(gold)]
        return {**with_image(row), **renamed_type(row), "answer": gold, "answer_type": kind}


class MathVerse(Schema):
    """MathVerse (testmini): the question stands in the text, or, in the version "Vision Only", in the image."""

    columns: ClassVar = {"id": "sample_index", "question": "question", "images": "image", "answer_type": "answer_type"}
    required = ("sample_index", "problem_version", "image", "answer")

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        # where the question is in the image, there is nothing behind "Question:"
        asked = row.get("question") or (row.get("query_cot") or "").partition("Question:")[2]
        kind = "choice" if row.get("question_type") == "multi-choice" else "auto"
        question = asked.strip() or "Answer the question in the image."
        return {**row, **renamed_type(row), "question": question, "answer_type": kind}


class MathVision(Schema):
    """MathVision: the gold of a multiple-choice row is its letter."""

    required = ("id", "question", "options", "answer")

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        return with_image(row)


class MMMU(Schema):
    """MMMU (validation): options as a Python list in a string, images in columns of their own, several golds."""

    columns: ClassVar = {"answer_type": "answer_type"}
    required = ("id", "question", "options", "answer", "question_type")

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        kind = "choice" if row["question_type"] == "multiple-choice" else "auto"
        golds = listed(row["answer"]) or [row["answer"]]
        also = json.dumps([str(gold) for gold in golds[1:]])
        return {**row, **renamed_type(row), "answer": golds[0], "answer_type": kind, "alternatives": also}


class MEGABench(Schema):
    """MEGA-Bench Core: a task's description and example stand before each query; golds have named fields."""

    columns: ClassVar = {"question": "question", "images": "images", "answer": "answer"}
    required = ("task_name", "task_description", "query_text", "answer", "metric_info")

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        media = [path for part in ("global", "example", "query") for path in listed(row.get(f"{part}_media")) or []]
        if videos := [path for path in media if isinstance(path, str) and _VIDEO.search(path)]:
            raise ValueError(f"video, only images are read: {videos[0]}")
        fields = _literal(row["answer"])
        if not isinstance(fields, dict) or not fields:
            raise ValueError(f"answer has no fields: {str(row['answer'])[:80]!r}")
        answer = str(next(iter(fields.values()))) if len(fields) == 1 else json.dumps(fields, ensure_ascii=False)
        question = "\n".join(row[f] for f in ("task_description", "example_text", "query_text") if row.get(f))
        media = [path.removeprefix("./") if isinstance(path, str) else path for path in media]
        return {**row, "question": question, "images": media, "answer": answer, "fields": json.dumps(fields)}


class Frozen(Schema):
    """What `specs data check --freeze` writes: prompts whose choices and system message stand in their messages."""

    required = ("messages", "images", "single_image")

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        images = row["images"][0] if row["single_image"] else row["images"]
        kept = {name: value for name, value in row.items() if name not in ("metadata", "single_image")}
        return {**json.loads(row["metadata"]), **kept, "images": images}


SCHEMAS: dict[str, type[Schema]] = {
    "generic": Schema,
    "orsta_47k": Orsta47k,
    "virl39k": ViRL39k,
    "mm_eureka": MMEureka,
    "mathvista": MathVista,
    "mathverse": MathVerse,
    "mathvision": MathVision,
    "mmmu": MMMU,
    "mega_bench": MEGABench,
    "verl": Verl,
    "easyr1": EasyR1,
    "trl": TRL,
    "llama_factory": LLaMAFactory,
    "ms_swift": MsSwift,
    "frozen": Frozen,
}


def find_schema(name: str) -> Schema:
    """The schema of this name, or of this class path; `SchemaError` where there is none."""
    if name in SCHEMAS:
        return SCHEMAS[name]()
    module, _, attribute = name.rpartition(".")
    if not module:
        raise SchemaError(f"unknown schema {name!r}; there are: {', '.join(SCHEMAS)}; or the class path of your own")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SchemaError(f"schema {name}: {error}; a class path is looked for from the working directory") from error
    if not (isinstance(found, type) and issubclass(found, Schema)):
        raise SchemaError(f"schema {name} is no subclass of specs_lightning.data.schemas.Schema")
    return found()


def mended(answer: Any) -> Any:
    r"""A gold answer with a `\boxed{` that never closes taken out of it, if what is inside is whole."""
    if not isinstance(answer, str):
        return answer
    _, boxed, inside = answer.rpartition(r"\boxed{")
    missing = inside.count("{") - inside.count("}")
    return inside.strip().rstrip("$").strip() if boxed and missing == 0 else answer


def in_pixels(answer: Any, gold: dict[str, Any], images: Any) -> str:
    """The boxes of a detection row, out of their tags, in pixels of its one image."""
    objects = read_boxes(str(answer).replace("<answer>", "").replace("</answer>", ""))
    if not objects:
        raise ValueError(f"gold answer is no list of boxes: {str(answer)[:80]!r}")
    settings = gold.get("verifier_parm")
    settings = json.loads(settings) if isinstance(settings, str) else settings or {}
    width = height = 1000
    if settings.get("det_verifier_normalized"):
        if not isinstance(images, list) or len(images) != 1:
            raise ValueError("boxes of a row that has not one image")
        content = images[0].get("bytes") if isinstance(images[0], dict) else images[0]
        if not isinstance(content, bytes):
            raise ValueError("boxes of an image that is not in the row")
        width, height = load_image(content).size
    rows = [
        {"bbox_2d": [side * length / 1000 for side, length in zip(one.box, (width, height) * 2, strict=True)]}
        | {"label": one.label}
        for one in objects
    ]
    return json.dumps(rows)


def with_image(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the picture itself for `image`, where the file also holds it and not only its path."""
    return {**row, "image": decoded} if (decoded := row.get("decoded_image")) else row


def renamed_type(row: dict[str, Any]) -> dict[str, Any]:
    """The row's own `answer_type` under a name that does not collide with ours: its words are other ones."""
    return {"published_answer_type": row["answer_type"]} if "answer_type" in row else {}


def listed(value: Any) -> list[Any] | None:
    """A list, given as one or as Python or JSON in a string; `None` of anything else.

    `ValueError` of an array as numpy prints it: its commas are lost, and Python would read `['a' 'b']` as one text.
    """
    if isinstance(value, str) and value.strip().startswith(("[", "array(")):
        if _is_printed_array(value.strip()):
            raise ValueError(
                f"array as numpy prints it, without commas: {value[:80]!r}; save it as a list (`tolist()`)"
            )
        value = _literal(value.strip())
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes | dict) else None


def _is_printed_array(text: str) -> bool:
    """Whether two texts or numbers stand next to each other."""
    if text.startswith("array("):
        return True
    try:
        tokens = [token.type for token in tokenize.generate_tokens(io.StringIO(text).readline)]
    except (tokenize.TokenError, SyntaxError):
        return False
    kinds = [kind for kind in tokens if kind not in (tokenize.NL, tokenize.NEWLINE)]
    return any(one == other and one in (tokenize.STRING, tokenize.NUMBER) for one, other in pairwise(kinds))


def _literal(value: Any) -> Any:
    """What Python reads in a string, `None` where it is no literal; anything else as it is."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
