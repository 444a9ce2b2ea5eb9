"""One self-contained HTML page per run, and the results as a table for the terminal."""

from specs_lightning.report.page import write_report
from specs_lightning.report.scores import results_table

__all__ = ["results_table", "write_report"]
