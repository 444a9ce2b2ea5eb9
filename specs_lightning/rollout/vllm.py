"""vLLM in the training process."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from specs_lightning.groups import Completion, EncodedPrompt
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.rollout.engine import RolloutEngine, SamplingSettings, prompt_seed, stop_ids, with_opened
from specs_lightning.rollout.sampler import EngineError, SampleRequest, VLLMSampler, VLLMSettings, process_state_kept
from specs_lightning.system.ranks import OtherRankFailed, failing_together, gather, rank

_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend")


class VLLMEngine(RolloutEngine):
    """Generates with vLLM, in the training process and on its device.

    Of several processes each has a vLLM of its own, with the whole model, for its share of the prompts.

    Args:
        vllm: how vLLM is set up.
        sleep_level: what it gives back of a GPU's memory while the policy trains. 0: nothing; 1: the key-value cache,
            and the weights to the CPU's memory; 2: the weights altogether (users report faults with some models).
            A CPU has no sleep mode.
        seeded: each prompt has random numbers of its own, so that it gets the same completions whatever it is asked
            with. vLLM draws them prompt by prompt; without, it draws for all at once, and a round that is drawn again
            is the same only if all of it is.

    Raises:
        ValueError: the model is to be divided among devices.
    """

    def __init__(
        self,
        vllm: VLLMSettings = VLLMSettings(),  # noqa: B008  frozen
        sleep_level: Literal[0, 1, 2] = 1,
        seeded: bool = True,
    ) -> None:
        if vllm.tensor_parallel_size != 1 or vllm.arguments.keys() & set(_PARALLEL):
            raise ValueError(
                "the engine in a training process has one device, that process's own: for a model that does not fit on "
                "one, start `specs serve --vllm.tensor_parallel_size N` and set the engine to VLLMServers"
            )
        self.settings = vllm
        self.sleep_level, self.seeded = sleep_level, seeded
        self.sampler: VLLMSampler | None = None
        self.asleep = False
        self._model: dict[str, Any] = {}
        self._policy: Callable[[], Policy | None] = lambda: None
        self._times_loaded = -1
        self._encoder: PromptEncoder | None = None
        self._stop_ids: list[int] = []

    @property
    def decisive(self) -> dict[str, Any]:
        own = {"dtype": self.settings.dtype, "arguments": self.settings.arguments, "seeded": self.seeded}
        return {**super().decisive, **own}

    @property
    def max_length(self) -> int | None:
        return None if self.sampler is None else self.sampler.max_model_len

    def sync(self, policy: Policy) -> None:
        """Take over the policy's weights, one at a time, in vLLM's own type.

        A vision tower of which nothing is trained comes with a policy's first weights alone. All processes of a
        training must call it: shards are gathered on the way, and what one raises, all raise.
        """
        try:
            with failing_together():
                sampler = self._awake(policy)
        except OtherRankFailed:
            self.close()  # all start together
            raise
        known, current = map(all, zip(*gather(self._holds(policy, sampler)), strict=True))
        if current:
            return
        with failing_together():
            if self._policy() is not policy:
                self._encoder, self._stop_ids = policy.encoder(), stop_ids(policy)
            named = policy.named_weights(sampler.dtype, without_frozen_vision=known)
            sampler.load_weights(named, policy.version)
            self._policy, self._times_loaded = weakref.ref(policy), policy.times_loaded

    def _awake(self, policy: Policy) -> VLLMSampler:
        """A vLLM that is awake and has the policy's architecture."""
        if self.sampler is not None and self._model != _architecture(policy):
            self.close()
        if self.sampler is None:
            self.sampler = VLLMSampler(str(policy.source), _in_this_process(self.settings), policy.settings.dtype)
            self._model = _architecture(policy)
        self._wake_up()
        return self.sampler

    def _holds(self, policy: Policy, sampler: VLLMSampler) -> tuple[bool, bool]:
        """Whether vLLM has the policy's weights, maybe of an earlier version; and whether as they are now."""
        known = self._policy() is policy and self._times_loaded == policy.times_loaded and sampler.version >= 0
        return known, known and sampler.version == policy.version

    def generate(
        self, prompts: Sequence[EncodedPrompt], sampling: SamplingSettings, seed: str
    ) -> list[list[Completion]]:
        if self.sampler is None or self._encoder is None:
            raise EngineError("the engine has no weights yet: call sync(policy) first")
        self._wake_up()
        requests = [sample_request(prompt, self._encoder, seed if self.seeded else None) for prompt in prompts]
        with process_state_kept():
            if not self.seeded:  # the process's random state is put back after each call: it would be the same in all
                torch.manual_seed(prompt_seed(seed, f"rank {rank()}"))
            return with_opened(prompts, self.sampler.generate(requests, sampling, self._stop_ids))

    def release(self) -> None:
        if self.sampler is not None and self.sleep_level and not self.asleep:
            self.sampler.sleep(self.sleep_level)
            self.asleep = True

    def _wake_up(self) -> None:
        if self.asleep and self.sampler is not None:
            self.sampler.wake_up()
            self.asleep = False
            if self.sleep_level == 2:
                self.sampler.version = -1  # its weights are gone

    def close(self) -> None:
        if self.sampler is not None:
            self._wake_up()
            self.sampler.close()
            self.sampler, self._policy = None, lambda: None


def sample_request(prompt: EncodedPrompt, encoder: PromptEncoder, seed: str | None) -> SampleRequest:
    """The request for an encoded prompt; without a call's seed, one without a seed."""
    template_ids, expanded_ids = tuple(encoder.template_ids(prompt.question)), tuple(prompt.input_ids.tolist())
    own_seed = None if seed is None else prompt_seed(seed, prompt.id, prompt.occurrence)
    return SampleRequest(prompt.id, template_ids, expanded_ids, prompt.question.images, own_seed)


def _in_this_process(settings: VLLMSettings) -> VLLMSettings:
    executor = {"distributed_executor_backend": "specs_lightning.rollout.server.worker.BesideTraining"}
    return replace(settings, arguments=settings.arguments | executor)


def _architecture(policy: Policy) -> dict[str, Any]:
    """What two policies must share for one vLLM to hold either's weights."""
    config = policy.model.config.to_dict()
    places = ("_name_or_path", "transformers_version", "_attn_implementation")
    return {name: value for name, value in config.items() if name not in places} | {"dtype": policy.settings.dtype}
