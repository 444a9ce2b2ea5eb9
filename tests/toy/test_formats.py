"""The base is asked in many ways, and never in those that are called new to it."""

from __future__ import annotations

import random
from collections import Counter

from helpers.command_line import ROOT

from specs_lightning.scoring.answer_formats import HeadingFormat, LineFormat, TagFormat
from specs_lightning.toy import formats, scenes
from specs_lightning.toy_training.base_model import TO_ANSWER, TO_FOLLOW, draw_task

N = 4000


def test_every_way_of_asking_names_all_that_is_to_be_written() -> None:
    rng = random.Random(0)
    asked = [formats.ask(formats.draw_format(rng), rng) for _ in range(N)]
    for form, instruction in asked:
        assert all(word in instruction for word in formats.words_of(form)), instruction
        assert "{0}" not in instruction and "{{" not in instruction
        assert form.read(form.write("a1 red circle", "5")) is not None
    own = sum(form.instruction == instruction for form, instruction in asked)
    assert abs(own / N - 0.5) < 0.05


def test_many_formats_are_drawn_and_half_of_them_have_tags() -> None:
    rng = random.Random(0)
    kinds = Counter(type(formats.draw_format(rng)) for _ in range(N))
    assert abs(kinds[TagFormat] / N - 0.6) < 0.05  # a sixth of them in square brackets
    assert len(kinds) == 5 and min(kinds.values()) > 0.05 * N
    assert len({formats.draw_format(rng) for _ in range(N)}) > 150


def test_the_base_is_never_asked_in_what_is_new_to_it() -> None:
    """Neither with these tags, nor in this wording: read from what it is taught."""
    rng = random.Random(0)
    new = [part for form in (TagFormat(*formats.NEW_TAGS), TagFormat(*formats.NEW_TAGS, "[]")) for part in form.tags]
    capital = [word.capitalize() for word in formats.NEW_TAGS]
    new += [LineFormat(word).word + ":" for word in capital] + [*HeadingFormat(*capital).headings]
    new += [f'"{word}":' for word in formats.NEW_TAGS] + ["Begin with", "stands between"]
    assert all(part in formats.NEW_WORDING for part in new[-2:])
    for lesson in (TO_FOLLOW, TO_ANSWER):
        for _ in range(N):
            taught = "\n".join(draw_task(scenes.draw_scene(rng), lesson, rng))
            assert not [part for part in new if part in taught], taught


def test_the_new_wording_is_the_one_that_configurations_ask_in() -> None:
    asked = formats.NEW_WORDING.format(*formats.words_of(TagFormat("think", "answer")))
    for file in ("toy/specs", "toy/evaluate", "ablations/base"):
        assert f"instruction: {asked}\n" in (ROOT / "configs" / f"{file}.yaml").read_text()


def test_its_words_are_known_to_it_all_the_same() -> None:
    rng = random.Random(0)
    said = " ".join(draw_task(scenes.draw_scene(rng), TO_FOLLOW, rng)[0] for _ in range(N))
    assert all(f" {word}" in said for word in formats.NEW_TAGS)
