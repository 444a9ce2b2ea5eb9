"""The embedded engine: the policy's own transformers model, with a key-value cache.

A prompt and its images are run once for all its completions, and finished completions leave the batch. Being the
policy itself, it never holds stale weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from specs_lightning.groups import Completion, EncodedPrompt
from specs_lightning.policy.families import logits_head
from specs_lightning.policy.policy import Policy
from specs_lightning.policy.shared_prefix import next_positions, token_types
from specs_lightning.rollout.cache import make_cache
from specs_lightning.rollout.engine import RolloutEngine, SamplingSettings, prompt_seed, stop_ids, with_opened
from specs_lightning.rollout.sampler import EngineError
from specs_lightning.rollout.stop_texts import StopWatch, cut_at
from specs_lightning.rollout.truncation import truncation_of


class HFEngine(RolloutEngine):
    """Generates with transformers, in the training process.

    Args:
        max_sequences: how many completions are drawn at once.
    """

    def __init__(self, max_sequences: int = 256) -> None:
        if max_sequences < 1:
            raise ValueError(f"max_sequences must be positive, not {max_sequences}")
        self.max_sequences = max_sequences
        self.policy: Policy | None = None

    def sync(self, policy: Policy) -> None:
        policy.gather_weights()
        self.policy = policy

    def release(self) -> None:
        if self.policy is not None:
            self.policy.free_weights()

    def close(self) -> None:
        self.policy = None

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[EncodedPrompt], sampling: SamplingSettings, seed: str
    ) -> list[list[Completion]]:
        if self.policy is None:
            raise RuntimeError("the engine has no weights yet: call sync(policy) first")
        self.policy.eval()
        at_once = max(1, self.max_sequences // sampling.completions_per_prompt)
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # little padding
        completions: dict[int, list[Completion]] = {}
        for start in range(0, len(prompts), at_once):
            indices = by_length[start : start + at_once]
            batch = _Decoding(self.policy, [prompts[i] for i in indices], sampling, seed)
            completions.update(zip(indices, batch.run(), strict=True))
        return with_opened(prompts, [completions[i] for i in range(len(prompts))])


class _Decoding:
    """One batch on its way: prompts run once, then a token at a time for every completion still going.

    `_G` prompts, `_N` all completions, `_A` those still active.
    """

    def __init__(self, policy: Policy, prompts: list[EncodedPrompt], sampling: SamplingSettings, seed: str) -> None:
        self.policy, self.prompts, self.sampling = policy, prompts, sampling
        device, k = policy.device, sampling.completions_per_prompt
        draws = [
            torch.rand(
                (k, sampling.max_tokens),
                generator=torch.Generator().manual_seed(prompt_seed(seed, prompt.id, prompt.occurrence)),
            )
            for prompt in prompts
        ]
        self.draws_NT = torch.cat(draws).to(device)
        n = len(prompts) * k
        self.ids_NT = torch.zeros((n, sampling.max_tokens), dtype=torch.long, device=device)
        self.logprobs_NT = torch.zeros((n, sampling.max_tokens), device=device)
        self.lengths_N = torch.zeros(n, dtype=torch.long, device=device)
        self.finished_N = torch.zeros(n, dtype=torch.bool, device=device)
        self.stop_ids = torch.tensor(stop_ids(policy), device=device)
        self.head = logits_head(policy.model)
        self.truncation = truncation_of(sampling)
        self.watches = self._stop_watches() if sampling.stop else []
        self.stopped_by: dict[int, str] = {}
        """The stop text that a completion ended with, by its number."""

    def run(self) -> list[list[Completion]]:
        k = self.sampling.completions_per_prompt
        hidden_GH, cache, seen_GL, next_CG = self._prefill()
        rows_N: Any = torch.arange(len(self.prompts), device=self.policy.device).repeat_interleave(k)
        cache.reorder_cache(rows_N)
        hidden_AH = hidden_GH.repeat_interleave(k, 0)
        seen_AL = seen_GL.repeat_interleave(k, 0)
        position_CA = next_CG.repeat_interleave(k, 1)
        active_A = torch.arange(len(self.ids_NT), device=self.policy.device)
        for t in range(self.sampling.max_tokens):
            token_A, logprob_A = self._sample(hidden_AH, self.draws_NT[active_A, t])
            self.ids_NT[active_A, t] = token_A
            self.logprobs_NT[active_A, t] = logprob_A
            self.lengths_N[active_A] += 1
            going_A = ~torch.isin(token_A, self.stop_ids)
            if self.watches:
                self._end_at_stop_texts(active_A, token_A, going_A)
            self.finished_N[active_A[~going_A]] = True
            if not going_A.any():
                break
            if not going_A.all():
                kept: Any = going_A.nonzero()[:, 0]  # transformers' type for it is no other tensors'
                cache.reorder_cache(kept)
                token_A, seen_AL, active_A = token_A[kept], seen_AL[kept], active_A[kept]
                position_CA = position_CA[:, kept]
            seen_AL = torch.cat([seen_AL, seen_AL.new_ones(len(seen_AL), 1)], dim=1)
            if t + 1 < self.sampling.max_tokens:
                hidden_AH = self._forward(token_A[:, None], seen_AL, position_CA[..., None], cache)
            position_CA = position_CA + 1
        return self._completions()

    def _stop_watches(self) -> list[StopWatch]:
        """One for each completion."""
        if not self.policy.tokenizer.is_fast:
            raise EngineError(
                "sampling.stop needs a tokenizer of the tokenizers library (tokenizer.json); this model has another: "
                "leave it out, or sample by specs_lightning.rollout.VLLMEngine or VLLMServers"
            )
        tokenizer = self.policy.tokenizer.backend_tokenizer
        prompts = [prompt.input_ids.tolist() for prompt in self.prompts]
        k, stop = self.sampling.completions_per_prompt, self.sampling.stop
        return [StopWatch(tokenizer, ids, stop) for ids in prompts for _ in range(k)]

    def _end_at_stop_texts(self, active_A: Tensor, token_A: Tensor, going_A: Tensor) -> None:
        """Those whose token completes a stop text go on no more."""
        numbers, tokens = active_A.tolist(), token_A.tolist()
        for place in going_A.nonzero()[:, 0].tolist():
            found = self.watches[numbers[place]].step(tokens[place])
            if found is not None:
                self.stopped_by[numbers[place]] = found
                going_A[place] = False

    def _prefill(self) -> tuple[Tensor, DynamicCache, Tensor, Tensor]:
        """The last hidden state of each prompt, the cache, which of its columns are tokens, the next positions."""
        prompts, policy = self.prompts, self.policy
        device, length = policy.device, max(len(prompt) for prompt in prompts)
        position_G = [policy.positions(prompt).to(device) for prompt in prompts]
        ids_GL = torch.zeros((len(prompts), length), dtype=torch.long, device=device)
        seen_GL = torch.zeros_like(ids_GL)
        position_CGL = torch.zeros((position_G[0].shape[0], *ids_GL.shape), dtype=torch.long, device=device)
        for g, prompt in enumerate(prompts):
            ids_GL[g, length - len(prompt) :] = prompt.input_ids.to(device)
            seen_GL[g, length - len(prompt) :] = 1
            position_CGL[:, g, length - len(prompt) :] = position_G[g]
        cache = make_cache(policy.model.config)
        starts = [(g + 1) * length - len(prompt) for g, prompt in enumerate(prompts)]
        types = token_types(prompts, ids_GL, starts)
        hidden_GH = self._forward(ids_GL, seen_GL, position_CGL, cache, **types, **policy.of_images(prompts))
        return hidden_GH, cache, seen_GL, next_positions(position_G)

    def _forward(
        self, ids_AL: Tensor, seen_AL: Tensor, position_CAL: Tensor, cache: DynamicCache, **of_images: Any
    ) -> Tensor:
        return self.policy.hidden_states(
            input_ids=ids_AL,
            attention_mask=seen_AL,
            position_ids=position_CAL[0] if position_CAL.shape[0] == 1 else position_CAL,
            past_key_values=cache,
            use_cache=True,
            **of_images,
        )[:, -1]

    def _sample(self, hidden_AH: Tensor, draw_A: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that follow, and their log-probabilities: of the distribution that they are drawn from."""
        logits_AV = self.head(hidden_AH).float()
        logits_AV[:, self.policy.banned_ids] = float("-inf")
        if self.sampling.temperature == 0:
            token_A = logits_AV.argmax(-1)
        else:
            logits_AV /= self.sampling.temperature
            if self.truncation is not None:
                logits_AV = self.truncation(logits_AV)
            token_A = inverse_transform(logits_AV.softmax(-1), draw_A)
        logprob_A = logits_AV.gather(-1, token_A[:, None])[:, 0] - logits_AV.logsumexp(-1)
        return token_A, logprob_A

    def _completions(self) -> list[list[Completion]]:
        lengths, finished = self.lengths_N.tolist(), self.finished_N.tolist()
        ids = [row[:length] for row, length in zip(self.ids_NT.tolist(), lengths, strict=True)]
        logprobs = [row[:length] for row, length in zip(self.logprobs_NT.tolist(), lengths, strict=True)]
        decoded = self.policy.tokenizer.batch_decode(ids, skip_special_tokens=True)
        texts = [cut_at(text, self.stopped_by.get(n), self.sampling) for n, text in enumerate(decoded)]
        flat = [
            Completion(tuple(ids[n]), tuple(logprobs[n]), texts[n], finished[n], self.policy.version)
            for n in range(len(ids))
        ]
        k = self.sampling.completions_per_prompt
        return [flat[start : start + k] for start in range(0, len(flat), k)]


def inverse_transform(probability_AV: Tensor, draw_A: Tensor) -> Tensor:
    """The token behind each uniform number: one number a token, so that a draw depends on its prompt alone.

    In float64 (which MPS lacks): in float32 a token of less than 6e-8 may have no share of the unit interval, and a
    parallel sum, which need not rise steadily, may give a share to one that has no probability.
    """
    wide = torch.float32 if probability_AV.device.type == "mps" else torch.float64
    cumulative_AV = probability_AV.to(wide).cumsum(-1)
    threshold_A1 = draw_A[:, None].to(wide) * cumulative_AV[:, -1:]
    token_A = torch.searchsorted(cumulative_AV, threshold_A1, right=True)[:, 0]
    return token_A.clamp(max=probability_AV.shape[-1] - 1)
