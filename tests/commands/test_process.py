"""A process of `specs` is quiet but for what matters, and importing nothing for it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from specs_lightning.commands.process import QUIET, quiet_lightning

PREPARED = """
import json, os, sys, warnings
from specs_lightning.commands.process import prepare_process
prepare_process()
for message in json.loads(sys.argv[1]):
    warnings.warn(message)
heavy = [name for name in ("torch", "lightning", "transformers", "datasets") if name in sys.modules]
print(json.dumps({"heavy": heavy, "environment": dict(os.environ)}))
"""
HARMLESS = (
    "The 'train_dataloader' does not have many workers which may be a bottleneck.",
    "Checkpoint directory /runs/a exists and is not empty.",
    "A checkpoint,\nof which no pre-optimization state was saved.",
)


def test_a_terminal_that_lacks_a_character_is_no_error() -> None:
    code = "from specs_lightning.commands.process import prepare_process; prepare_process(); print('Γ – \\udcff')"
    ascii_alone = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=ascii_alone, capture_output=True, text=True, check=True)
    assert done.stdout == "\\u0393 \\u2013 \\udcff\n"


def prepared(*warned: str, **environment: str) -> tuple[dict[str, Any], str]:
    """What a new process has after its preparation, and what it said as something warned."""
    left = {name: value for name, value in os.environ.items() if name not in QUIET} | environment
    command = [sys.executable, "-c", PREPARED, json.dumps(warned)]
    done = subprocess.run(command, env=left, capture_output=True, text=True, check=True)
    return json.loads(done.stdout), done.stderr


def test_libraries_are_told_to_be_quiet_and_none_is_imported_for_it() -> None:
    found, _ = prepared()
    assert found["heavy"] == []
    assert {name: found["environment"][name] for name in QUIET} == QUIET


def test_what_the_user_has_set_stays() -> None:
    found, _ = prepared(TOKENIZERS_PARALLELISM="true")
    assert found["environment"]["TOKENIZERS_PARALLELISM"] == "true"


def test_harmless_warnings_are_not_shown_and_others_are() -> None:
    _, said = prepared(*HARMLESS, "the learning rate is negative")
    assert "the learning rate is negative" in said
    assert said.count("UserWarning") == 1


def test_what_bitsandbytes_lacks_on_some_cpus_is_not_told() -> None:
    """It says so as it is imported, if the processor could make use of it."""
    pytest.importorskip("bitsandbytes")
    said = "Failed to load CPU gemm_4bit_forward from kernels-community"
    asked = f"from bitsandbytes.backends.cpu.ops import logger\nlogger.warning({said!r})\nlogger.error('another')\n"
    command = [sys.executable, "-c", PREPARED + asked, "[]"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said not in done.stderr and "another" in done.stderr


@pytest.fixture
def loggers() -> Iterator[list[logging.Logger]]:
    """Lightning's, as talkative as importing it leaves them."""
    found = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [logger.level for logger in found]
    for logger in found:
        logger.setLevel(logging.INFO)
    yield found
    for logger, level in zip(found, before, strict=True):
        logger.setLevel(level)


def test_of_lightning_warnings_are_left(loggers: list[logging.Logger]) -> None:
    quiet_lightning()
    assert [(one.isEnabledFor(logging.INFO), one.isEnabledFor(logging.WARNING)) for one in loggers] == [
        (False, True)
    ] * 2
