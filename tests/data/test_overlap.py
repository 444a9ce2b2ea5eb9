"""Rows of the same image or question are found by what is seen and read, and stay on one side of a split."""

from __future__ import annotations

import random

import PIL.Image
import pytest
from helpers.questions import png

from specs_lightning.data.overlap import Overlap, RowContent, overlaps, places, question_text, repeated
from specs_lightning.groups import Prompt
from specs_lightning.prompts.images import load_image
from specs_lightning.prompts.messages import build_messages


def content(question: str, *colours: str, answer_format: str = "think_answer") -> RowContent:
    messages = build_messages(question, len(colours), answer_format=answer_format)
    pictures = [PIL.Image.new("RGB", (4, 4), colour) for colour in colours]
    return RowContent.of(Prompt("p", messages, answer_format=answer_format), pictures)


def test_images_are_the_same_by_their_pixels(tmp_path: object) -> None:
    prompt = Prompt("p", build_messages("?", 1))
    picture = load_image(png(8, 6))
    assert RowContent.of(prompt, [picture]) == RowContent.of(prompt, [picture.convert("RGBA").convert("RGB")])
    assert RowContent.of(prompt, [picture]) != RowContent.of(prompt, [picture.transpose(PIL.Image.Transpose.ROTATE_90)])
    one, other = PIL.Image.new("RGB", (2, 8)), PIL.Image.new("RGB", (8, 2))
    assert RowContent.of(prompt, [one]) != RowContent.of(prompt, [other])  # as many bytes, all alike


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("How many?", "  how  MANY? ", True),
        ("x² = ４?", "x2=4?", True),
        ("2 + 2?", "2 - 2?", False),
        ("How many?", "How much?", False),
    ],
)
def test_texts_are_the_same_without_what_does_not_matter(left: str, right: str, same: bool) -> None:
    assert (content(left) == content(right)) is same


def test_how_to_answer_is_no_part_of_the_question() -> None:
    for answer_format in ("boxed", "json", "reasoning_solution"):
        assert content("How many?", answer_format=answer_format) == content("How many?")
    own = Prompt("p", build_messages("How many?\nSay it shortly.", 0, add_instruction=False))
    assert question_text(own, "Say it shortly.") == "howmany?"
    system = Prompt("p", build_messages("How many?", 0, system="Be brief."))
    assert question_text(system) == "howmany?"


def test_overlaps_count_images_and_whole_rows_on_both_sides() -> None:
    sets = {
        "train": [content("a", "red"), content("b", "red"), content("c", "blue"), content("d")],
        "test": [content("A", "red"), content("e", "green"), content("D"), content("d")],
        "other": [content("a")],
    }
    assert overlaps(sets) == [Overlap("train", "test", 1, (2, 1), (2, 3))]
    assert str(overlaps(sets)[0]) == (
        "train and test: 1 images in both (2 rows of train, 1 of test); "
        "the same question in both (2 rows of train, 3 of test)"
    )
    assert overlaps({"one": sets["train"]}) == []


def test_repeated_rows_are_those_after_the_first() -> None:
    rows = [content("a", "red"), content("a", "red"), content("a"), content("A"), content("a", "blue"), content("a")]
    assert repeated(rows) == 3


def test_rows_that_are_linked_by_images_stand_in_one_place() -> None:
    rows = [
        content("a", "red", "blue"),
        content("b", "green", "black"),
        content("c", "blue", "green"),
        content("d", "black"),
        content("e", "white"),
        content("f"),
        content("F"),
        content("f", "white"),
    ]
    found = places(rows)
    assert len(set(found[:4])) == 1
    assert found[5] == found[6]
    assert found[4] == found[7]
    assert len(set(found)) == 3
    assert all(0 <= place < 1 for place in found)


def test_places_do_not_depend_on_the_order_of_the_rows() -> None:
    rows = [content(str(n), f"#0000{n % 50:02x}", f"#0000{n * 7 % 50 + 100:02x}") for n in range(60)]
    expected = dict(zip(rows, places(rows), strict=True))
    random.Random(0).shuffle(rows)
    assert dict(zip(rows, places(rows), strict=True)) == expected


def test_places_are_spread_evenly() -> None:
    found = places([content(str(n), f"#{n:06x}") for n in range(2000)])
    assert 0.07 < sum(place < 0.1 for place in found) / len(found) < 0.13
