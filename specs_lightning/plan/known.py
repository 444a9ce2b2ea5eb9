"""What is known of a stage's data and models, some of which earlier stages have yet to write; the rest is assumed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from specs_lightning.data import PreferenceDataModule
from specs_lightning.data.pairs import load_pairs
from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.plan.lengths import Groups, made_up_prompts, read_prompts, some
from specs_lightning.plan.settings import PlanSettings
from specs_lightning.plan.shapes import model_shape, published
from specs_lightning.policy.model_files import model_source
from specs_lightning.policy.processors import load_processor
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.pairs import PreferencePair
from specs_lightning.toy import resolve

ROWS, PAIRS = 40_000, 9_000
"""Of data that is not there: sizes like the paper's."""
PROMPT_TOKENS = COMPLETION_TOKENS = 1_024


@dataclass
class Known:
    """Shapes of models and lengths of data, by path. What had to be assumed is noted."""

    settings: PlanSettings
    named: tuple[str, ...] = ()
    """Models of the settings files, the nearest first: one that is not there will be trained from one beneath it."""
    shapes: dict[str, str] = field(default_factory=dict)
    """Where the shape of a model is found that an earlier stage will write."""
    pairs: dict[str, Groups] = field(default_factory=dict)
    """Those that an earlier stage will write."""
    assumed: list[str] = field(default_factory=list)

    def taken(self) -> list[str]:
        """What was assumed since this was last asked, each once."""
        notes, self.assumed = list(dict.fromkeys(self.assumed)), []
        return notes

    def source(self, model: str) -> str:
        """Where a model's shape is found."""
        if self.settings.shape is not None:
            return self.settings.shape
        found = self.shapes.get(model, model)
        there = next((other for other in (found, *self.named) if has_shape(other)), found)
        if there != found:
            self.assumed.append(f"{found} is not there: assumed to have the shape of {there} (--shape)")
        return there

    def prompts(
        self, source: PromptSource, model: str, longest: int | None = None, template: dict[str, Any] | None = None
    ) -> Groups:
        """Those of a data set, without completions, as a model's chat template with these arguments lays them out."""
        rows, tokens = self.settings.rows, self.settings.prompt_tokens
        if not (rows and tokens) and is_here(source.path):
            try:
                make_encoder = partial(encoder, model, longest, template)
                return read_prompts(source, make_encoder, image_token(model), self.settings.sample)
            except OSError:  # the model's processor is not there
                rows = rows or len(load_prompts(source, SetAside(), thorough=False))
        rows = self._or_assumed(rows, source.limit or ROWS, f"{source.path}: prompts", "rows")
        tokens = self._or_assumed(tokens, PROMPT_TOKENS, f"{source.path}: tokens of a prompt", "prompt_tokens")
        return made_up_prompts(min(rows, source.limit or rows), min(tokens, longest or tokens))

    def pairs_of(
        self, data: PreferenceDataModule, sides: int, source: str, template: dict[str, Any] | None = None
    ) -> Groups:
        """Those of a file, with their sides that are trained on."""
        if data.train in self.pairs:
            groups = self.pairs[data.train]
            self.assumed.append("pairs are counted as if every prompt gave one, completions at their longest")
            return replace(groups, completions=tuple(group[:sides] for group in groups.completions))
        given, rows = self.settings, self.settings.rows
        if not (given.rows and given.prompt_tokens and given.completion_tokens) and is_here(data.train):
            pairs = load_pairs(data.source, data.set_aside, sides)
            try:
                data.encoder = encoder(source, data.max_prompt_tokens, template)
                return _measured(data, some(pairs, given.sample), len(pairs), sides, source)
            except OSError:  # the model's processor is not there
                rows = rows or len(pairs)
        longest, where = data.max_completion_tokens or COMPLETION_TOKENS, data.train
        rows = self._or_assumed(rows, PAIRS, f"{where}: pairs", "rows")
        tokens = self._or_assumed(given.prompt_tokens, PROMPT_TOKENS, f"{where}: tokens of a prompt", "prompt_tokens")
        answer = f"{where}: tokens of a completion"
        length = self._or_assumed(given.completion_tokens, longest, answer, "completion_tokens")
        return made_up_prompts(rows, min(tokens, data.max_prompt_tokens or tokens)).answered(length, sides)

    def _or_assumed(self, given: int | None, otherwise: int, what: str, setting: str) -> int:
        if given is None:
            self.assumed.append(f"{what}: assumed to be {otherwise:,} (--{setting})")
        return given or otherwise


def _measured(data: PreferenceDataModule, pairs: list[PreferencePair], rows: int, sides: int, source: str) -> Groups:
    """The lengths of some pairs, as the data module encodes them."""
    data.pairs = pairs
    completions = tuple(tuple(map(len, pair.sides[:sides])) for pair in data.encoded)
    prompts = [pair.prompt for pair in data.encoded]
    return replace(Groups.of(rows, prompts, image_token(source)), completions=completions)


def has_shape(model: str) -> bool:
    """Whether a model's shape is known here, its folder is there, or the hub may tell it."""
    return published(model) is not None or Path(resolve(model)).exists() or model.count("/") == 1


def is_here(path: str) -> bool:
    """Whether data is on this machine, or is made here when it is asked for."""
    return Path(resolve(path)).exists()


def encoder(source: str, longest: int | None, template: dict[str, Any] | None) -> PromptEncoder:
    processor = load_processor(model_source(source))
    return PromptEncoder(processor, longest, image_memory_gib=0, chat_template_kwargs=template)


def image_token(source: str) -> int | None:
    return getattr(model_shape(source), "image_token_id", None)


def models_named(settings: Iterable[dict[str, object]]) -> tuple[str, ...]:
    """Those that settings of `specs fit` train from, in order."""
    found = []
    for given in settings:
        at: object = given
        for key in ("model", "init_args", "policy", "model"):
            at = at.get(key) if isinstance(at, dict) else None
        if isinstance(at, str):
            found.append(at)
    return tuple(found)
