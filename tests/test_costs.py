"""What a group costs: each image and each prompt token once, and less time than one row a completion.

Counts are exact; the time is compared with that of padded rows in the same process, never with a stored one.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_policies import encode, mixed_prompts, random_completions

from specs_lightning.groups import GroupBatch
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.rollout import HFEngine, SamplingSettings

K = 8


@contextmanager
def counting(policy: Policy) -> Iterator[Counter[str]]:
    """Patches that the vision tower runs, and tokens that the language model runs, several at once or one at a time."""
    counts: Counter[str] = Counter()
    base: Any = policy.model.base_model

    def patches(_: Any, args: Any, kwargs: Any) -> None:
        counts["patches"] += (args[0] if args else kwargs["hidden_states"]).shape[0]

    def tokens(_: Any, args: Any, kwargs: Any) -> None:
        rows, length = kwargs["inputs_embeds"].shape[:2]
        counts["decoded" if length == 1 else "tokens"] += rows * length

    hooks = [
        base.visual.register_forward_pre_hook(patches, with_kwargs=True),
        base.language_model.register_forward_pre_hook(tokens, with_kwargs=True),
    ]
    yield counts
    for hook in hooks:
        hook.remove()


@pytest.fixture(scope="module")
def policies(tiny_model_path: Path) -> dict[bool, Policy]:
    """Their vision towers are trained: what frozen ones give is kept (`policy/test_image_features.py`)."""
    trained = PolicySettings(str(tiny_model_path), freeze_vision=False)
    return {shared: Policy(replace(trained, shared_prefix=shared)) for shared in (True, False)}


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "padded"])
def test_training_runs_images_and_prompts_once_a_group(policies: dict[bool, Policy], shared: bool) -> None:
    policy = policies[shared]
    prompts = mixed_prompts(policy)
    completions = random_completions(policy, [K] * len(prompts))
    batch = GroupBatch.from_token_ids(prompts, completions)
    with counting(policy) as counts:
        policy.token_logprobs(batch)
    patches = sum(len(prompt.vision.get("pixel_values", ())) for prompt in prompts)
    groups = list(zip(prompts, completions, strict=True))
    if shared:
        tokens = sum(len(prompt) + sum(map(len, group)) for prompt, group in groups)
        assert counts == {"patches": patches, "tokens": tokens}
    else:
        longest = max(len(prompt) + max(map(len, group)) for prompt, group in groups)
        assert counts == {"patches": K * patches, "tokens": K * len(prompts) * longest}


def test_sampling_runs_images_and_prompts_once_a_group_and_only_completions_still_going(
    policies: dict[bool, Policy],
) -> None:
    policy = policies[True]
    prompts = mixed_prompts(policy)
    engine = HFEngine()
    engine.sync(policy)
    with counting(policy) as counts:
        groups = engine.generate(prompts, SamplingSettings(K, max_tokens=12), "seed")
    patches = sum(len(prompt.vision.get("pixel_values", ())) for prompt in prompts)
    # The last token of a completion is never run: nothing follows it.
    decoded = sum(len(completion.token_ids) - 1 for group in groups for completion in group)
    assert counts == {"patches": patches, "tokens": len(prompts) * max(map(len, prompts)), "decoded": decoded}


def test_an_image_is_processed_once_for_a_whole_round(policies: dict[bool, Policy]) -> None:
    policy = policies[True]
    encoder = PromptEncoder(policy.processor)
    prompt = encode(policy, "p", "How many?", [(84, 84)]).question
    first = encoder.encode(prompt)
    assert all(encoder.encode(prompt) is first for _ in range(K))


def test_a_step_takes_less_time_than_on_padded_rows() -> None:
    """Measured on the toy's model: about a third of the time at 8 completions; the bound leaves room for noise."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    policies = {shared: Policy(PolicySettings("toy:base", shared_prefix=shared)) for shared in seconds}
    prompts = [encode(policies[True], str(i), "How many red squares are there? " * 4, [(112, 112)]) for i in range(2)]
    completions = random_completions(policies[True], [K] * len(prompts), longest=40)
    batch = GroupBatch.from_token_ids(prompts, completions)
    for _ in range(4):
        for shared, policy in policies.items():
            start = time.process_time()
            policy.token_logprobs(batch).logprobs.sum().backward()
            seconds[shared].append(time.process_time() - start)
            policy.zero_grad()
    assert min(seconds[True]) < 0.7 * min(seconds[False])
