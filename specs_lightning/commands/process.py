"""Settings of the whole process: memory, threads, and libraries that are to be quiet. None is imported for it."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings

from specs_lightning.system.memory import keep_freed_memory
from specs_lightning.system.threads import prepare_threads

QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers follows it
}
"""Read by the libraries when they are imported; what the user has set stays."""
HARMLESS_WARNINGS = (
    ".*does not have many workers.*",  # prompts are encoded in this process on purpose
    ".*module\\(s\\) in eval mode.*",  # likewise: see Policy
    ".*LightningCLI's args parameter.*",
    ".*Total length of `list` across ranks is zero.*",  # no validation while training: callbacks evaluate
    ".*exists and is not empty.*",  # a resumed run
    ".*LeafSpec.*",
    ".*sync_dist=True.*",  # what is logged is put together over the ranks before
    ".*callbacks used to create the checkpoint.*",  # which is scored, not gone on from
    "torch.distributed is disabled.*",  # a checkpoint in shards, read by one process
    "(?s).*no pre-optimization state was saved.*",  # a checkpoint is to hold the state after the step
)


def prepare_process() -> None:
    """Keep freed memory, let waiting threads sleep, and keep libraries' bars and harmless warnings from the terminal.

    What the terminal has no character for is shown by its code, rather than being an error when all work is done.

    To be called before the libraries are imported.
    """
    keep_freed_memory()
    prepare_threads()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for message in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)  # lacks a kernel that is not for training


def quiet_lightning() -> None:
    """Keep Lightning's notes from the terminal; importing it sets its loggers' levels, so this comes after it."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
