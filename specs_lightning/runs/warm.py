"""What a run's commands import, imported once: in the process that stages are forked from, and nowhere else.

It must start no thread and touch no device, since a forked process has neither; nor call `torch.set_num_threads`: a
forked process would make its pool anew, in several threads at once.
"""

import importlib
import signal

from specs_lightning.commands.process import prepare_process
from specs_lightning.system.signals import SIGNALS

MODULES = (
    "specs_lightning.commands.fit",
    "specs_lightning.distill.pairs",
    "specs_lightning.report.evaluation",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "peft",
    "datasets",
)

prepare_process()
for module in MODULES:
    importlib.import_module(module)
# A cluster that stops a run tells all of its processes; this one is needed until the others have ended.
for number in SIGNALS:
    signal.signal(number, signal.SIG_IGN)
