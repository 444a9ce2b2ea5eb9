"""Prompts are drawn for in a shuffled order over all data sets alike, and no more of them than it takes."""

from __future__ import annotations

from collections import Counter

import pytest

from specs_lightning.distill.waves import PROMPTS_AT_ONCE, drawing_order, wave_size
from specs_lightning.groups import Prompt


def prompts(**sizes: int) -> list[Prompt]:
    return [
        Prompt(f"{file}-{i}", ({"role": "user", "content": "?"},), metadata={"source_file": file})
        for file, size in sizes.items()
        for i in range(size)
    ]


class TestOrder:
    def test_files_take_turns_for_as_long_as_they_last(self) -> None:
        order = [prompt.metadata["source_file"] for prompt in drawing_order(prompts(large=50, small=10), 0)]
        assert Counter(order[:20]) == {"large": 10, "small": 10}
        assert order[20:] == ["large"] * 40

    def test_every_prompt_stands_in_it_once(self) -> None:
        asked = prompts(a=30, b=7, c=1)
        assert sorted(p.id for p in drawing_order(asked, 3)) == sorted(p.id for p in asked)

    def test_the_seed_shuffles_it(self) -> None:
        asked = prompts(a=30)
        orders = [[prompt.id for prompt in drawing_order(asked, seed)] for seed in (0, 0, 1)]
        assert orders[0] == orders[1] != orders[2]
        assert orders[0] != [prompt.id for prompt in asked]

    def test_a_prompt_less_leaves_the_others_in_their_order(self) -> None:
        asked = prompts(a=30)
        order = drawing_order(asked, 0)
        assert drawing_order(asked[1:], 0) == [prompt for prompt in order if prompt is not asked[0]]


class TestSize:
    def test_the_first_wave_has_a_prompt_for_each_pair(self) -> None:
        assert wave_size(640, 0, 0) == 640

    @pytest.mark.parametrize("wanted", [1, 63, 65, 9000])
    def test_waves_are_whole_batches(self, wanted: int) -> None:
        size = wave_size(wanted, 0, 0)
        assert size % PROMPTS_AT_ONCE == 0 and wanted <= size < wanted + PROMPTS_AT_ONCE

    def test_later_ones_go_by_what_the_earlier_gave(self) -> None:
        assert wave_size(6400, 3200, 6400) == 7040  # half a pair each, and a tenth more

    def test_where_nothing_was_made_twice_as_many_are_asked(self) -> None:
        assert wave_size(64, 0, 640) == 640
