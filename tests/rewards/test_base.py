"""Sums of rewards: what is unscored stays NaN, and no reward's failure is silent or contagious."""

import logging
import math

import pytest
import torch

from specs_lightning.rewards import Reward, RewardError, RewardSum, Scored


class Length(Reward):
    name = "length"

    def __call__(self, prompts, completions):
        return torch.tensor([float(len(completion.text)) for completion in completions])


class Fragile(Reward):
    """Raises on a batch that holds "bad"."""

    name = "fragile"

    def __init__(self):
        self.calls = 0

    def __call__(self, prompts, completions):
        self.calls += 1
        if any(completion.text == "bad" for completion in completions):
            raise ConnectionError("the judge hung up")
        return torch.ones(len(completions))


class Constant(Reward):
    def __init__(self, name, values):
        self.name = name
        self.values = values
        self.closed = False

    def __call__(self, prompts, completions):
        return torch.tensor(self.values)

    def close(self):
        self.closed = True


@pytest.fixture
def score(ask, reply):
    def run(rewards, texts, **settings):
        return RewardSum(rewards, **settings).score([ask() for _ in texts], [reply(text) for text in texts])

    return run


def test_total_is_the_weighted_sum_and_components_are_unweighted(score):
    total_N, by_name = score([Length(), Constant("two", [2.0, 2.0])], ["a", "abc"], weights=[0.5, 1.0])
    assert total_N.tolist() == [2.5, 3.5]
    assert by_name["length"].values_N.tolist() == [1.0, 3.0]
    assert [scored.causes for scored in by_name.values()] == [[None, None], [None, None]]
    assert total_N.dtype == torch.float32


def test_weights_are_one_each_by_default(score):
    assert score([Length(), Constant("two", [2.0])], ["a"])[0].tolist() == [3.0]


def test_one_bad_completion_does_not_lose_the_rest(score, caplog):
    with caplog.at_level(logging.WARNING):
        total_N, by_name = score([Fragile(), Length()], ["a", "bad", "abc"])
    assert total_N[[0, 2]].tolist() == [2.0, 4.0]
    assert math.isnan(total_N[1])
    assert by_name["fragile"].causes == [None, "ConnectionError: the judge hung up", None]
    assert by_name["length"].causes == [None, None, None]
    assert "'fragile' left 1 of 3 unscored, mostly: ConnectionError: the judge hung up" in caplog.text


def test_unscored_never_becomes_zero_even_at_weight_zero(score):
    total_N, by_name = score([Constant("nan", [math.nan, 0.0, 1.0])], ["a", "b", "c"], weights=[0.0])
    assert total_N.isnan().tolist() == [True, False, False]
    assert by_name["nan"].causes == ["no score given", None, None]


def test_an_infinite_score_is_unscored(score):
    total_N, _ = score([Constant("inf", [math.inf, 0.0, 1.0])], ["a", "b", "c"])
    assert total_N.isnan().tolist() == [True, False, False]


def test_too_many_unscored_name_the_reward_and_the_cause(score):
    with pytest.raises(RewardError, match=r"3 of 4 .* reward 'fragile' failed on 3.* ConnectionError: the judge hung"):
        score([Length(), Fragile()], ["ok", "bad", "bad", "bad"])


def test_exactly_the_allowed_share_is_allowed(score):
    assert score([Fragile()], ["bad", "ok"], max_unscored_share=0.5)[0].isnan().tolist() == [True, False]


def test_a_reward_that_is_down_is_not_tried_on_every_completion(score):
    fragile = Fragile()
    with pytest.raises(RewardError, match=r"100 of 100 .* ConnectionError: the judge hung up"):
        score([fragile], ["bad"] * 100, max_unscored_share=0.1)
    assert fragile.calls == 1 + 11


def test_a_reward_of_the_wrong_shape_is_unscored_and_says_so(score):
    with pytest.raises(RewardError, match=r"returned shape \(3,\) for 1 completions"):
        score([Constant("short", [1.0, 1.0, 1.0])], ["a", "b"])


def test_a_reward_that_knows_its_causes_is_believed(score):
    class Judge(Constant):
        def score(self, prompts, completions):
            return Scored(self(prompts, completions), ["refused", None])

    assert score([Judge("judge", [math.nan, 1.0])], ["a", "b"])[1]["judge"].causes == ["refused", None]


def test_nothing_to_score_is_no_error(score):
    assert score([Length()], [])[0].shape == (0,)


def test_close_closes_every_reward():
    rewards = [Constant("a", []), Constant("b", [])]
    RewardSum(rewards).close()
    assert all(reward.closed for reward in rewards)


def test_prompts_and_completions_must_pair_up(ask):
    with pytest.raises(ValueError, match="1 prompts for 0 completions"):
        RewardSum([Length()]).score([ask()], [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rewards": []}, "at least one"),
        ({"rewards": [Length(), Length()]}, "distinct.*length"),
        ({"rewards": [Length()], "weights": [1.0, 2.0]}, "2 weights for 1 rewards"),
        ({"rewards": [Length()], "weights": [math.nan]}, "finite"),
        ({"rewards": [Length()], "max_unscored_share": 1.5}, "between 0 and 1"),
    ],
)
@pytest.mark.bad_input("rewards")
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        RewardSum(**settings)
