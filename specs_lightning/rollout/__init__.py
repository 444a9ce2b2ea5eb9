"""Rollout engines: what samples completions from the policy."""

from jsonargparse import ArgumentError

from specs_lightning.rollout.engine import RolloutEngine, SamplingSettings, with_opened
from specs_lightning.rollout.hf import HFEngine
from specs_lightning.rollout.sampler import EngineError, VLLMSettings
from specs_lightning.rollout.servers import VLLMServers
from specs_lightning.rollout.vllm import VLLMEngine
from specs_lightning.settings.causes import innermost
from specs_lightning.settings.engines import ENGINES, EngineSettings, engine_class_path
from specs_lightning.settings.hints import HintingParser

__all__ = [
    "ENGINES",
    "EngineError",
    "HFEngine",
    "RolloutEngine",
    "SamplingSettings",
    "VLLMEngine",
    "VLLMServers",
    "VLLMSettings",
    "engine_class_path",
    "make_engine",
    "with_opened",
]


def make_engine(settings: EngineSettings) -> RolloutEngine:
    """The engine that settings ask for.

    Raises:
        EngineError: there is none, or it does not take its arguments.
    """
    parser = HintingParser(exit_on_error=False)
    parser.add_subclass_arguments(RolloutEngine, "engine", required=True)
    try:
        engine: RolloutEngine = parser.instantiate(parser.parse_object({"engine": engine_class_path(settings)})).engine
    except (ArgumentError, ValueError) as error:
        cause = innermost(str(error))
        raise EngineError(f"no rollout engine {settings!r}; short names are {', '.join(ENGINES)} ({cause})") from error
    return engine
