"""A plain function as a reward, by the conventions of other trainers: what was written for TRL, verl or EasyR1 is named
in the configuration as it is.

Which convention it follows is told by the names of its parameters:

- `completions`, `completion_ids` or `prompts`: TRL's `reward_funcs`. It is called once for many completions, with these
  and a list of each further column that it takes, and returns a list of numbers.
- `solution_str`: verl's `compute_score`. It is called for each completion, with `data_source`, `solution_str`,
  `ground_truth` and `extra_info`, and returns a number, or a dictionary with `score`.
- `reward_inputs`: EasyR1's `compute_score`. It is called once for many, with a list of `response`, `response_length`
  and `ground_truth`, and returns a list of dictionaries with `overall`, or of numbers.
- `reward_input`: the same for each completion, EasyR1's sequential kind.

`None` stands for no score. Of a dictionary, its other entries are not used. What a trainer hands over of itself (TRL's
`trainer_state`, `log_extra`, `log_metric`) is not there, and a function must not be asynchronous.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from specs_lightning.groups import PLACE, Completion, Prompt
from specs_lightning.rewards.base import Reward, Scored

Function = Callable[..., Any]
Calling = Callable[[Function, Sequence[Prompt], Sequence[Completion]], Iterable[Any]]
"""Calls a function for many completions by one of the conventions."""


class FunctionError(RuntimeError):
    """A reward function that raised, or returned what is no score; the message names it and the rows."""


class FunctionReward(Reward):
    """A function that was written for TRL (`reward_funcs`), verl or EasyR1 (`compute_score`).

    Args:
        function: `FILE.py:NAME`, relative to the working directory, or `MODULE.NAME`.
        name: what it is logged as; the function's own name if not given.
        arguments: what it is given besides, by name.
        conversational: whether a function of TRL's kind gets completions as lists of one message, as TRL gives them
            where prompts are chat messages; false gives it texts.
    """

    def __init__(
        self,
        function: str,
        name: str | None = None,
        arguments: dict[str, Any] | None = None,
        conversational: bool = True,
    ) -> None:
        self.function = function
        found = find_function(function)
        self.call = calling_convention(function, found, conversational)
        self.call_with = partial(found, **(arguments or {}))
        self.name = name or found.__name__

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        return self.score(prompts, completions).values_N

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scored:
        try:
            values = [_number(value) for value in self.call(self.call_with, prompts, completions)]
            if len(values) != len(completions):
                raise ValueError(f"it returned {len(values)} scores for {len(completions)} completions")
        except Exception as error:  # it is the user's code
            rows = dict.fromkeys(map(_row, prompts))
            where = next(iter(rows)) if len(rows) == 1 else f"{len(rows)} rows"
            raise FunctionError(f"{self.function} on {where}: {type(error).__name__}: {error}") from error
        causes = [None if math.isfinite(value) else f"{self.function} gave no score" for value in values]
        return Scored(torch.tensor(values, dtype=torch.float32), causes)


def find_function(path: str) -> Function:
    """The function that `FILE.py:NAME` or `MODULE.NAME` names.

    Raises:
        ValueError: there is none, or it is asynchronous.
    """
    file, colon, name = path.rpartition(":")
    if colon:
        module = _module_of_file(Path(file), path)
    else:
        place, _, name = path.rpartition(".")
        module = _module_named(place, path)
    found = getattr(module, name, None)
    if not callable(found):
        there = [n for n, value in vars(module).items() if inspect.isfunction(value) and not n.startswith("_")]
        raise ValueError(f"{path}: there is no function {name!r}; there are: {', '.join(there) or 'none'}")
    if inspect.iscoroutinefunction(found):
        raise ValueError(f"{path} is asynchronous: give a function that returns its scores")
    function: Function = found
    return function


def _module_named(name: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        cause = str(error)
    except ValueError:
        cause = "it has no module"
    raise ValueError(f"function {path}: {cause}; give FILE.py:NAME (from the working directory) or MODULE.NAME")


def _module_of_file(file: Path, path: str) -> ModuleType:
    """The file as a module, read once however many of its functions are named."""
    if not file.is_file():
        raise ValueError(f"function {path}: there is no file {file} (paths are relative to the working directory)")
    name = f"{file.stem}_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"function {path}: {file} is no Python file (.py)")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look for their module there
    try:
        spec.loader.exec_module(module)
        return module
    except Exception as error:
        del sys.modules[name]
        cause = f"{type(error).__name__}: {error}"
    raise ValueError(f"function {path}: {file} cannot be read as a module: {cause}")


def calling_convention(path: str, function: Function, conversational: bool) -> Calling:
    """How a function is to be called, by the names of its parameters.

    Raises:
        ValueError: by none of the conventions.
    """
    taken = inspect.signature(function).parameters
    if taken.keys() & {"completions", "completion_ids", "prompts"}:
        return reward_func(conversational)
    others = {"solution_str": verl, "reward_inputs": easy_r1, "reward_input": easy_r1_single}
    for parameter, convention in others.items():
        if parameter in taken:
            return convention
    raise ValueError(
        f"{path} takes {', '.join(taken) or 'nothing'}, so it cannot be told how to call it: let it take completions "
        "(as TRL's reward_funcs), solution_str and ground_truth (as verl's compute_score), or reward_inputs or "
        "reward_input (as EasyR1's)"
    )


def reward_func(conversational: bool) -> Calling:
    """TRL's convention."""

    def call(function: Function, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Iterable[Any]:
        texts = [completion.text for completion in completions]
        given: dict[str, Any] = {
            "prompts": [list(prompt.messages) for prompt in prompts],
            "completions": [[{"role": "assistant", "content": text}] for text in texts] if conversational else texts,
            "completion_ids": [list(completion.token_ids) for completion in completions],
        }
        rows = [columns(prompt) for prompt in prompts]
        further = {name: [row.get(name) for row in rows] for row in rows for name in row}
        found: Iterable[Any] = function(**_accepted(function, {**further, **given}))
        return found

    return call


def verl(function: Function, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Iterable[Any]:
    """verl's convention."""
    for prompt, completion in zip(prompts, completions, strict=True):
        row = columns(prompt)
        given = {
            "data_source": row.get("data_source"),
            "solution_str": completion.text,
            "ground_truth": ground_truth(prompt),
            "extra_info": row.get("extra_info"),
        }
        yield function(**_accepted(function, given))


def easy_r1(function: Function, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Iterable[Any]:
    """EasyR1's convention for batches."""
    found: Iterable[Any] = function(reward_inputs=list(map(_reward_input, prompts, completions)))
    return found


def easy_r1_single(function: Function, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Iterable[Any]:
    """EasyR1's sequential convention."""
    return (function(reward_input=given) for given in map(_reward_input, prompts, completions))


def _reward_input(prompt: Prompt, completion: Completion) -> dict[str, Any]:
    length = len(completion.token_ids)
    return {"response": completion.text, "response_length": length, "ground_truth": ground_truth(prompt)}


def columns(prompt: Prompt) -> dict[str, Any]:
    """What a row holds beside its question and images, by our names where they are mapped."""
    ours = {
        "id": prompt.id,
        "answer": prompt.answer,
        "answer_type": prompt.answer_type,
        "answer_format": prompt.answer_format,
        "choices": list(prompt.choices),
    }
    return {**ours, **prompt.metadata}


def ground_truth(prompt: Prompt) -> Any:
    """As verl's files have it (`reward_model.ground_truth`), else the gold answer."""
    nested = prompt.metadata.get("reward_model")
    found = nested.get("ground_truth") if isinstance(nested, Mapping) else prompt.metadata.get("ground_truth")
    return prompt.answer if found is None else found


def _accepted(function: Function, given: dict[str, Any]) -> dict[str, Any]:
    """What a function takes of what there is, save what it was given in the configuration."""
    taken = inspect.signature(function).parameters.values()
    everything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken)
    names = given.keys() if everything else given.keys() & {parameter.name for parameter in taken}
    own = function.keywords if isinstance(function, partial) else {}
    return {name: given[name] for name in given if name in names and name not in own}


def _number(value: Any) -> float:
    """A score, NaN where there is none."""
    if isinstance(value, Mapping):
        value = value["score"] if "score" in value else value["overall"]
    return math.nan if value is None else float(value)


def _row(prompt: Prompt) -> str:
    place = prompt.metadata
    return f"row {place['source_row']} of {place['source_file']}" if place.keys() >= PLACE else f"prompt {prompt.id}"
