"""What every rollout engine must hold, above all that it samples from the very policy that is trained."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy
import pytest
import torch
from helpers.tiny_models import tiny_qwen2_5_vl
from helpers.tiny_policies import encode, mixed_prompts, sharp_policy
from helpers.truncated import cut, distributions
from helpers.vllm_servers import specs_serve
from torch import Tensor

from specs_lightning.groups import Completion, EncodedPrompt, GroupBatch
from specs_lightning.objectives import GRPO
from specs_lightning.policy.loading import LoRASettings
from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import HFEngine, RolloutEngine, SamplingSettings, VLLMEngine, VLLMServers, VLLMSettings

BOUND = 1e-4
"""How far an engine's log-probability of a sampled token may lie from the trainer's, in nats."""

MakePolicy = Callable[..., Policy]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A model with a tied head, and one with a head of its own."""
    root = tmp_path_factory.mktemp("models")
    return {tied: tiny_qwen2_5_vl(root / f"tied-{tied}", heads=2, tied=tied) for tied in (True, False)}


@pytest.fixture(scope="module")
def policy(folders: dict[bool, Path]) -> Policy:
    return sharp_policy(folders[True])


@pytest.fixture(scope="module")
def prompts(policy: Policy) -> list[EncodedPrompt]:
    """Of one image, none, three and two, and two of more than 300 tokens: shorter ones miss vLLM's prefix cache."""
    long = "Which colour has more circles, here or there? " * 22
    prompts = [
        *mixed_prompts(policy),
        encode(policy, "two", "<image> or <image>?", [(84, 84), (56, 56)]),
        encode(policy, "long", long, [(84, 84)]),
        encode(policy, "long, no image", long),
    ]
    assert sum(len(prompt) > 300 for prompt in prompts) == 2
    return prompts


@pytest.fixture(
    scope="module",
    params=["hf", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vllm", "server", "server by broadcast"))],
)
def engine(request: pytest.FixtureRequest, server: Callable[[], str]) -> Iterator[RolloutEngine]:
    engine: RolloutEngine
    if request.param == "hf":
        engine = HFEngine()
    elif request.param == "vllm":
        engine = VLLMEngine(VLLMSettings(max_model_len=1024, kv_cache_gib=0.25))
    else:
        engine = VLLMServers([server()], weights="broadcast" if "broadcast" in request.param else "folder")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def server(folders: dict[bool, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Starts a real server of the model with the tied head when it is first asked for; gives its address."""
    with ExitStack() as stack:

        @cache
        def start() -> str:
            return stack.enter_context(specs_serve(folders[True], tmp_path_factory.mktemp("server"))).url

        yield start


def skip_without_own_head(engine: RolloutEngine) -> None:
    if isinstance(engine, VLLMServers):
        pytest.skip("the server was started with the model whose head is tied")


def difference(policy: Policy, prompts: list[EncodedPrompt], completions: list[list[Completion]], at: float) -> Tensor:
    """(N, T): the trainer's log-probabilities less the engine's."""
    batch = GroupBatch.from_token_ids(prompts, [[c.token_ids for c in group] for group in completions])
    sampled = [torch.tensor(c.logprobs) for group in completions for c in group]
    with torch.no_grad():
        return policy.token_logprobs(batch, at).logprobs - torch.nn.utils.rnn.pad_sequence(sampled, batch_first=True)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_of_sampled_tokens_are_the_trainers(
    engine: RolloutEngine, policy: Policy, prompts: list[EncodedPrompt], temperature: float
) -> None:
    engine.sync(policy)
    completions = engine.generate(prompts, SamplingSettings(3, 12, temperature), "seed")
    assert [len(group) for group in completions] == [3] * len(prompts)
    assert difference(policy, prompts, completions, temperature).abs().max() <= BOUND
    assert difference(policy, prompts, completions, temperature + 0.1).abs().max() > 100 * BOUND  # it would show


TRUNCATED = {
    "top_p": {"top_p": 0.8},
    "top_k": {"top_k": 7},
    "min_p": {"min_p": 0.05},
    "all three": {"top_p": 0.9, "top_k": 30, "min_p": 0.01, "temperature": 1.3},
}


@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_sampling_draws_from_what_is_left_and_reports_its_log_probabilities(
    engine: RolloutEngine, policy: Policy, prompts: list[EncodedPrompt], name: str
) -> None:
    """Held against whole distributions by plain transformers, cut by hand."""
    sampling, asked = SamplingSettings(4, 10, **TRUNCATED[name]), prompts[:4]
    engine.sync(policy)
    completions = engine.generate(asked, sampling, "seed")
    gaps, gaps_to_the_whole, sizes = [], [], set()
    for prompt, group in zip(asked, completions, strict=True):
        for completion in group:
            whole = distributions(policy, prompt, completion, sampling.temperature)
            for token, logprob, row in zip(completion.token_ids, completion.logprobs, whole, strict=True):
                left = cut(row, sampling)
                assert token in left
                gaps.append(abs(logprob - math.log(left[token])))
                gaps_to_the_whole.append(abs(logprob - math.log(row[token])))
                sizes.add(len(left))
    assert max(gaps) <= BOUND
    assert sum(gaps_to_the_whole) > 100 * BOUND * len(gaps)  # it would show
    assert max(sizes) < len(whole[0]) / 2 and (len(sizes) > 2 or name == "top_k")


def test_at_temperature_0_nothing_is_cut(engine: RolloutEngine, policy: Policy, prompts: list[EncodedPrompt]) -> None:
    engine.sync(policy)
    whole = engine.generate(prompts, SamplingSettings(1, 6, 0.0), "seed")
    assert engine.generate(prompts, SamplingSettings(1, 6, 0.0, top_p=0.5, top_k=2, min_p=0.3), "seed") == whole


def test_a_stop_text_ends_a_completion_with_the_token_that_completes_it(
    engine: RolloutEngine, policy: Policy, prompts: list[EncodedPrompt]
) -> None:
    """Held against the same completions without it, decoded token by token. Some stop texts span several tokens."""
    engine.sync(policy)
    whole = [c for group in engine.generate(prompts, SamplingSettings(6, 24), "seed") for c in group]
    stop = _frequent_pieces([c.text for c in whole], 3, count=4)
    for include in (False, True):
        sampling = SamplingSettings(6, 24, stop=stop, include_stop=include)
        stopped = [c for group in engine.generate(prompts, sampling, "seed") for c in group]
        ended = 0
        for completion, before in zip(stopped, whole, strict=True):
            texts = [policy.tokenizer.decode(before.token_ids[: t + 1], skip_special_tokens=True) for t in range(24)]
            written = [text for text in texts[: len(before.token_ids)] if any(one in text for one in stop)]
            if not written:
                assert completion == before
                continue
            ended += 1
            length = texts.index(written[0]) + 1
            assert completion.token_ids == before.token_ids[:length]
            assert completion.logprobs == pytest.approx(before.logprobs[:length], abs=BOUND)
            assert completion.finished
            cut_text, found = min((written[0].split(one)[0], one) for one in stop if one in written[0])
            assert completion.text == (cut_text + found if include else cut_text)
        assert 5 < ended < len(whole)


def _frequent_pieces(texts: list[str], length: int, count: int) -> list[str]:
    """The texts of so many letters that are in most of the given ones."""
    pieces = Counter(text[i : i + length] for text in texts for i in range(len(text) - length + 1))
    ascii_ones = [piece for piece, _ in pieces.most_common() if piece.isascii() and piece.strip()]
    return ascii_ones[:count]


VARIANTS = {
    "vision trained": {"freeze_vision": False},
    "adapters": {"lora": LoRASettings(rank=4)},
    "adapters in the vision tower": {"lora": LoRASettings(rank=4, vision=True), "freeze_vision": False},
    "own head": {"tied": False},
}


@pytest.mark.parametrize("rounds", [6, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.long])])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_round_of_a_fast_training_is_sampled_from_its_own_policy(
    engine: RolloutEngine, folders: dict[bool, Path], prompts: list[EncodedPrompt], variant: str, rounds: int
) -> None:
    """GRPO at a learning rate of 1e-3. At the end the first round's weights, left in place, are shown to matter."""
    settings = dict(VARIANTS[variant])
    if "tied" in settings:
        skip_without_own_head(engine)
    policy = sharp_policy(folders[bool(settings.pop("tied", True))], **settings)
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-3)
    objective, sampling = GRPO(), SamplingSettings(3, 8, 0.7)
    chosen = [prompts[2], prompts[5]]
    gaps = []
    for number in range(rounds):
        engine.sync(policy)
        completions = engine.generate(chosen, sampling, f"round {number}")
        assert {c.policy_version for group in completions for c in group} == {number}
        gaps.append(difference(policy, chosen, completions, 0.7).abs().max().item())
        if number == 0:
            first = completions
        batch = GroupBatch.from_token_ids(chosen, [[c.token_ids for c in group] for group in completions])
        even = [sum(i % 2 == 0 for i in c.token_ids) / len(c.token_ids) for group in completions for c in group]
        batch = objective.weigh(replace(batch, rewards_N=torch.tensor(even), finished_N=torch.ones(6).bool()))
        optimizer.zero_grad()
        objective(policy.token_logprobs(batch, 0.7).logprobs, batch, objective.denominator(batch)).loss.backward()
        optimizer.step()
        policy.version += 1
    assert max(gaps) <= BOUND, gaps
    assert difference(policy, chosen, first, 0.7).abs().max() > 1000 * BOUND


def test_another_policy_takes_the_place_of_the_first(
    engine: RolloutEngine, folders: dict[bool, Path], policy: Policy, prompts: list[EncodedPrompt]
) -> None:
    """Also where both are of the same version."""
    other = sharp_policy(folders[True])
    with torch.no_grad():
        for weight in other.model.base_model.language_model.layers.parameters():
            weight.mul_(-1)
    greedy = SamplingSettings(1, 6, 0.0)
    answers = []
    for trained in (policy, other, policy):
        engine.sync(trained)
        answers.append(engine.generate(prompts, greedy, "seed"))
        assert difference(trained, prompts, answers[-1], 1.0).abs().max() <= BOUND
    ids = [[group[0].token_ids for group in answer] for answer in answers]
    assert ids[0] == ids[2] != ids[1]


def test_greedy_completions_are_those_of_the_embedded_engine(
    engine: RolloutEngine, policy: Policy, prompts: list[EncodedPrompt]
) -> None:
    embedded = HFEngine()
    answers = []
    for one in (engine, embedded):
        one.sync(policy)
        answers.append(one.generate(prompts, SamplingSettings(2, 20, 0.0), "seed"))
    for mine, expected in zip(*answers, strict=True):
        assert [replace(c, logprobs=()) for c in mine] == [replace(c, logprobs=()) for c in expected]


def test_completions_depend_on_seed_and_prompt_alone(
    engine: RolloutEngine, policy: Policy, prompts: list[EncodedPrompt]
) -> None:
    engine.sync(policy)
    sampling = SamplingSettings(3, 8)
    together = engine.generate(prompts, sampling, "seed")
    alone = engine.generate(prompts[3:4], sampling, "seed")[0]
    other = engine.generate(prompts[3:4], sampling, "other seed")[0]
    assert [c.token_ids for c in together[3]] == [c.token_ids for c in alone]
    assert len({c.token_ids for c in (*alone, *other)}) == 6


def test_a_completion_ends_at_a_stop_token_or_at_the_limit(
    engine: RolloutEngine, folders: dict[bool, Path], prompts: list[EncodedPrompt]
) -> None:
    """The stop tokens get the embeddings of what is often sampled."""
    policy = sharp_policy(folders[True])
    stops = policy.model.generation_config.eos_token_id
    engine.sync(policy)
    often = [group[0].token_ids[0] for group in engine.generate(prompts[:2], SamplingSettings(1, 1, 0.0), "seed")]
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[stops] = policy.model.get_input_embeddings().weight[often]
    policy.version += 1
    engine.sync(policy)
    completions = [c for group in engine.generate(prompts, SamplingSettings(6, 10), "seed") for c in group]
    assert {c.finished for c in completions} == {True, False}
    for completion in completions:
        assert completion.finished == (completion.token_ids[-1] in stops)
        assert not set(completion.token_ids[:-1]) & set(stops)
        assert completion.finished or len(completion.token_ids) == 10
        assert len(completion.logprobs) == len(completion.token_ids)
        assert completion.text == policy.tokenizer.decode(completion.token_ids, skip_special_tokens=True)


def test_vision_ids_are_never_sampled_however_likely(
    engine: RolloutEngine, folders: dict[bool, Path], prompts: list[EncodedPrompt]
) -> None:
    skip_without_own_head(engine)
    policy = sharp_policy(folders[False])
    head = policy.model.get_output_embeddings().weight
    engine.sync(policy)
    greedy = engine.generate(prompts[:1], SamplingSettings(1, 1, 0.0), "seed")[0][0].token_ids[0]
    with torch.no_grad():
        head[policy.banned_ids] = 3 * head[greedy]
    policy.version += 1
    engine.sync(policy)
    completions = engine.generate(prompts, SamplingSettings(6, 6), "seed")
    assert not {i for group in completions for c in group for i in c.token_ids} & set(policy.banned_ids.tolist())
    assert difference(policy, prompts, completions, 1.0).abs().max() <= BOUND


def test_the_processes_own_state_is_left_alone(
    engine: RolloutEngine, policy: Policy, prompts: list[EncodedPrompt]
) -> None:
    """Closed first, so that it starts within the test; and started again with another number of threads."""

    def state() -> list[object]:
        numbers = random.random(), float(numpy.random.rand()), torch.rand(1).item()
        return [*numbers, torch.get_num_threads(), torch.set_num_threads, os.sched_getaffinity(0)]

    def seed() -> None:
        random.seed(5), numpy.random.seed(5), torch.manual_seed(5)

    engine.close()
    seed()
    expected = state()
    seed()
    engine.sync(policy)
    engine.generate(prompts[:1], SamplingSettings(2, 4), "seed")
    assert state() == expected


def test_no_prompts_give_no_completions(engine: RolloutEngine, policy: Policy) -> None:
    engine.sync(policy)
    assert engine.generate([], SamplingSettings(2, 2), "seed") == []


def test_it_goes_on_after_a_release(engine: RolloutEngine, policy: Policy, prompts: list[EncodedPrompt]) -> None:
    engine.sync(policy)
    before = engine.generate(prompts[:2], SamplingSettings(2, 6), "seed")
    engine.release()
    engine.sync(policy)
    after = engine.generate(prompts[:2], SamplingSettings(2, 6), "seed")
    assert [[c.token_ids for c in group] for group in after] == [[c.token_ids for c in group] for group in before]
