"""Where answers are drawn, judged, kept and counted."""

from specs_lightning.evaluation.evaluator import Answered, Evaluator
from specs_lightning.records.answers import Answer

__all__ = ["Answer", "Answered", "Evaluator"]
