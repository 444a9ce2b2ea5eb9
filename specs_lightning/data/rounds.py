"""A round: the current policy answers prompts, the answers are scored, groups that teach nothing are replaced."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import torch

from specs_lightning.errors import SpecsError
from specs_lightning.groups import EncodedPrompt, Group, GroupBatch
from specs_lightning.policy.policy import Policy
from specs_lightning.records.judge_usage import Usage
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

    def state(self) -> dict[str, Any]:
        """Plain values and tensors, which `weights_only` loading takes. Prompts are kept by their ids."""
        return {"groups": [group.state() for group in self.groups], "metrics": self.metrics}

    @classmethod
    def from_state(cls, state: dict[str, Any], encoded: Mapping[str, EncodedPrompt]) -> Round:
        """Given its prompts by id."""
        return cls([Group.from_state(saved, encoded) for saved in state["groups"]], state["metrics"])


def draw(
    engine: RolloutEngine, prompts: Sequence[EncodedPrompt], sampling: SamplingSettings, seed: str, version: int
) -> Round:
    """Have this process's share of prompts answered by the policy that the engine was last given.

    `prompts` are those of all processes; `WrongPolicyVersion` where a policy of another `version` answered.

    Returns:
        Groups without rewards, the other processes' without completions; and how many `seconds` it took.
    """
    start = time.perf_counter()
    completions = engine.generate(share(_told_apart(prompts)), sampling, seed)
    others = sorted({c.policy_version for group in completions for c in group} - {version})
    if others:
        raise WrongPolicyVersion(
            f"the rollout engine answered with version {', '.join(map(str, others))} of the policy, where version "
            f"{version} was asked for: it has not taken over the current weights"
        )
    groups = [Group(prompt, []) for prompt in prompts]
    for group, own in zip(share(groups), completions, strict=True):
        group.completions = own
    return Round(groups, {"seconds": time.perf_counter() - start})


def _told_apart(prompts: Sequence[EncodedPrompt]) -> list[EncodedPrompt]:
    """With each one's occurrence: a round may begin in one pass over the prompts and end in the next."""
    seen: Counter[str] = Counter()
    told: list[EncodedPrompt] = []
    for prompt in prompts:
        told.append(replace(prompt, occurrence=seen[prompt.id]) if seen[prompt.id] else prompt)
        seen[prompt.id] += 1
    return told


def make_round(
    policy: Policy,
    engine: RolloutEngine,
    rewards: RewardSum,
    prompts: Iterator[EncodedPrompt],
    size: int,
    sampling: SamplingSettings,
    seed: str,
    dynamic: DynamicSampling | None = None,
    ahead: Future[Round] | None = None,
) -> Round:
    """Draw and score the completions of `size` prompts. Processes share the work, and each gets the whole round.

    Args:
        policy: the current one; the engine takes over its weights first.
        prompts: an endless supply, the same on every process.
        dynamic: replace groups without a learning signal.
        ahead: a `draw` that was begun earlier, by an earlier policy; refills are by the current one.
    """
    start = time.perf_counter()
    with failing_together():
        drawn = ahead.result() if ahead is not None else None
    waited, drawing, scoring = time.perf_counter() - start, 0.0, 0.0
    with failing_together():
        engine.sync(policy)
    syncing = time.perf_counter() - start - waited
    kept: list[Group] = []
    dropped: list[Group] = []
    for refill in range(1 + (dynamic.max_refills if dynamic else 0)):
        if drawn is None:
            # A refill may meet a prompt again in a small data set: its luck must then be another.
            with failing_together():
                asked = [next(prompts) for _ in range(size - len(kept))]
                drawn = draw(engine, asked, sampling, f"{seed}-{refill}" if refill else seed, policy.version)
            waited += drawn.metrics["seconds"]
        drawing += drawn.metrics["seconds"]
        begun = time.perf_counter()
        for group in _scored(rewards, drawn.groups):
            (dropped if dynamic and not _teaches(group, dynamic) else kept).append(group)
        scoring += time.perf_counter() - begun
        drawn = None
        if len(kept) == size:
            break
    with failing_together():
        engine.release()
    whole = time.perf_counter() - start
    seconds = {"draw": drawing, "wait": waited, "sync": syncing, "score": scoring, "round": whole}
    metrics = _measure(kept, dropped, size) | _of_the_slowest(seconds) | _cost_of_judges(rewards)
    return Round(kept + dropped[: size - len(kept)], metrics)


def _scored(rewards: RewardSum, groups: list[Group]) -> list[Group]:
    """What was drawn, whole: each process scores its own share, and all get all."""
    mine = share(groups)
    questions = [group.prompt.question for group in mine for _ in group.completions]
    total_N, by_name = rewards.score(questions, [c for group in mine for c in group.completions])
    sizes = [len(group.completions) for group in mine]
    totals = total_N.split(sizes)
    named = {name: scored.values_N.split(sizes) for name, scored in by_name.items()}
    judged = [
        (group.completions, totals[i].clone(), {name: values[i].clone() for name, values in named.items()})
        for i, group in enumerate(mine)
    ]
    return [Group(group.prompt, *parts) for group, parts in zip(groups, gather_shares(judged), strict=True)]


def _cost_of_judges(rewards: RewardSum) -> dict[str, float]:
    """Since the run began, over all processes."""
    if not rewards.judges:
        return {}
    usage = sum(chain.from_iterable(gather([judge.usage for judge in rewards.judges])), Usage())
    counts = {"requests": usage.requests, "tokens": usage.tokens, "cache_hits": usage.cache_hits}
    return {f"judge/{name}": float(count) for name, count in counts.items()}


def _of_the_slowest(seconds: dict[str, float]) -> dict[str, float]:
    everyones = gather(seconds)
    return {f"{name}_seconds": max(own[name] for own in everyones) for name in seconds}


def _teaches(group: Group, dynamic: DynamicSampling) -> bool:
    """Whether the scored completions differ in reward, and are neither too hard nor too easy."""
    if not _differ(group):
        return False
    if dynamic.accuracy_range is None:
        return True
    low, high = dynamic.accuracy_range
    return low <= group.rewards_by_name["accuracy"].nanmean().item() <= high


def _differ(group: Group) -> bool:
    scored = group.rewards[~group.rewards.isnan()]
    return len(scored) > 1 and not bool((scored == scored[0]).all())


def policy_lag(groups: Sequence[Group], version: int) -> float:
    """How many changes of the weights ago the policy was that sampled these, in the mean."""
    lags = [version - completion.policy_version for group in groups for completion in group.completions]
    return sum(lags) / len(lags)


def _measure(kept: list[Group], dropped: list[Group], size: int) -> dict[str, float]:
    """Of all groups that were drawn."""
    groups = kept + dropped
    completions = [completion for group in groups for completion in group.completions]
    lengths = [len(completion.token_ids) for completion in completions]
    total = torch.cat([group.rewards for group in groups])
    scored = total[~total.isnan()]
    by_name = {
        f"rewards/{name}/mean": torch.cat([group.rewards_by_name[name] for group in groups]).nanmean().item()
        for name in groups[0].rewards_by_name
    }
    return {
        **by_name,
        "reward": total.nanmean().item(),
        "reward_std": scored.std().item() if len(scored) > 1 else 0.0,
        "frac_reward_zero_std": sum(not _differ(group) for group in groups) / len(groups),
        "unscored": total.isnan().float().mean().item(),
        "completions/mean_length": sum(lengths) / len(lengths),
        "completions/min_length": float(min(lengths)),
        "completions/max_length": float(max(lengths)),
        "completions/clipped_ratio": sum(not c.finished for c in completions) / len(completions),
        "groups_drawn": float(len(groups)),
        "groups_without_signal": len(dropped) / len(groups),
        "groups_made_up": float(size - len(kept)),
    }


@torch.no_grad()
def add_old_logprobs(policy: Policy, groups: list[Group], temperature: float, max_tokens: int) -> None:
    """Keep with each group, on the CPU, the log-probabilities that the policy, as it is now, gives its completions.

    One forward pass takes `max_tokens` tokens, padding included; `temperature` is that of the sampling.
    """
    if not groups:
        return

    def measure(micro_batch: GroupBatch) -> list[torch.Tensor]:
        logprobs_NT = policy.token_logprobs(micro_batch, temperature).logprobs.cpu()
        return [row[:length].clone() for row, length in zip(logprobs_NT, micro_batch.lengths_N.tolist(), strict=True)]

    rows = iter(policy.of_each_completion(GroupBatch.from_groups(groups), max_tokens, measure))
    for group in groups:
        group.old_logprobs = list(islice(rows, len(group.completions)))


def drawn_state(drawn: Round) -> dict[str, Any]:
    """What a checkpoint keeps of a `draw` that is not scored yet: as `Round.state`, of all processes."""
    completions = gather_shares([group.state()["completions"] for group in share(drawn.groups)])
    ids = [group.prompt.id for group in drawn.groups]
    return {"prompts": ids, "completions": completions, "seconds": drawn.metrics["seconds"]}


def restored_draw(state: dict[str, Any], encoded: Mapping[str, EncodedPrompt]) -> Round:
    """What `drawn_state` kept, given its prompts by id."""
    pairs = zip(state["prompts"], state["completions"], strict=True)
    groups = [Group.from_state({"prompt": id, "completions": drawn}, encoded) for id, drawn in pairs]
    return Round(groups, {"seconds": state["seconds"]})
