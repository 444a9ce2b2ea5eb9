"""A round: the current policy answers prompts, the answers are scored, groups that teach nothing are replaced."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import torch

from specs_lightning.errors import SpecsError
from specs_lightning.groups import Completion, EncodedPrompt, Group
from specs_lightning.judge import Usage
from specs_lightning.policy.micro_batches import micro_batches, share_of_groups
from specs_lightning.policy.policy import Policy
from specs_lightning.rewards import RewardSum
from specs_lightning.rollout import RolloutEngine, SamplingSettings
from specs_lightning.system.ranks import failing_together, gather, gather_shares, share


class WrongPolicyVersion(SpecsError):
    """Completions of another policy than the one that was to answer."""


@dataclass(frozen=True)
class DynamicSampling:
    """Which groups are replaced by fresh ones (DAPO's dynamic sampling): those without a learning signal."""

    accuracy_range: tuple[float, float] | None = None
    """Also replace groups whose mean accuracy reward lies outside. The paper's framework uses 0.1 to 0.9."""
    max_refills: int = 3
    """How often a round is filled up; what is still missing then is made up of replaced groups."""


@dataclass(slots=True)
class Round:
    """The groups of a round, in training order, and what was measured while making them."""

    groups: list[Group]
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Draw:
    """Completions of a policy, not yet scored."""

    prompts: Sequence[EncodedPrompt]
    """Those of all processes."""
    completions: list[list[Completion]]
    """To this process's share of them."""
    seconds: float
    """How long it took to draw them."""


def draw(
    engine: RolloutEngine, prompts: Sequence[EncodedPrompt], sampling: SamplingSettings, seed: str, version: int
) -> Draw:
    """Have this process's share of prompts answered by the policy that the engine was last given.

    Args:
        engine: what samples.
        prompts: those of all processes.
        sampling: how completions are drawn.
        seed: of this call.
        version: which the policy must be of.

    Raises:
        WrongPolicyVersion: another one answered.
    """
    start = time.perf_counter()
    completions = engine.generate(share(prompts), sampling, seed)
    others = sorted({c.policy_version for group in completions for c in group} - {version})
    if others:
        raise WrongPolicyVersion(
            f"the rollout engine answered with version {', '.join(map(str, others))} of the policy, where version "
            f"{version} was asked for: it has not taken over the current weights"
        )
    return Draw(prompts, completions, time.perf_counter() - start)


def make_round(
    policy: Policy,
    engine: RolloutEngine,
    rewards: RewardSum,
    prompts: Iterator[EncodedPrompt],
    size: int,
    sampling: SamplingSettings,
    seed: str,
    dynamic: DynamicSampling | None = None,
    ahead: Future[Draw] | None = None,
) -> Round:
    """Draw and score the completions of `size` prompts. Processes share the work, and each gets the whole round.

    Args:
        policy: the current one; the engine takes over its weights first.
        engine: what samples.
        rewards: score the completions.
        prompts: an endless supply, the same on every process.
        size: groups in the round.
        sampling: how completions are drawn.
        seed: of this round.
        dynamic: replace groups without a learning signal.
        ahead: completions that were begun earlier, by an earlier policy; refills are by the current one.

    Raises:
        WrongPolicyVersion: the engine answered with other weights than those of `sync`.
    """
    start = time.perf_counter()
    with failing_together():
        early = ahead.result() if ahead is not None else None
    waited = time.perf_counter() - start
    engine.sync(policy)
    kept: list[Group] = []
    dropped: list[Group] = []
    draws: list[Draw] = []
    for refill in range(1 + (dynamic.max_refills if dynamic else 0)):
        if refill == 0 and early is not None:
            drawn = early
        else:
            asked = [next(prompts) for _ in range(size - len(kept))]
            # A refill may meet a prompt again in a small data set: its luck must then be another.
            with failing_together():
                drawn = draw(engine, asked, sampling, f"{seed}-{refill}" if refill else seed, policy.version)
            waited += drawn.seconds
        draws.append(drawn)
        for group in _score(rewards, drawn):
            (dropped if dynamic and not _teaches(group, dynamic) else kept).append(group)
        if len(kept) == size:
            break
    engine.release()
    filled = size - len(kept)
    groups = kept + dropped[:filled]
    groups_drawn = sum(len(drawn.prompts) for drawn in draws)
    metrics = {
        **_measure(kept + dropped, policy.version),
        "groups_drawn": float(groups_drawn),
        "groups_without_signal": len(dropped) / groups_drawn,
        "groups_made_up": float(filled),
        **_of_the_slowest(
            draw_seconds=sum(drawn.seconds for drawn in draws),
            wait_seconds=waited,
            round_seconds=time.perf_counter() - start,
        ),
        **_cost_of_judges(rewards),
    }
    return Round(groups, metrics)


def _score(rewards: RewardSum, drawn: Draw) -> list[Group]:
    """The groups of all processes, each of which scores its own share."""
    counts = [len(group) for group in drawn.completions]
    mine = share(drawn.prompts)
    questions = [prompt.question for prompt, count in zip(mine, counts, strict=True) for _ in range(count)]
    with failing_together():
        scores = rewards.score(questions, [completion for group in drawn.completions for completion in group])
    totals = scores.total_N.split(counts)
    by_name = {name: values.split(counts) for name, values in scores.by_name.items()}
    scored = [
        (group, totals[i].clone(), {name: values[i].clone() for name, values in by_name.items()})
        for i, group in enumerate(drawn.completions)
    ]
    return [Group(prompt, *parts) for prompt, parts in zip(drawn.prompts, gather_shares(scored), strict=True)]


def _cost_of_judges(rewards: RewardSum) -> dict[str, float]:
    """Since the run began, over all processes."""
    if not rewards.judges:
        return {}
    usage = sum(chain.from_iterable(gather([judge.usage for judge in rewards.judges])), Usage())
    counts = {"requests": usage.requests, "tokens": usage.tokens, "cache_hits": usage.cache_hits}
    return {f"judge/{name}": float(count) for name, count in counts.items()}


def _of_the_slowest(**seconds: float) -> dict[str, float]:
    everyones = gather(seconds)
    return {name: max(own[name] for own in everyones) for name in seconds}


def _teaches(group: Group, dynamic: DynamicSampling) -> bool:
    """Whether the scored completions differ in reward, and are neither too hard nor too easy."""
    scored = group.rewards[~group.rewards.isnan()]
    if len(scored) < 2 or bool((scored == scored[0]).all()):
        return False
    if dynamic.accuracy_range is None:
        return True
    low, high = dynamic.accuracy_range
    return low <= group.rewards_by_name["accuracy"].nanmean().item() <= high


def _measure(groups: list[Group], version: int) -> dict[str, float]:
    completions = [completion for group in groups for completion in group.completions]
    metrics = {
        f"reward/{name}": torch.cat([group.rewards_by_name[name] for group in groups]).nanmean().item()
        for name in groups[0].rewards_by_name
    }
    total = torch.cat([group.rewards for group in groups])
    metrics["reward"] = total.nanmean().item()
    metrics["unscored"] = total.isnan().float().mean().item()
    metrics["completion_tokens"] = sum(len(c.token_ids) for c in completions) / len(completions)
    metrics["truncated"] = sum(not c.finished for c in completions) / len(completions)
    metrics["policy_lag"] = sum(version - c.policy_version for c in completions) / len(completions)
    return metrics


@torch.no_grad()
def add_old_logprobs(policy: Policy, groups: list[Group], temperature: float, max_tokens: int) -> None:
    """Keep with each group the log-probabilities that the policy, as it is now, gives its completions.

    Args:
        policy: the current one.
        groups: where to keep them, on the CPU.
        temperature: at which the completions were sampled.
        max_tokens: how many tokens (padding included) one forward pass takes.
    """
    if not groups:
        return
    logprobs: list[torch.Tensor] = []
    for batch in micro_batches(policy, share_of_groups(groups), max_tokens):
        batch_NT = policy.token_logprobs(batch.to(policy.device), temperature).logprobs.cpu()
        logprobs += [row[:length].clone() for row, length in zip(batch_NT, batch.lengths_N.tolist(), strict=True)]
    rows = iter(logprobs)
    mine = [list(islice(rows, len(group.completions))) for group in share(groups)]
    for group, old_logprobs in zip(groups, gather_shares(mine), strict=True):
        group.old_logprobs = old_logprobs


# ------------------------------------------------------------------------- what a checkpoint keeps of a round


def round_to_state(made: Round) -> dict[str, Any]:
    """As `groups_to_state`."""
    return {"groups": groups_to_state(made.groups), "metrics": made.metrics}


def round_from_state(state: dict[str, Any], encoded: dict[str, EncodedPrompt]) -> Round:
    """The round of `round_to_state`, given its prompts by id."""
    return Round(groups_from_state(state["groups"], encoded), state["metrics"])


def groups_to_state(groups: list[Group]) -> list[dict[str, Any]]:
    """Plain values and tensors, which `weights_only` loading takes. Prompts are kept by their ids."""
    return [
        {
            "prompt": group.prompt.id,
            "completions": [completion.as_row() for completion in group.completions],
            "rewards": group.rewards,
            "rewards_by_name": group.rewards_by_name,
            "old_logprobs": group.old_logprobs,
        }
        for group in groups
    ]


def groups_from_state(state: list[dict[str, Any]], encoded: dict[str, EncodedPrompt]) -> list[Group]:
    """The groups of `groups_to_state`, given their prompts by id."""
    return [
        Group(
            encoded[saved["prompt"]],
            [Completion.from_row(row) for row in saved["completions"]],
            saved["rewards"],
            saved["rewards_by_name"],
            saved["old_logprobs"],
        )
        for saved in state
    ]


def draw_to_state(drawn: Draw) -> dict[str, Any]:
    """As `groups_to_state`, with the completions of all processes."""
    completions = [[completion.as_row() for completion in group] for group in gather_shares(drawn.completions)]
    return {"prompts": [prompt.id for prompt in drawn.prompts], "completions": completions, "seconds": drawn.seconds}


def draw_from_state(state: dict[str, Any], encoded: dict[str, EncodedPrompt]) -> Draw:
    """What `draw_to_state` kept, given its prompts by id."""
    completions = [[Completion.from_row(row) for row in group] for group in share(state["completions"])]
    return Draw([encoded[prompt_id] for prompt_id in state["prompts"]], completions, state["seconds"])
