"""Settings of the whole process, for commands that compute: memory, and libraries that are to be quiet."""

from __future__ import annotations

import logging
import os
import warnings

import datasets
import lightning.pytorch  # noqa: F401  it sets its loggers' levels when it is imported
from transformers.utils import logging as transformers_logging

from specs_lightning.system.memory import keep_freed_memory

HARMLESS_WARNINGS = (
    ".*does not have many workers.*",  # prompts are encoded in this process on purpose
    ".*module\\(s\\) in eval mode.*",  # likewise: see Policy
    ".*LightningCLI's args parameter.*",
    ".*Total length of `list` across ranks is zero.*",  # no validation while training: callbacks evaluate
    ".*exists and is not empty.*",  # a resumed run
    ".*LeafSpec.*",
    "(?s).*no pre-optimization state was saved.*",  # a checkpoint is to hold the state after the step
)


def prepare_process() -> None:
    """Keep freed memory, and keep the libraries' bars and harmless warnings from the terminal."""
    keep_freed_memory()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for message in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
