"""Batches are taken apart without losing or mixing up anything."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specs_lightning.groups import Completion, EncodedPrompt, Group, GroupBatch, Prompt


def prompt_of(length: int, name: str = "p") -> EncodedPrompt:
    return EncodedPrompt(name, torch.arange(length))


def full_batch(prompt_lengths: list[int], lengths: list[list[int]]) -> GroupBatch:
    """A batch whose every tensor tells which completion and token it is of."""
    prompts = [prompt_of(length, f"p{g}") for g, length in enumerate(prompt_lengths)]
    n = 0
    completions: list[list[list[int]]] = []
    for group in lengths:
        completions.append([[100 * (n + i) + t for t in range(length)] for i, length in enumerate(group)])
        n += len(group)
    batch = GroupBatch.from_token_ids(prompts, completions, temperature=0.7, fresh=True)
    row_N, token_NT = torch.arange(n), batch.completion_ids_NT.float()
    return replace(
        batch,
        advantages_N=row_N + 0.1,
        rewards_N=row_N + 0.2,
        finished_N=row_N % 2 == 0,
        old_logprobs_NT=token_NT + 0.3,
        sampler_logprobs_NT=token_NT + 0.6,
        reference_logprobs_NT=token_NT + 0.4,
        reference_logprobs_N=row_N + 0.5,
        index_N=row_N + 1000,
    )


def contents(batch: GroupBatch) -> list[tuple]:
    """All that belongs to each completion, padding left out."""
    rows = []
    for n, length in enumerate(batch.lengths_N.tolist()):
        rows.append(
            (
                batch.prompts[int(batch.group_N[n])].id,
                *(
                    None if tensor is None else tensor[n, :length].tolist()
                    for tensor in (
                        batch.completion_ids_NT,
                        batch.mask_NT,
                        batch.old_logprobs_NT,
                        batch.sampler_logprobs_NT,
                        batch.reference_logprobs_NT,
                    )
                ),
                *(
                    None if tensor is None else tensor[n].item()
                    for tensor in (
                        batch.advantages_N,
                        batch.rewards_N,
                        batch.finished_N,
                        batch.reference_logprobs_N,
                        batch.index_N,
                    )
                ),
            )
        )
    return rows


def padded_tokens(batch: GroupBatch, shared_prefix: bool) -> int:
    """All tokens of the one row; or rows times the longest. Counted from the definition of a row."""
    rows = []
    for g, prompt in enumerate(batch.prompts):
        lengths = batch.lengths_N[batch.group_N == g].tolist()
        rows += [len(prompt) + sum(lengths)] if shared_prefix else [len(prompt) + length for length in lengths]
    return sum(rows) if shared_prefix else len(rows) * max(rows)


lengths_of_groups = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=5)


@st.composite
def batches(draw: st.DrawFn) -> GroupBatch:
    lengths = draw(lengths_of_groups)
    prompt_lengths = draw(st.lists(st.integers(1, 15), min_size=len(lengths), max_size=len(lengths)))
    return full_batch(prompt_lengths, lengths)


class TestPacking:
    def test_completions_are_padded_and_every_token_counts(self) -> None:
        batch = full_batch([3, 2], [[2, 1], [3]])
        assert batch.completion_ids_NT.tolist() == [[0, 1, 0], [100, 0, 0], [200, 201, 202]]
        assert batch.mask_NT.tolist() == [[True, True, False], [True, False, False], [True, True, True]]
        assert batch.group_N.tolist() == [0, 0, 1]
        assert batch.lengths_N.tolist() == [2, 1, 3]
        assert batch.group_sizes == [2, 1]
        assert len(batch) == 3

    def test_scored_groups_keep_order_scores_and_the_engines_logprobs(self) -> None:
        def complete(ids: tuple[int, ...], finished: bool) -> Completion:
            return Completion(ids, tuple(-0.5 * i for i in ids), "", finished)

        groups = [
            Group(prompt_of(3, "a"), [complete((1, 2), True), complete((3,), False)], torch.tensor([1.5, math.nan])),
            Group(prompt_of(1, "b"), [complete((4, 5, 6), True)], torch.tensor([0.5])),
        ]
        batch = GroupBatch.from_groups(groups, temperature=0.7)
        assert [prompt.id for prompt in batch.prompts] == ["a", "b"]
        assert batch.completion_ids_NT.tolist() == [[1, 2, 0], [3, 0, 0], [4, 5, 6]]
        assert batch.sampler_logprobs_NT.tolist() == [[-0.5, -1.0, 0.0], [-1.5, 0.0, 0.0], [-2.0, -2.5, -3.0]]
        assert batch.old_logprobs_NT is None
        assert batch.rewards_N.isnan().tolist() == [False, True, False]
        assert batch.rewards_N[[0, 2]].tolist() == [1.5, 0.5]
        assert batch.finished_N.tolist() == [True, False, True]
        assert batch.temperature == 0.7

    def test_the_old_policys_logprobs_are_taken_where_every_group_has_them(self) -> None:
        def group(*lengths: int) -> Group:
            completions = [Completion((1,) * length, (-1.0,) * length, "", True) for length in lengths]
            return Group(prompt_of(2), completions, torch.ones(len(lengths)))

        groups = [group(2, 1), group(3)]
        groups[0].old_logprobs = [torch.tensor([-0.1, -0.2]), torch.tensor([-0.3])]
        assert GroupBatch.from_groups(groups).old_logprobs_NT is None
        groups[1].old_logprobs = [torch.tensor([-0.4, -0.5, -0.6])]
        old_NT = GroupBatch.from_groups(groups).old_logprobs_NT
        assert old_NT is not None
        torch.testing.assert_close(old_NT, torch.tensor([[-0.1, -0.2, 0.0], [-0.3, 0.0, 0.0], [-0.4, -0.5, -0.6]]))

    def test_moving_takes_prompts_and_every_tensor_along_but_for_images_which_may_not_be_needed(self) -> None:
        batch = full_batch([3, 2], [[2, 1], [3]])
        batch.prompts[0].vision = {"pixel_values": torch.ones(2)}
        moved = batch.to("meta")
        assert moved.prompts[0].input_ids.is_meta and not moved.prompts[0].vision["pixel_values"].is_meta
        assert moved.completion_ids_NT.is_meta and moved.old_logprobs_NT.is_meta and moved.rewards_N.is_meta
        assert not batch.completion_ids_NT.is_meta
        assert moved.fresh and moved.temperature == 0.7


class TestSelect:
    @given(batches(), st.data())
    def test_the_selected_keep_all_that_is_theirs(self, batch: GroupBatch, data: st.DataObject) -> None:
        indices = sorted(data.draw(st.sets(st.integers(0, len(batch) - 1), min_size=1)))
        selected = batch.select(indices)
        everything = contents(batch)
        assert contents(selected) == [everything[i] for i in indices]
        assert selected.completion_ids_NT.shape[1] == selected.lengths_N.max()
        assert 0 not in selected.group_sizes
        assert selected.temperature == batch.temperature and selected.fresh == batch.fresh

    def test_selecting_none_gives_an_empty_batch(self) -> None:
        selected = full_batch([3, 2], [[2, 1], [3]]).select([])
        assert len(selected) == 0
        assert selected.prompts == []
        assert selected.old_logprobs_NT.shape == (0, 0)

    def test_what_is_absent_stays_absent(self) -> None:
        selected = GroupBatch.from_token_ids([prompt_of(2)], [[[1], [2]]]).select([1])
        assert selected.rewards_N is None and selected.old_logprobs_NT is None


class TestMicroBatches:
    @settings(max_examples=200)
    @given(batches(), st.integers(1, 150), st.booleans(), st.booleans())
    def test_nothing_is_lost_reordered_or_over_the_budget(
        self, batch: GroupBatch, max_tokens: int, shared_prefix: bool, whole_groups: bool
    ) -> None:
        parts = batch.micro_batches(max_tokens, shared_prefix, whole_groups)
        assert [row for part in parts for row in contents(part)] == contents(batch)
        for part in parts:
            is_one_unit = len(part.prompts) == 1 if whole_groups else len(part) == 1
            assert is_one_unit or padded_tokens(part, shared_prefix) <= max_tokens
        if whole_groups:
            assert [size for part in parts for size in part.group_sizes] == batch.group_sizes

    @given(batches(), st.integers(1, 150), st.booleans(), st.booleans())
    def test_each_takes_as_much_as_fits(
        self, batch: GroupBatch, max_tokens: int, shared_prefix: bool, whole_groups: bool
    ) -> None:
        parts = batch.micro_batches(max_tokens, shared_prefix, whole_groups)
        start = 0
        for part, following in pairwise(parts):
            first_unit = following.group_sizes[0] if whole_groups else 1
            grown = batch.select(range(start, start + len(part) + first_unit))
            assert padded_tokens(grown, shared_prefix) > max_tokens
            start += len(part)

    def test_a_prompt_is_repeated_where_its_completions_do_not_fit_in_one_row(self) -> None:
        batch = full_batch([10], [[5, 5, 5]])
        parts = batch.micro_batches(20)
        assert [part.lengths_N.tolist() for part in parts] == [[5, 5], [5]]
        assert all(part.prompts[0] is batch.prompts[0] for part in parts)

    def test_a_unit_over_the_budget_stands_alone(self) -> None:
        batch = full_batch([2, 50, 2], [[1], [1], [1]])
        assert [[p.id for p in part.prompts] for part in batch.micro_batches(10)] == [["p0"], ["p1"], ["p2"]]

    def test_whole_groups_stay_whole_even_over_the_budget(self) -> None:
        batch = full_batch([5, 5], [[9, 9], [1, 1]])
        assert [part.group_sizes for part in batch.micro_batches(12, whole_groups=True)] == [[2], [2]]

    def test_padded_rows_are_counted_with_their_prompt_each(self) -> None:
        batch = full_batch([10], [[5, 5, 5]])
        assert [len(part) for part in batch.micro_batches(30, shared_prefix=False)] == [2, 1]
        assert [len(part) for part in batch.micro_batches(30)] == [3]

    def test_a_batch_that_fits_is_not_copied(self) -> None:
        batch = full_batch([3, 2], [[2, 1], [3]])
        assert batch.micro_batches(1000) == [batch]

    def test_the_budget_must_be_positive(self) -> None:
        with pytest.raises(ValueError, match="max_tokens"):
            full_batch([3], [[2]]).micro_batches(0)


def test_the_text_of_a_prompt_leaves_images_out() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "How many?"}]
    prompt = Prompt("p", ({"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}))
    assert prompt.text == "Be brief.\nHow many?"
