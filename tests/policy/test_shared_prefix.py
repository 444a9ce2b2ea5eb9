"""A completion in a shared row is computed as if it stood alone behind its prompt."""

from pathlib import Path

import pytest
import torch
from helpers.tiny_policies import (
    encode,
    gradient,
    mixed_batch,
    mixed_prompts,
    plain_logprobs,
    random_completions,
    relative_difference,
    sharp_policy,
)
from torch import Tensor

from specs_lightning.groups import EncodedPrompt, GroupBatch
from specs_lightning.policy.policy import Policy
from specs_lightning.policy.shared_prefix import join_vision, next_positions, pack_rows

LAYOUTS = pytest.mark.parametrize("shared_prefix", [True, False], ids=["shared", "padded"])


@pytest.fixture(scope="module")
def policies(tiny_model_path: Path) -> dict[bool, Policy]:
    """The same model in both layouts, its vision tower trained, too."""
    return {
        shared: sharp_policy(tiny_model_path, shared_prefix=shared, freeze_vision=False) for shared in (True, False)
    }


def random_weights(batch: GroupBatch) -> Tensor:
    return torch.randn(batch.mask_NT.shape, generator=torch.Generator().manual_seed(1))


@LAYOUTS
@pytest.mark.parametrize("k", [1, 2, 8])
def test_logprobs_and_gradients_are_those_of_each_sequence_alone(
    policies: dict[bool, Policy], k: int, shared_prefix: bool
) -> None:
    policy = policies[shared_prefix]
    assert policy.shared_prefix == shared_prefix
    batch = mixed_batch(policy, k)
    weights_NT = random_weights(batch)
    logprobs_NT = policy.token_logprobs(batch).logprobs
    expected_NT = plain_logprobs(policy, batch)
    assert (logprobs_NT - expected_NT).abs().max() <= 1e-5
    assert not logprobs_NT[~batch.mask_NT].any()
    measured = gradient(policy, (weights_NT * logprobs_NT).sum())
    expected = gradient(policy, (weights_NT * expected_NT).sum())
    assert relative_difference(measured, expected) <= 1e-5


def test_every_trained_weight_has_a_gradient(policies: dict[bool, Policy]) -> None:
    """So that the comparisons of gradients above speak of the vision tower, too."""
    policy = policies[True]
    policy.token_logprobs(mixed_batch(policy, 2)).logprobs.sum().backward()
    without = [name for name, weight in policy.named_parameters() if weight.grad is None or not weight.grad.any()]
    policy.zero_grad()
    assert without == []


def test_logprobs_depend_on_image_prompt_and_earlier_tokens(policies: dict[bool, Policy]) -> None:
    """So that the comparisons above could fail."""
    policy = policies[True]
    prompt = encode(policy, "p", "How many?", [(84, 84)])
    other = encode(policy, "q", "How many?", [(84, 84)])
    other.vision = {**other.vision, "pixel_values": -other.vision["pixel_values"]}
    third = encode(policy, "r", "How much?", [(84, 84)])
    batch = GroupBatch.from_token_ids([prompt, other, third], [[[70, 71, 72, 73], [80, 71, 72, 73]], *[[[70, 71]]] * 2])
    first_NT = policy.token_logprobs(batch).logprobs
    assert (first_NT[0, 1:] - first_NT[1, 1:]).abs().max() > 0.1
    assert (first_NT[0, :2] - first_NT[2, :2]).abs().max() > 0.01
    assert (first_NT[0, :2] - first_NT[3, :2]).abs().max() > 0.01


def test_only_masked_tokens_are_scored_and_the_others_still_seen(policies: dict[bool, Policy]) -> None:
    policy = policies[True]
    batch = mixed_batch(policy, 3)
    full_NT = policy.token_logprobs(batch).logprobs
    batch.mask_NT = batch.mask_NT & (torch.rand(batch.mask_NT.shape, generator=torch.Generator().manual_seed(2)) < 0.5)
    part_NT = policy.token_logprobs(batch).logprobs
    assert 0 < batch.mask_NT.sum() < len(full_NT.flatten())
    assert torch.allclose(part_NT, full_NT * batch.mask_NT, atol=1e-6)


def test_nothing_to_score_gives_zeros_that_have_a_gradient(policies: dict[bool, Policy]) -> None:
    """Ranks run the same number of passes, even one whose completions are all masked out."""
    policy = policies[True]
    batch = mixed_batch(policy, 2)
    batch.mask_NT = torch.zeros_like(batch.mask_NT)
    logprobs_NT = policy.token_logprobs(batch).logprobs
    assert not logprobs_NT.any()
    assert not gradient(policy, logprobs_NT.sum()).any()


@LAYOUTS
@pytest.mark.parametrize("max_tokens", [1, 70, 200])
def test_gradients_add_up_over_rows_split_by_the_token_budget(
    policies: dict[bool, Policy], shared_prefix: bool, max_tokens: int
) -> None:
    policy = policies[shared_prefix]
    batch = mixed_batch(policy, 4, seed=3)
    weights_NT = random_weights(batch)
    expected_NT = policy.token_logprobs(batch).logprobs
    expected = gradient(policy, (weights_NT * expected_NT).sum())

    micro_batches = batch.micro_batches(max_tokens, shared_prefix)
    measured, start = torch.zeros_like(expected), 0
    for micro_batch in micro_batches:
        n, t = micro_batch.mask_NT.shape
        logprobs_NT = policy.token_logprobs(micro_batch).logprobs
        assert (logprobs_NT - expected_NT[start : start + n, :t]).abs().max() <= 1e-5
        measured += gradient(policy, (weights_NT[start : start + n, :t] * logprobs_NT).sum())
        start += n
    assert len(micro_batches) == len(batch) if max_tokens == 1 else 1 < len(micro_batches) < len(batch)
    assert start == len(batch)
    assert relative_difference(measured, expected) <= 1e-5


def test_temperature_and_entropy_are_those_of_the_plain_model(policies: dict[bool, Policy]) -> None:
    policy = policies[True]
    batch = mixed_batch(policy, 2)
    scored = policy.token_logprobs(batch, temperature=0.7, with_entropy=True)
    assert (scored.logprobs - plain_logprobs(policy, batch, 0.7)).abs().max() <= 1e-5
    assert scored.entropy is not None and not scored.entropy.requires_grad
    assert (scored.entropy[batch.mask_NT] > 0).all() and not scored.entropy[~batch.mask_NT].any()


def test_gradient_checkpointing_changes_nothing(tiny_model_path: Path, policies: dict[bool, Policy]) -> None:
    recomputing = sharp_policy(tiny_model_path, freeze_vision=False, gradient_checkpointing=True)
    runs = []
    recomputing.model.base_model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    batch = mixed_batch(recomputing, 2)
    measured = gradient(recomputing, recomputing.token_logprobs(batch).logprobs.sum())
    assert len(runs) == 2  # it does recompute
    expected = gradient(policies[True], policies[True].token_logprobs(batch).logprobs.sum())
    assert relative_difference(measured, expected) <= 1e-5


def test_attention_that_cannot_take_the_mask_runs_on_padded_rows(
    tiny_model_path: Path, policies: dict[bool, Policy], caplog: pytest.LogCaptureFixture
) -> None:
    """transformers' eager attention would add the mask's true and false as 1 and 0, silently."""
    eager = sharp_policy(tiny_model_path, attention="eager")
    assert not eager.shared_prefix
    assert "padded rows" in caplog.text
    batch = mixed_batch(eager, 3)
    expected_NT = policies[True].token_logprobs(batch).logprobs
    assert (eager.token_logprobs(batch).logprobs - expected_NT).abs().max() <= 1e-5


def text_prompt(ids: list[int]) -> EncodedPrompt:
    return EncodedPrompt(str(ids), torch.tensor(ids))


def count_from_zero(prompt: EncodedPrompt) -> Tensor:
    return torch.arange(len(prompt))[None]


class TestRows:
    def test_the_row_is_each_prompt_and_its_completions_in_turn_without_padding(self) -> None:
        batch = GroupBatch.from_token_ids([text_prompt([1, 2, 3]), text_prompt([4])], [[[5, 6], [7]], [[8]]])
        inputs, predictors_M = pack_rows(batch, count_from_zero, pad_id=9)
        assert inputs["input_ids"].tolist() == [[1, 2, 3, 5, 6, 7, 4, 8]]
        assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 0, 1]]
        assert predictors_M.tolist() == [2, 3, 2, 6]

    def test_padded_rows_hold_one_completion_each(self) -> None:
        batch = GroupBatch.from_token_ids([text_prompt([1, 2, 3]), text_prompt([4])], [[[5, 6], [7]], [[8]]])
        inputs, predictors_M = pack_rows(batch, count_from_zero, shared_prefix=False)
        assert inputs["input_ids"].tolist() == [[1, 2, 3, 5, 6], [1, 2, 3, 7, 0], [4, 8, 0, 0, 0]]
        assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]
        assert predictors_M.tolist() == [2, 3, 7, 10]

    def test_images_are_run_once_a_prompt(self, policies: dict[bool, Policy]) -> None:
        policy = policies[True]
        prompts = mixed_prompts(policy)
        batch = GroupBatch.from_token_ids(prompts, random_completions(policy, [8] * len(prompts)))
        shared, _ = pack_rows(batch, policy.positions)
        assert len(shared["image_grid_thw"]) == 4
        assert torch.equal(shared["pixel_values"], join_vision(prompts)["pixel_values"])
        padded, _ = pack_rows(batch, policy.positions, shared_prefix=False)
        assert len(padded["image_grid_thw"]) == 4 * 8

    def test_images_are_joined_along_the_axis_that_is_told(self, policies: dict[bool, Policy]) -> None:
        first, second = mixed_prompts(policies[True])[0], mixed_prompts(policies[True])[2]
        first.vision, second.vision = ({"patches": torch.rand(1, 3, size)} for size in (4, 6))
        joined = join_vision([first, second], {"patches": -1})["patches"]
        assert torch.equal(joined, torch.cat([first.vision["patches"], second.vision["patches"]], dim=-1))

    def test_several_position_rows_continue_from_their_own_ends(self) -> None:
        """An image of 2x2 takes four tokens but two positions, so M-RoPE's rows lag behind the count of tokens."""
        position_CP = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 1, 1, 1], [0, 1, 1, 2, 2], [0, 1, 2, 1, 2]])
        assert next_positions([position_CP]).tolist() == [[5], [3], [3], [3]]
