"""What a run's commands import, imported once: in the process that stages are forked from, and nowhere else.

It must start no thread and touch no device, since a forked process has neither.
"""

import signal

import datasets  # noqa: F401
import peft  # noqa: F401
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor  # noqa: F401

import specs_lightning.commands.fit
import specs_lightning.distill.pairs
import specs_lightning.report.evaluation  # noqa: F401

# A cluster that stops a run tells all of its processes; this one is needed until the others have ended.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
