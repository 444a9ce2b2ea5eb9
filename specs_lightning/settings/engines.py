"""How settings name a rollout engine: plain values, for commands that do not sample themselves."""

from __future__ import annotations

from typing import Any

ENGINES = {
    "hf": "specs_lightning.rollout.HFEngine",
    "vllm": "specs_lightning.rollout.VLLMEngine",
    "servers": "specs_lightning.rollout.VLLMServers",
}
"""Short names for the command line."""

EngineSettings = str | dict[str, Any]
"""A short name, a class path, or a class path with its `init_args`."""


def engine_class_path(settings: EngineSettings) -> dict[str, Any]:
    """The engine's class path with its arguments, as configuration files have them."""
    if isinstance(settings, dict):
        return settings
    return {"class_path": ENGINES.get(settings, settings)}
