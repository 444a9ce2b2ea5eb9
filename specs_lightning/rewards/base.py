"""What a reward is, and how rewards sum: NaN marks a completion that could not be scored, 0 one that earned nothing.

The paper doesn't say what happens to a completion that its scorer fails on. Here it is masked out of training,
counted and logged with its cause, since a 0 would teach the policy that a right answer was wrong.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from specs_lightning.errors import RewardError
from specs_lightning.groups import Completion, Prompt
from specs_lightning.judge import Judge
from specs_lightning.scoring.math_verify import Verdict
from specs_lightning.system.ranks import failing_together, gather, rank

logger = logging.getLogger(__name__)


class Scored(NamedTuple):
    """One reward's values: (N,) float32 with NaN where unscored, and there the cause (`None` elsewhere)."""

    values_N: Tensor
    causes: list[str | None]

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> Scored:
        """1 for right, 0 for wrong."""
        values = [math.nan if verdict.correct is None else float(verdict.correct) for verdict in verdicts]
        return cls(torch.tensor(values, dtype=torch.float32), [verdict.cause for verdict in verdicts])


class Reward(ABC):
    """Scores completions; `prompts[i]` is what `completions[i]` answers."""

    name: str
    """What the reward is logged as; unique within a `RewardSum`."""
    judge: Judge | None = None
    """What it asks where rules do not suffice, if it asks anybody."""

    @abstractmethod
    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        """(N,) float32 rewards, NaN where a completion could not be scored."""

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scored:
        """The rewards, with the cause of each NaN. A reward that knows its causes overrides this."""
        values_N = self(prompts, completions)
        if not isinstance(values_N, Tensor):
            raise TypeError(f"returned {type(values_N).__name__}, not a tensor with a value for each completion")
        if values_N.shape != (len(completions),):
            raise ValueError(f"returned shape {tuple(values_N.shape)} for {len(completions)} completions")
        return Scored(values_N, [None if known else "no score given" for known in values_N.isfinite().tolist()])

    def use_judge(self, judge: Judge) -> None:
        """Take the run's judge, unless the reward has one of its own."""
        self.judge = self.judge or judge

    def close(self) -> None:
        """Release what the reward holds (processes, connections)."""
        if self.judge is not None:
            self.judge.close()


class RewardSum:
    """A weighted sum of rewards that survives a reward's failures.

    A reward that raises on a batch is tried again on each completion alone, so that one bad completion doesn't lose
    the rest. A component of weight 0 is still needed: where it is NaN, so is the total.

    Args:
        rewards: the components, with distinct names.
        weights: one each; 1 each by default.
        max_unscored_share: the share of a call's completions beyond which unscored ones are an error. Call it with
            a whole round: of a few completions, one may already be too large a share. Processes that divide a round
            call it together, each with its share.

    Raises:
        ValueError: no rewards, a name twice, weights that don't match, or a share outside 0 to 1.
    """

    def __init__(
        self, rewards: list[Reward], weights: list[float] | None = None, max_unscored_share: float = 0.5
    ) -> None:
        if not rewards:
            raise ValueError("RewardSum needs at least one reward")
        if nameless := [type(reward).__name__ for reward in rewards if not hasattr(reward, "name")]:
            raise ValueError(f'the reward {nameless[0]} has no name to be logged as: give its class one, name = "…"')
        names = [reward.name for reward in rewards]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"reward names must be distinct; given more than once: {', '.join(twice)}")
        if weights is not None and len(weights) != len(rewards):
            raise ValueError(f"{len(weights)} weights for {len(rewards)} rewards ({', '.join(names)})")
        if weights is not None and not all(map(math.isfinite, weights)):
            raise ValueError(f"weights must be finite numbers, not {weights}")
        if not 0 <= max_unscored_share <= 1:
            raise ValueError(f"max_unscored_share must be between 0 and 1, not {max_unscored_share}")
        self.rewards = rewards
        self.weights = [1.0] * len(rewards) if weights is None else list(weights)
        self.max_unscored_share = max_unscored_share

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> tuple[Tensor, dict[str, Scored]]:
        """Score `completions[i]` as the answer to `prompts[i]`.

        Returns:
            (N,) weighted sums, NaN where any component is; and each reward's own values, by its name.

        Raises:
            ValueError: as many prompts as completions are needed.
            RewardError: more than the allowed share is unscored.
        """
        if len(prompts) != len(completions):
            raise ValueError(f"{len(prompts)} prompts for {len(completions)} completions")
        total_N = torch.zeros(len(completions))
        by_name: dict[str, Scored] = {}
        with failing_together():
            for reward, weight in zip(self.rewards, self.weights, strict=True):
                by_name[reward.name] = self._score_one(reward, prompts, completions)
                total_N += weight * by_name[reward.name].values_N
        self._report(total_N, by_name)
        return total_N, by_name

    @property
    def judges(self) -> list[Judge]:
        """Those that the rewards ask, each once."""
        return list({id(judge): judge for reward in self.rewards if (judge := reward.judge) is not None}.values())

    def close(self) -> None:
        for reward in self.rewards:
            reward.close()

    def _score_one(self, reward: Reward, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scored:
        if not completions:
            return Scored(torch.zeros(0), [])
        # a reward is the user's code: whatever else it raises costs completions, not the run
        try:
            return _checked(reward.score(prompts, completions))
        except RewardError:
            raise
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
        if len(completions) == 1:
            return Scored(torch.full((1,), math.nan), [cause])
        logger.warning("reward %r failed on %d completions: %s", reward.name, len(completions), cause)
        scored: list[Scored] = []
        failed: list[str] = []
        for prompt, completion in zip(prompts, completions, strict=True):
            if len(failed) > self.max_unscored_share * len(completions):
                # an error by now: a service that is down isn't asked a hundred times more
                scored.append(Scored(torch.full((1,), math.nan), [failed[-1]]))
            else:
                scored.append(self._score_one(reward, [prompt], [completion]))
            failed += filter(None, scored[-1].causes)
        return Scored(torch.cat([values for values, _ in scored]), [cause for _, causes in scored for cause in causes])

    def _report(self, total_N: Tensor, by_name: dict[str, Scored]) -> None:
        """What is unscored, on all processes together."""
        counts = torch.tensor([total_N.isnan().sum(), len(total_N)])
        own = {name: Counter(filter(None, scored.causes)) for name, scored in by_name.items()}
        everyones = gather((counts, own))
        unscored, count = torch.stack([counts for counts, _ in everyones]).sum(0).tolist()
        causes = {name: sum((found[name] for _, found in everyones), Counter()) for name in own}
        for name, found in causes.items():
            if found and rank() == 0:
                cause = found.most_common(1)[0][0]
                logger.warning("reward %r left %d of %d unscored, mostly: %s", name, found.total(), count, cause)
        if unscored > self.max_unscored_share * count:
            worst = max(causes, key=lambda name: causes[name].total())
            raise RewardError(
                f"{unscored} of {count} completions are unscored, more than the allowed share of "
                f"{self.max_unscored_share:g}; reward {worst!r} failed on {causes[worst].total()}, "
                f"mostly with: {causes[worst].most_common(1)[0][0]}"
            )


def _checked(scored: Scored) -> Scored:
    """The values as detached float32 on the CPU, with every value that isn't a finite number as NaN with a cause."""
    values_N = scored.values_N.detach().to("cpu", torch.float32)
    causes = [
        cause if math.isfinite(value) else cause or f"the score is {value}"
        for value, cause in zip(values_N.tolist(), scored.causes, strict=True)
    ]
    scored_N = torch.tensor([cause is None for cause in causes])
    return Scored(values_N.where(scored_N, math.nan), causes)
