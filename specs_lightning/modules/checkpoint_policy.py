"""Which policy a checkpoint is of: its weights need the model that they were trained in, and the adapters' sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from specs_lightning.modules.checkpoint_files import CheckpointError, check_weights, trained_weights
from specs_lightning.policy.loading import LoRASettings, PolicySettings
from specs_lightning.policy.model_files import ModelNotFound, model_source
from specs_lightning.policy.policy import Policy


def policy_of_checkpoint(
    file: Path, state: Mapping[str, Any], given: PolicySettings | None, model: str | None = None
) -> PolicySettings:
    """The settings of the policy that a checkpoint's weights belong to, on top of those that are `given`.

    Which model it is, and what of it was trained, the checkpoint says: adapters on another model, or weights without
    their frozen ones, would be a policy that nobody trained. A checkpoint of all weights, whose model is not there any
    more, needs of the given one its configuration and processor alone.

    Args:
        file: the checkpoint.
        state: what it holds (`checkpoint_files.find`).
        given: in what type and how it computes, and what its chat template is told; the training's arguments, if it has
            none. Of a training that was not started by `specs fit`, whose checkpoint has no settings, it also says
            which model it is.
        model: where the model is now; where the checkpoint says if not given.

    Raises:
        CheckpointError: the model is not there, or not known.
    """
    known = state.get("settings", {}).get("model", {}).get("init_args", {}).get("policy")
    if known is None:
        if model is not None:
            return PolicySettings(model)
        if given is None:
            raise CheckpointError(f"{file} does not say which model it was trained in: give it (--model)")
        return given
    own = _as_settings(known if model is None else {**known, "model": model, "revision": None})
    trained = {name: getattr(own, name) for name in ("model", "revision", "lora", "quantization", "freeze_vision")}
    asked = (given and given.chat_template_kwargs) or own.chat_template_kwargs
    policy = replace(given or own, **trained, chat_template_kwargs=asked)
    try:
        model_source(policy.pinned)
    except ModelNotFound as error:
        holds_all = own.lora is None and not file.is_dir()
        if not holds_all:
            raise CheckpointError(
                f"{file} holds what was trained alone, beside the model {own.model}, which is not there: put it back, "
                "or give `specs export` its new place (--model), and take what that writes"
            ) from error
        if given is None:
            raise CheckpointError(
                f"the model {own.model}, in which {file} was trained, is not there: give its new place (--model)"
            ) from error
        return replace(policy, model=given.model, revision=given.revision)
    return policy


def read_policy(file: Path, settings: PolicySettings) -> Policy:
    """The policy of a checkpoint, a file or a folder of shards, on the CPU.

    Raises:
        CheckpointError: its weights are not those of the model.
    """
    policy, above = Policy(settings), "policy."
    saved = {name.removeprefix(above): weight for name, weight in trained_weights(file).items()}
    check_weights(policy, saved)
    try:
        policy.load_state_dict(saved, strict=False)
    except RuntimeError as error:  # of other shapes
        raise CheckpointError(f"{file} is of another model than {settings.model}: {error}") from error
    return policy


def _as_settings(known: Mapping[str, Any]) -> PolicySettings:
    """What a checkpoint's settings say; another version of the package may know more of them."""
    values = _of(PolicySettings, known)
    if values.get("lora") is not None:
        adapters = _of(LoRASettings, values["lora"])
        named = {name: tuple(value) for name, value in adapters.items() if isinstance(value, list)}
        values["lora"] = LoRASettings(**adapters | named)
    return PolicySettings(**values)


def _of(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in values.items() if name in names}
