"""Evaluation sets and a policy's answers to them: the one place where these are asked, judged, kept and put together.

Callbacks, `specs validate`, `test` and `predict`, and through them `specs run`, ask here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from specs_lightning.errors import DataError
from specs_lightning.evaluation.answer_cache import AnswerCache
from specs_lightning.evaluation.evaluator import Answered, Evaluator
from specs_lightning.groups import EncodedPrompt, Prompt
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder, encode_all
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.answers import Answer, by_prompt
from specs_lightning.system.ranks import failing_together, gather, share, world_size

log = logging.getLogger(__name__)

PROMPTS_AT_ONCE = 128
"""How many prompts a process answers at once, unless told otherwise."""


class EvaluationSets:
    """Sets of prompts, and the answers that a policy gives to them. Processes share the prompts of each batch.

    Args:
        prompts: by set; those that cannot be encoded, or leave the engine no room for an answer, are set aside.
        batch_size: prompts that each process answers at once.
        cache: answers that were drawn before, of which none is drawn again.
    """

    def __init__(
        self,
        prompts: Mapping[str, Sequence[Prompt]],
        evaluator: Evaluator,
        encoder: PromptEncoder,
        set_aside: SetAside,
        batch_size: int,
        cache: AnswerCache | None = None,
    ) -> None:
        self.prompts, self.evaluator, self.batch_size, self.cache = dict(prompts), evaluator, batch_size, cache
        self.set_aside = set_aside
        missing = {name: [p for p in of_set if self._known(name, p) is None] for name, of_set in self.prompts.items()}
        self.encoded = {name: encode_all(encoder, of_set, set_aside) for name, of_set in missing.items()}
        """The prompts of each set that have no answer yet, of all processes."""
        for name, encoded in self.encoded.items():
            if not encoded and len(missing[name]) == len(self.prompts[name]):
                raise DataError(f"no prompt of the set {name} can be used: {set_aside.summary()}")
        self.drawn: dict[str, list[Answer]] = {name: [] for name in self.prompts}
        """This process's share of what was answered since."""
        self._longest: dict[str, int | None] = {}
        """Tokens of the longest prompt that leaves the engine room, by set, once longer ones are set aside."""

    @property
    def answered_before(self) -> int:
        """The prompts of all sets whose answers are in the cache."""
        found = (self._known(name, prompt) for name, of_set in self.prompts.items() for prompt in of_set)
        return sum(answers is not None for answers in found)

    def batches(self, name: str) -> EvaluationBatches:
        return EvaluationBatches(self.encoded[name], self.batch_size)

    def ask(self, policy: Policy, name: str, batch: Sequence[EncodedPrompt]) -> list[Answered]:
        """Judged answers to a batch of a set, those to one prompt next to each other."""
        if not self.encoded[name]:  # the same on all processes
            return []
        answered = self.evaluator.ask(policy, self._fitting(policy, name, batch), name)
        with failing_together():
            if self.cache is not None:
                self.cache.add(name, answered)
        self.drawn[name] += [one.answer for one in answered]
        return answered

    def ask_all(self, policy: Policy) -> dict[str, list[Answered]]:
        """This process's share of the judged answers to every set, all drawn anew."""
        self.drawn = {name: [] for name in self.prompts}
        answered = {
            name: [one for batch in self.batches(name) for one in self.ask(policy, name, batch)]
            for name in self.prompts
        }
        with failing_together():
            self.evaluator.engine.release()
        return answered

    def answers(self) -> dict[str, list[Answer]]:
        """The answers of all processes and earlier starts, the latter judged anew, in the order of the prompts.

        All processes must ask.
        """
        found: dict[str, list[Answer]] = {}
        for name, of_set in self.prompts.items():
            known = [(prompt, group) for prompt in of_set if (group := self._known(name, prompt))]
            before = [(prompt, answer) for prompt, group in share(known) for answer in group]
            with failing_together():
                judged = self.evaluator.judge_again([prompt for prompt, _ in before], [answer for _, answer in before])
            groups = {id: group for part in gather(by_prompt(self.drawn[name] + judged)) for id, group in part.items()}
            found[name] = [answer for prompt in of_set for answer in groups.get(prompt.id, ())]
        return found

    def close(self) -> None:
        """End the processes that judge. The engine is its owner's to close."""
        self.evaluator.close()

    def _fitting(self, policy: Policy, name: str, batch: Sequence[EncodedPrompt]) -> list[EncodedPrompt]:
        """The prompts of a batch that leave the engine room for an answer."""
        if name not in self._longest:
            self._longest[name] = self._set_aside_too_long(policy, name)
        longest = self._longest[name]
        return [prompt for prompt in batch if longest is None or len(prompt) <= longest]

    def _set_aside_too_long(self, policy: Policy, name: str) -> int | None:
        """Of a whole set, by all processes alike; how long a prompt may be."""
        evaluator = self.evaluator
        with failing_together():
            evaluator.engine.sync(policy)  # it may be another model's until now
        longest = evaluator.engine.longest_prompt(evaluator.sampling)
        if longest is None:
            return None
        too_long = [prompt for prompt in self.encoded[name] if len(prompt) > longest]
        for prompt in too_long:
            reason = f"prompt longer than {longest} tokens: prompt {prompt.id} has {len(prompt)}"
            self.set_aside.add_prompt(prompt.question, f"{reason}; the engine has no room for its answer")
            log.warning("prompt set aside: %s", reason)
        if len(too_long) == len(self.encoded[name]):
            raise DataError(f"no prompt of the set {name} can be used: {self.set_aside.summary()}")
        return longest

    def _known(self, name: str, prompt: Prompt) -> list[Answer] | None:
        return None if self.cache is None else self.cache.find(name, prompt)


class EvaluationBatches:
    """A set in batches. Each process gets its share, in as many batches as the others: the last may be empty, and of
    an empty set the only one.

    No `DataLoader`, which Lightning would have processes fill up with prompts that were answered already.
    """

    def __init__(self, prompts: Sequence[EncodedPrompt], batch_size: int) -> None:
        self.mine, self.batch_size = share(prompts), batch_size
        largest = -(-len(prompts) // world_size())
        self.batches = max(1, -(-largest // batch_size))  # Lightning would leave out what follows a test without any

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[EncodedPrompt]]:
        for number in range(self.batches):
            yield list(self.mine[number * self.batch_size : (number + 1) * self.batch_size])
