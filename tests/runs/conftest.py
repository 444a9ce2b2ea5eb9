from pathlib import Path

import pytest
import yaml
from helpers.stand_in_work import Work

from specs_lightning.runs import pipeline


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Work:
    work = Work()
    work.stand_in(monkeypatch)
    monkeypatch.setattr(pipeline, "write_report", lambda folder: folder / "report.html")
    monkeypatch.setattr(pipeline, "show_results", lambda folder: None)
    for name in ("grpo", "distill", "cold_start"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"setting": 1, "nested": {"rate": 0.5}}))
    monkeypatch.chdir(tmp_path)
    return work
