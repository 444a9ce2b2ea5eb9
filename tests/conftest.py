import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: each worker has one core

import pytest
from tested_versions import pytest_terminal_summary  # noqa: F401  a hook of pytest
from tiny_models import tiny_qwen2_5_vl


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random Qwen2.5-VL; read only, since all tests share it."""
    return tiny_qwen2_5_vl(tmp_path_factory.mktemp("tiny_qwen2_5_vl"))
