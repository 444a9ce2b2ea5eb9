"""Cells as files hold them: images, golds, numbers, and what stands for nothing."""

from __future__ import annotations

import base64
import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from helpers.questions import png

from specs_lightning.data.values import (
    image_cells,
    is_missing,
    nested,
    numbered_images,
    plain_values,
    read_gold,
    read_image,
    read_precision,
    refuse_surrogates,
)
from specs_lightning.prompts.images import BadImage

NAN = float("nan")


@pytest.mark.parametrize("value", [None, "", b"", NAN])
def test_nothing_has_several_forms(value: Any) -> None:
    assert is_missing(value)
    assert image_cells(value) == ([], True)
    assert read_precision(value) is None


def test_a_gold_that_is_nothing_is_refused() -> None:
    for value in (None, "", " ", NAN):
        with pytest.raises(ValueError, match="empty gold answer"):
            read_gold(value)


@pytest.mark.parametrize("value", [0, False, "0", b"0", [None], {}])
def test_what_is_there_is_not_missing(value: Any) -> None:
    assert not is_missing(value)


@pytest.mark.parametrize(
    ("value", "images", "single"),
    [
        ("a.png", ["a.png"], True),
        (["a.png", "b.png"], ["a.png", "b.png"], False),
        ('["a.png", "b.png"]', ["a.png", "b.png"], False),
        ([None], [], False),
        ([None, "", {"bytes": None, "path": None}, NAN], [], False),
        ({"bytes": None, "path": None}, [], True),
        (["a.png", None], ["a.png", None], False),
        ([], [], False),
    ],
)
def test_images_stand_in_a_cell_in_several_forms(value: Any, images: list[Any], single: bool) -> None:
    assert image_cells(value) == (images, single)


def test_a_list_of_images_as_numpy_prints_it_is_refused() -> None:
    with pytest.raises(ValueError, match="array as numpy prints it"):
        image_cells("['a.png' 'b.png']")


def test_an_image_may_be_a_path_bytes_or_text(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    text = base64.b64encode(png()).decode()
    for value in (png(), {"bytes": png(), "path": None}, text, {"bytes": text}, f"data:image/png;base64,{text}"):
        assert read_image(value, tmp_path) == png()
    assert read_image("a.png", tmp_path) == (tmp_path / "a.png").resolve()
    for value, problem in ((None, "neither a path nor bytes"), ("b.png", "missing"), ("a" * 300, "unreadable image")):
        with pytest.raises(BadImage, match=problem):
            read_image(value, tmp_path)


def test_images_are_no_metadata() -> None:
    """Of many megabytes each, as text."""
    images = {"image_2": "b", "image_1": "a", "image_3": None, "shot": {"bytes": b"c"}, "frames": [{"bytes": b"c"}]}
    row = {**images, "level": 3, "image_kind": "photo"}
    assert numbered_images(row) == ["a", "b"]
    assert plain_values(row) == {"level": 3, "image_kind": "photo"}


def test_metadata_is_what_json_can_hold() -> None:
    kept = {"text": "a", "share": 0.5, "flag": True, "tags": ["x", None], "boxes": [[0, 1]], "info": {"a": {"b": []}}}
    left_out = {"nothing": None, "day": datetime.date(2026, 1, 2), "days": [datetime.date(2026, 1, 2)], "by": {1: 2}}
    assert plain_values({**kept, **left_out}) == kept
    assert json.loads(json.dumps(plain_values(kept))) == kept


def test_golds_come_with_their_units_and_out_of_their_wrapping() -> None:
    assert read_gold(4) == "4"
    assert read_gold(" 4 ", "cm") == "4 cm"
    assert read_gold("<answer>4</answer>", "cm") == "4 cm"
    assert read_gold("red", "cm") == "red"
    assert read_gold(r"\boxed{4}", bare=False) == r"\boxed{4}"
    with pytest.raises(ValueError, match="gold answer is not text or a number: list"):
        read_gold(["4"])


@pytest.mark.parametrize(("value", "places"), [(2, 2), ("2", 2), (2.0, 2), (0, 0)])
def test_decimal_places_are_read(value: Any, places: int) -> None:
    assert read_precision(value) == places


@pytest.mark.parametrize("value", ["two", -1, 1.5, [], "13"])
def test_other_precisions_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="precision is no number of decimal places"):
        read_precision(value)


def test_a_dotted_name_leads_into_tables() -> None:
    assert nested({"a": {"b": 1}}, "a.b") == 1
    assert nested({"a": 3}, "a.b") is None


@pytest.mark.parametrize("value", ["\ud83d", "a\udc00b", ["x", "\ud83d"], {"a": [{"b": "\udfff"}]}])
def test_half_a_character_is_found_wherever_it_stands(value: Any) -> None:
    with pytest.raises(ValueError, match=r"half a character.*in 'q'"):
        refuse_surrogates({"id": "1", "q": value})


def test_whole_characters_are_no_halves() -> None:
    refuse_surrogates({"q": "😀 ½ 猫", "images": [b"\xed\xa0\xbd"], "n": 3, "none": None})
