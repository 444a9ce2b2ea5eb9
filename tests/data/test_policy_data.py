"""What all data modules share: settings that are handed on, and what they may ask of the module that trains on them."""

from __future__ import annotations

from typing import Any

import pytest

from specs_lightning.data import EvaluationDataModule, PreferenceDataModule, PromptSource, RolloutDataModule
from specs_lightning.data.policy_data import Learner, PolicyDataModule, digest, shuffled
from specs_lightning.data.tables import DataError
from specs_lightning.modules import ColdStartModule, GRPOModule
from specs_lightning.objectives import DPO, GRPO, SFT, MismatchCorrection
from specs_lightning.policy.loading import PolicySettings

SOURCE = PromptSource("prompts.jsonl")


def made(**settings: Any) -> list[PolicyDataModule]:
    return [
        RolloutDataModule(SOURCE, **settings),
        PreferenceDataModule("pairs.parquet", **settings),
        EvaluationDataModule({"id": SOURCE}, **settings),
    ]


def test_shared_settings_reach_every_data_module() -> None:
    assert [(data.seed, data.max_prompt_tokens) for data in made(seed=3, max_prompt_tokens=9)] == [(3, 9)] * 3


def test_a_setting_that_none_has_is_refused() -> None:
    for kind in (RolloutDataModule, PreferenceDataModule):
        with pytest.raises(TypeError, match="sede"):
            kind(SOURCE, sede=3)  # type: ignore[arg-type]


def test_evaluation_sets_alone_have_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="EvaluationDataModule has nothing to train on"):
        _ = EvaluationDataModule({"id": SOURCE}).steps_per_epoch


@pytest.mark.parametrize(("objective", "sides"), [(DPO(), 2), (SFT(), 1)])
def test_a_module_says_which_sides_of_a_pair_it_takes(objective: Any, sides: int) -> None:
    module: Learner = ColdStartModule(PolicySettings("toy:base"), objective)
    assert module.completions_per_pair == sides


@pytest.mark.parametrize("kind", ["none", "truncated"])
def test_a_module_says_whether_it_needs_old_log_probabilities(kind: Any) -> None:
    module: Learner = GRPOModule(PolicySettings("toy:base"), GRPO(mismatch=MismatchCorrection(kind)))
    assert module.needs_old_logprobs == (kind != "none")


def test_each_epoch_is_another_permutation_of_the_same_seed() -> None:
    first, second = shuffled(20, seed=1, epoch=0), shuffled(20, seed=1, epoch=1)
    assert sorted(first) == sorted(second) == list(range(20)) and first != second
    assert first == shuffled(20, seed=1, epoch=0) != shuffled(20, seed=2, epoch=0)


def test_a_digest_tells_lists_by_their_ids_and_order() -> None:
    assert digest(["a", "b"]) == digest(iter(["a", "b"])) != digest(["b", "a"])
