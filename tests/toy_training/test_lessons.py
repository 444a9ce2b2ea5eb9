"""The base is taught as its curriculum says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.toy_training.base_model import Course, Lesson, Manner, Teacher, build_untrained, train


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_untrained(tmp_path_factory.mktemp("base"))


def loss(policy: Policy, lesson: Lesson) -> float:
    batch = Teacher(policy, seed=7).batch(lesson)
    with torch.inference_mode():
        return float(-policy.token_logprobs(batch).logprobs.sum() / batch.mask_NT.sum())


@pytest.mark.parametrize("manner", Manner)
def test_a_course_teaches_what_its_lessons_are_about(untrained: Path, manner: Manner) -> None:
    lesson = Lesson(4, n_scenes=3, tasks_per_scene=2, caption=0.3, manner=manner)
    policy = Policy(PolicySettings(str(untrained), freeze_vision=False))
    before = loss(policy, lesson)
    train(policy, Course(3e-3, (lesson,)), seed=0)
    assert loss(policy, lesson) < 0.9 * before
