"""Runs the cells of docs/first_run.ipynb in order and keeps what they print in it.

python docs/run_notebook.py            # in the folder in which the run is to be, or is already
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "first_run.ipynb"


def run_cells(notebook: dict[str, Any]) -> None:
    """Run the code cells of a notebook in one namespace; what each prints becomes its output."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(code, 1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec("".join(cell["source"]), namespace)
        text = printed.getvalue().splitlines(keepends=True)
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": text}] if text else []
        cell["execution_count"] = number


if __name__ == "__main__":
    read = json.loads(FILE.read_text())
    run_cells(read)
    FILE.write_text(json.dumps(read, indent=1, ensure_ascii=False) + "\n")
