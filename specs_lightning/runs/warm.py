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
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "peft",
    "datasets",
)


def warm() -> None:
    """Import it all. The toy's processor is read for what reading any imports."""
    prepare_process()
    for module in MODULES:
        importlib.import_module(module)
    from specs_lightning.policy.processors import load_processor  # now that the process is prepared
    from specs_lightning.toy import resolve  # likewise

    load_processor(str(resolve("toy:base")), takes_images=True)


warm()
# A cluster that stops a run tells all of its processes; this one is needed until the others have ended.
for number in SIGNALS:
    signal.signal(number, signal.SIG_IGN)
