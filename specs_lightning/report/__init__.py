"""One self-contained HTML page per run, and the results as a table for the terminal."""

from specs_lightning.report.page import write_report
from specs_lightning.report.scores import results_table
from specs_lightning.report.sentences import show_results

__all__ = ["results_table", "show_results", "write_report"]
