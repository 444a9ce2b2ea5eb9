"""Completions are dealt so that nothing is lost, none waits needlessly, and the budget holds."""

from __future__ import annotations

import pytest
from helpers.step_batches import batch_of
from hypothesis import given, settings
from hypothesis import strategies as st

from specs_lightning.groups import GroupBatch
from specs_lightning.policy.dealing import busy_share, deal, idle_note

lengths_of_groups = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=6)


def tokens(batch: GroupBatch, indices: list[int], shared_prefix: bool = True) -> int:
    """What a micro-batch takes, counted on the batch itself: each prompt is one token long."""
    if not indices:
        return 0
    part = batch.select(indices)
    if shared_prefix:
        return len(part.prompts) + int(part.lengths_N.sum())
    return len(part) * (1 + int(part.lengths_N.max()))


@settings(max_examples=200, deadline=None)
@given(lengths_of_groups, st.integers(1, 9), st.integers(1, 120), st.booleans(), st.booleans())
def test_each_completion_is_dealt_once_within_the_budget_and_no_process_is_left_out(
    lengths: list[list[int]], processes: int, max_tokens: int, shared_prefix: bool, whole_groups: bool
) -> None:
    batch = batch_of(lengths)
    dealt = deal(batch, processes, max_tokens, shared_prefix, whole_groups)
    parts = [part for parts in dealt for part in parts]
    assert sorted(n for part in parts for n in part) == list(range(len(batch)))
    assert len({len(parts) for parts in dealt}) == 1 and len(dealt) == processes
    for part in parts:
        assert part == sorted(part)
        groups = [batch.group_N[n].item() for n in part]
        single = len(set(groups)) == 1 if whole_groups else len(part) == 1
        assert single or tokens(batch, part, shared_prefix) <= max_tokens
        if whole_groups:
            assert all(groups.count(g) == len(lengths[int(g)]) for g in groups)
    units = len(lengths) if whole_groups else len(batch)
    assert sum(any(parts) for parts in dealt) == min(units, processes)


@settings(deadline=None)
@given(lengths_of_groups, st.integers(2, 6))
def test_a_process_with_nothing_to_run_means_that_no_other_could_hand_something_over(
    lengths: list[list[int]], processes: int
) -> None:
    dealt = deal(batch_of(lengths), processes, 10_000)
    if not all(any(parts) for parts in dealt):
        assert all(len(part) <= 1 for parts in dealt for part in parts)


def test_a_long_group_is_split_and_short_ones_stay_whole() -> None:
    batch = batch_of([[40, 40, 40, 40], [20, 20], [20, 20]])
    dealt = deal(batch, 3, 1000)
    assert sorted(tokens(batch, part) for parts in dealt for part in parts) == [81, 81, 82]
    of_groups = {tuple(sorted({int(batch.group_N[n]) for n in part})) for parts in dealt for part in parts}
    assert of_groups == {(0,), (1, 2)}


def test_the_longest_completion_bounds_what_is_best() -> None:
    batch = batch_of([[100, 1, 1, 1], [30, 30, 30, 1]])
    (longest, *others) = sorted((tokens(batch, part) for (part,) in deal(batch, 3, 1000)), reverse=True)
    assert longest == 101
    assert sum(others) < 100 and all(others)


def test_equal_completions_go_to_all_alike_whatever_the_groups() -> None:
    batch = batch_of([[1500] * 8] * 16)
    for processes in (6, 14, 48):
        dealt = deal(batch, processes, 16384)
        most = max(sum(map(len, parts)) for parts in dealt)
        assert most == -(-128 // processes)


def test_processes_that_wait_for_each_other_in_each_micro_batch_meet_like_sizes() -> None:
    lengths = [[100 + 37 * ((g * 8 + i) % 11) for i in range(8)] for g in range(16)]
    batch = batch_of(lengths)
    dealt = deal(batch, 4, 3000)
    assert len(dealt[0]) > 2
    assert busy_share([[tokens(batch, part) for part in parts] for parts in dealt]) > 0.95


def test_the_busy_share_is_that_of_the_time_until_the_slowest_of_each_micro_batch_is_done() -> None:
    assert busy_share([[4, 2], [4, 2]]) == 1
    assert busy_share([[4, 2], [2, 4]]) == 12 / 16
    assert busy_share([[3], [0], [0]]) == pytest.approx(1 / 3)


def test_all_processes_come_to_the_same() -> None:
    lengths = [[7, 7, 3], [7, 7, 3], [5]]
    assert deal(batch_of(lengths), 3, 20) == deal(batch_of(lengths), 3, 20)


def test_the_budget_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_tokens"):
        deal(batch_of([[2]]), 2, 0)


def test_too_few_parts_for_all_processes_are_told_with_what_to_do() -> None:
    assert idle_note(128, 6, "more") is None and idle_note(128, 1, "more") is None
    told = idle_note(128, 48, "a larger data.batch_size")
    assert told is not None and "128 parts" in told and "48 processes" in told
    assert "wait 11%" in told and "take a larger data.batch_size, or fewer processes" in told
    assert "wait 50%" in str(idle_note(1, 2, "more"))
