"""The embedded engine samples from the policy's own distribution, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers.tiny_policies import encode, mixed_prompts, plain_inputs, plain_logprobs, sharp_policy
from torch import Tensor, nn

from specs_lightning.groups import Completion, EncodedPrompt, GroupBatch
from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import HFEngine, SamplingSettings
from specs_lightning.rollout.hf import inverse_transform


@pytest.fixture(scope="module")
def policy(tiny_model_path: Path) -> Policy:
    return sharp_policy(tiny_model_path)


@pytest.fixture(scope="module")
def prompts(policy: Policy) -> list[EncodedPrompt]:
    return mixed_prompts(policy)


def synced(policy: Policy, **settings: int) -> HFEngine:
    engine = HFEngine(**settings)
    engine.sync(policy)
    return engine


def as_batch(prompts: list[EncodedPrompt], completions: list[list[Completion]]) -> tuple[GroupBatch, Tensor]:
    """The completions, and the engine's log-probabilities of their tokens."""
    batch = GroupBatch.from_token_ids(prompts, [[c.token_ids for c in group] for group in completions])
    logprobs = [torch.tensor(c.logprobs) for group in completions for c in group]
    return batch, torch.nn.utils.rnn.pad_sequence(logprobs, batch_first=True)


@contextmanager
def head_bias(policy: Policy, bias_V: Tensor) -> Iterator[None]:
    """Adds to the model's logits, for the engine and the policy alike."""

    def add(module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        return logits + bias_V

    hook = policy.model.get_output_embeddings().register_forward_hook(add)
    yield
    hook.remove()


def bias_on(policy: Policy, ids: list[int], value: float) -> Tensor:
    bias_V = torch.zeros(policy.model.get_output_embeddings().out_features)
    bias_V[ids] = value
    return bias_V


def stop_ids(policy: Policy) -> list[int]:
    return policy.model.generation_config.eos_token_id


class TestLogprobs:
    @pytest.mark.parametrize("max_sequences", [256, 6])
    @pytest.mark.parametrize("temperature", [1.0, 0.7])
    def test_they_are_the_policys(
        self, policy: Policy, prompts: list[EncodedPrompt], temperature: float, max_sequences: int
    ) -> None:
        """For one image, three and none, with completions that end at different times."""
        sampling = SamplingSettings(3, 12, temperature)
        with head_bias(policy, bias_on(policy, stop_ids(policy), 2.5)), torch.no_grad():
            completions = synced(policy, max_sequences=max_sequences).generate(prompts, sampling, "seed")
            batch, logprobs_NT = as_batch(prompts, completions)
            expected_NT = policy.token_logprobs(batch, temperature).logprobs
            plain_NT = plain_logprobs(policy, batch, temperature)
        assert [len(group) for group in completions] == [3] * len(prompts)
        assert len(set(batch.lengths_N.tolist())) > 3
        assert (logprobs_NT - expected_NT).abs().max() <= 1e-5
        assert (logprobs_NT - plain_NT).abs().max() <= 1e-5

    def test_greedy_ones_are_of_temperature_one(self, policy: Policy, prompts: list[EncodedPrompt]) -> None:
        completions = synced(policy).generate(prompts, SamplingSettings(1, 6, 0.0), "seed")
        batch, logprobs_NT = as_batch(prompts, completions)
        with torch.no_grad():
            assert (logprobs_NT - policy.token_logprobs(batch).logprobs).abs().max() <= 1e-5


def test_greedy_decoding_is_that_of_transformers(policy: Policy, prompts: list[EncodedPrompt]) -> None:
    with head_bias(policy, bias_on(policy, stop_ids(policy), 3.0)):
        completions = synced(policy).generate(prompts, SamplingSettings(2, 20, 0.0), "seed")
        for prompt, group in zip(prompts, completions, strict=True):
            output = policy.model.generate(
                **plain_inputs(policy, prompt),
                do_sample=False,
                max_new_tokens=20,
                suppress_tokens=policy.banned_ids.tolist(),
            )
            assert [list(completion.token_ids) for completion in group] == [output[0, len(prompt) :].tolist()] * 2
    assert {completion.finished for group in completions for completion in group} == {True, False}


class TestRandomness:
    SAMPLING = SamplingSettings(3, 8)

    def test_completions_do_not_depend_on_the_rest_of_the_call(
        self, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        together = synced(policy).generate(prompts, self.SAMPLING, "seed")
        backwards = synced(policy, max_sequences=3).generate(prompts[::-1], self.SAMPLING, "seed")[::-1]
        for i, prompt in enumerate(prompts):
            alone = synced(policy).generate([prompt], self.SAMPLING, "seed")[0]
            for others in (together[i], backwards[i]):
                assert [c.token_ids for c in others] == [c.token_ids for c in alone]

    def test_global_random_state_is_neither_used_nor_changed(
        self, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        torch.manual_seed(1)
        first = synced(policy).generate(prompts, self.SAMPLING, "seed")
        torch.manual_seed(2)
        state = torch.get_rng_state()
        assert synced(policy).generate(prompts, self.SAMPLING, "seed") == first
        assert torch.equal(torch.get_rng_state(), state)

    def test_seed_prompt_and_sample_each_make_a_difference(self, policy: Policy, prompts: list[EncodedPrompt]) -> None:
        twin = encode(policy, "another id", "What is 7 - 3?")
        engine = synced(policy)
        first, same_question = engine.generate([prompts[1], twin], self.SAMPLING, "seed")
        other_seed = engine.generate([prompts[1]], self.SAMPLING, "seed 2")[0]
        assert len({c.token_ids for c in first + same_question + other_seed}) == 9


def chi_square(counts_V: Tensor, probabilities_V: Tensor) -> tuple[float, int]:
    """The statistic and its degrees of freedom, tokens that are expected less than five times taken as one."""
    expected_V = counts_V.sum() * probabilities_V
    often_V = expected_V >= 5
    counts = torch.cat([counts_V[often_V], counts_V[~often_V].sum()[None]])
    expected = torch.cat([expected_V[often_V], expected_V[~often_V].sum()[None]])
    return float(((counts - expected) ** 2 / expected).sum()), len(counts) - 1


class TestDistribution:
    @pytest.mark.parametrize("temperature", [1.0, 0.7])
    def test_frequencies_are_the_models_probabilities(self, policy: Policy, temperature: float) -> None:
        prompt = encode(policy, "p", "How many?", [(84, 84)])
        completions = synced(policy).generate([prompt], SamplingSettings(20_000, 1, temperature), "seed")[0]
        counts_V = torch.bincount(torch.tensor([c.token_ids[0] for c in completions]), minlength=400).double()

        def probabilities(at: float) -> Tensor:
            with torch.no_grad():
                logits = policy.model(**plain_inputs(policy, prompt)).logits[0, -1].double()
            return logits.index_fill(-1, policy.banned_ids, float("-inf")).div(at).softmax(-1)

        statistic, freedom = chi_square(counts_V, probabilities(temperature))
        margin = 4 * (2 * freedom) ** 0.5
        assert abs(statistic - freedom) < margin
        other, freedom = chi_square(counts_V, probabilities(temperature + 0.1))
        assert other - freedom > margin  # it would be noticed

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_vision_ids_are_never_sampled(
        self, policy: Policy, prompts: list[EncodedPrompt], temperature: float
    ) -> None:
        banned = policy.banned_ids.tolist()
        assert len(banned) == 4
        engine, sampling = synced(policy), SamplingSettings(8, 6, temperature)
        unbiased = engine.generate(prompts, sampling, "seed")
        with head_bias(policy, bias_on(policy, banned, 1000.0)):
            favoured = engine.generate(prompts, sampling, "seed")
        assert not {i for group in favoured for c in group for i in c.token_ids} & set(banned)
        assert favoured == unbiased

    def test_every_token_has_its_share_of_the_unit_interval_however_rare(self) -> None:
        """200,000 tokens of 2e-8 each behind one of 0.996: in float32, two thirds of them have none."""
        probability_V = torch.cat([torch.tensor([0.996]), torch.full((200_000,), 2e-8)])
        tokens = torch.arange(1000, 1100)
        middle_V = probability_V.double().cumsum(-1) - probability_V.double() / 2
        draw_A = middle_V[tokens] / probability_V.double().sum()
        assert torch.equal(inverse_transform(probability_V.expand(len(tokens), -1), draw_A), tokens)

    def test_the_ends_of_the_unit_interval_draw_the_first_and_last_possible_token(self) -> None:
        probability_AV = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]]).expand(2, -1)
        draws = torch.tensor([0.0, 1 - 2**-24])
        assert inverse_transform(probability_AV, draws).tolist() == [1, 3]


class TestEnd:
    def test_a_completion_is_finished_if_and_only_if_its_last_token_is_a_stop_token(
        self, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        stops = stop_ids(policy)
        assert len(stops) == 2
        with head_bias(policy, bias_on(policy, stops, 2.5)):
            completions = synced(policy).generate(prompts, SamplingSettings(8, 10), "seed")
        flat = [completion for group in completions for completion in group]
        for completion in flat:
            assert completion.finished == (completion.token_ids[-1] in stops)
            assert not set(completion.token_ids[:-1]) & set(stops)
            assert completion.finished or len(completion.token_ids) == 10
            assert len(completion.logprobs) == len(completion.token_ids)
            decoded = policy.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
            assert completion.text == decoded
        assert {completion.finished for completion in flat} == {True, False}
        assert {stop for c in flat if c.finished for stop in c.token_ids[-1:]} == set(stops)

    def test_one_that_ends_with_its_last_allowed_token_is_finished(
        self, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        with head_bias(policy, bias_on(policy, stop_ids(policy), 1000.0)):
            completions = synced(policy).generate(prompts, SamplingSettings(2, 1), "seed")
        assert all(c.finished and c.text == "" and len(c.token_ids) == 1 for group in completions for c in group)

    def test_without_a_configured_stop_token_the_tokenizers_ends_it(self, tiny_model_path: Path) -> None:
        policy = sharp_policy(tiny_model_path)
        policy.model.generation_config.eos_token_id = None
        end = policy.tokenizer.eos_token_id
        with head_bias(policy, bias_on(policy, [end], 1000.0)):
            completion = synced(policy).generate([encode(policy, "p", "Hi")], SamplingSettings(1, 5), "s")[0][0]
        assert completion.token_ids == (end,) and completion.finished


class TestEngine:
    def test_completions_carry_the_policys_version(self, policy: Policy, prompts: list[EncodedPrompt]) -> None:
        policy.version = 7
        completions = synced(policy).generate(prompts[:2], SamplingSettings(2, 2), "seed")
        policy.version = 0
        assert {c.policy_version for group in completions for c in group} == {7}

    def test_it_needs_weights_first(self, prompts: list[EncodedPrompt]) -> None:
        with pytest.raises(RuntimeError, match="sync"):
            HFEngine().generate(prompts, SamplingSettings(1, 1), "seed")

    def test_it_samples_without_dropout(self, policy: Policy, prompts: list[EncodedPrompt]) -> None:
        modes = []
        hook = policy.model.base_model.register_forward_hook(lambda module, *_: modes.append(module.training))
        policy.train()
        synced(policy).generate(prompts[:1], SamplingSettings(1, 1), "seed")
        hook.remove()
        assert modes == [False]

    def test_it_follows_the_policys_weights(self, tiny_model_path: Path) -> None:
        policy = sharp_policy(tiny_model_path)
        prompt = encode(policy, "p", "How many?", [(84, 84)])
        engine = synced(policy)
        before = engine.generate([prompt], SamplingSettings(1, 6, 0.0), "seed")[0][0]
        with torch.no_grad():
            for weight in policy.model.base_model.language_model.layers.parameters():
                weight.mul_(-1)
        after = engine.generate([prompt], SamplingSettings(1, 6, 0.0), "seed")[0][0]
        assert before.token_ids != after.token_ids
        batch, logprobs_NT = as_batch([prompt], [[after]])
        with torch.no_grad():
            assert (policy.token_logprobs(batch).logprobs - logprobs_NT).abs().max() <= 1e-5

    def test_a_prompts_images_are_run_once_for_all_its_completions(
        self, policy: Policy, prompts: list[EncodedPrompt], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(policy, "image_features", None)  # as of a tower that is trained
        grids = []
        hook = policy.model.base_model.visual.register_forward_pre_hook(
            lambda module, args, kwargs: grids.append(kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]),
            with_kwargs=True,
        )
        synced(policy).generate(prompts, SamplingSettings(8, 4), "seed")
        hook.remove()
        assert [len(grid) for grid in grids] == [4]

    def test_no_prompts_give_no_completions(self, policy: Policy) -> None:
        assert synced(policy).generate([], SamplingSettings(2, 2), "seed") == []
