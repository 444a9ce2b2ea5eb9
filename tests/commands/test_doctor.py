"""`specs doctor` finds what is broken, says what to do, and its exit status tells scripts."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.command_line import specs
from packaging.version import Version

from specs_lightning.commands import doctor as module
from specs_lightning.commands.doctor import (
    GIB,
    Finding,
    devices,
    disk,
    examined,
    memory,
    model_folder,
    packages,
    vision,
)
from specs_lightning.policy import families
from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import sampler


def worst(findings: Iterator[Finding]) -> Finding:
    return max(findings, key=lambda finding: ("ok", "warning", "broken").index(finding.verdict))


@pytest.fixture
def model(tiny_model_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_path, tmp_path / "model"))


@pytest.fixture
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes seconds to import."""
    monkeypatch.setattr(module, "vllm", lambda: iter(()))


@pytest.mark.usefixtures("without_vllm")
class TestExitStatus:
    def status(self, *args: object) -> object:
        try:
            specs("doctor", *args)
        except SystemExit as exit:
            return exit.code
        return 0

    def test_it_is_0_where_nothing_is_broken(self, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.status("--model", model) == 0
        said = capsys.readouterr().out
        assert "shared-prefix rows" in said
        last = said.splitlines()[-1]
        assert last == "nothing is broken. To try all parts in small: specs run --config toy/smoke.yaml"

    def test_it_is_1_where_something_is(self, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (model / "model.safetensors").write_bytes(b"half a file")
        assert self.status("--model", model) == 1
        said = capsys.readouterr().out
        assert "model.safetensors" in said
        # Of the newest packages others may be broken, too: beyond the bounds of this one.
        assert re.fullmatch(r"broken: (.+, )?weights\. Do what the table says, and ask again", said.splitlines()[-1])


class TestModel:
    def test_a_whole_folder_is_well(self, model: Path) -> None:
        findings = list(model_folder(str(model)))
        assert [finding.verdict for finding in findings] == ["ok"] * 4
        assert re.match(r"[1-9]e-0[6-9] nats .* on a prompt with an image", findings[-1].found)

    def test_no_folder(self, tmp_path: Path) -> None:
        assert worst(model_folder(str(tmp_path))).verdict == "broken"

    def test_a_family_that_trains_on_padded_rows_is_a_warning(
        self, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(families.FAMILIES, "qwen2_5_vl")
        *others, compared = model_folder(str(model))
        assert [f.verdict for f in others] == ["warning", "ok", "ok"] and "padded rows" in others[0].found
        assert compared.subject == "log-probabilities" and compared.verdict == "ok"

    @pytest.mark.parametrize("listed", [True, False])
    def test_a_model_that_ours_reads_otherwise_than_transformers_is_broken(
        self, monkeypatch: pytest.MonkeyPatch, listed: bool
    ) -> None:
        """Plain positions in place of M-RoPE's, which trainer and engine would agree on."""
        if not listed:
            monkeypatch.delitem(families.FAMILIES, "qwen2_5_vl")
        monkeypatch.setattr(families, "_positions", lambda model, prompt: torch.arange(len(prompt)).expand(4, -1))
        found = worst(model_folder("toy:base"))
        assert found.subject == "log-probabilities" and found.verdict == "broken"
        assert float(re.findall(r"0\.\d+", found.found)[0]) > 0.1

    def test_a_model_that_does_not_fit_into_memory_is_not_compared(
        self, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_roomiest", lambda needed: ("cpu", needed / 2))
        found = worst(model_folder(str(model)))
        assert found.verdict == "warning" and found.found.startswith("not compared")

    def test_inputs_that_cannot_be_built_are_told_with_the_model_type(
        self, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forward(*args: object, **kwargs: object) -> None:
            raise TypeError("forward() got an unexpected keyword argument 'position_ids'")

        monkeypatch.delitem(families.FAMILIES, "qwen2_5_vl")
        monkeypatch.setattr(Policy, "hidden_states", forward)
        found = worst(model_folder(str(model)))
        assert found.verdict == "broken" and "'qwen2_5_vl'" in found.found and "position_ids" in found.found

    def test_no_processor(self, model: Path) -> None:
        (model / "preprocessor_config.json").unlink(missing_ok=True)
        (model / "processor_config.json").unlink(missing_ok=True)
        assert worst(model_folder(str(model))).subject == "processor"

    def test_no_chat_template(self, model: Path) -> None:
        (model / "chat_template.jinja").unlink()
        assert worst(model_folder(str(model))).found == "it has no chat template"

    def test_a_file_of_weights_that_the_index_names_is_missing(self, model: Path) -> None:
        index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        assert worst(model_folder(str(model))).found == "model-2.safetensors is not there"

    def test_a_tensor_that_is_in_no_file(self, model: Path) -> None:
        index = {"weight_map": {"no_such_weight": "model.safetensors"}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        assert "no_such_weight" in worst(model_folder(str(model))).found


class TestMachine:
    def test_a_torchvision_that_was_built_for_another_torch_is_broken(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Its compiled part is refused, and so it ends as it is imported."""
        (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
        monkeypatch.delitem(sys.modules, "torchvision", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        found = worst(vision())
        assert found.found == "RuntimeError: operator torchvision::nms does not exist"
        assert found.verdict == "broken" and found.remedy.endswith("both from the same place")

    def test_torchvision_goes_with_torch_here(self) -> None:
        assert worst(vision()).verdict == "ok"

    def test_packages_are_well_here(self) -> None:
        assert worst(packages()).verdict == "ok"

    def test_a_package_of_another_version_is_named_with_a_remedy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["torch>=99", "no-such-package>=1"])
        found = {finding.subject: finding for finding in packages()}
        assert "wanted >=99" in found["torch"].found and found["torch"].remedy == "pip install 'torch>=99'"
        assert found["no-such-package"].verdict == "broken"

    def test_a_driver_without_a_torch_for_it_is_broken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert worst(devices()).verdict == "ok"
        monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
        assert worst(devices()).verdict == "broken"

    def test_no_vllm_is_a_warning_and_a_wrong_one_broken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sampler.importlib.util, "find_spec", lambda name: True)
        monkeypatch.setattr(sampler, "installed_vllm", lambda: Version("99"))
        assert worst(module.vllm()).verdict == "broken"
        monkeypatch.setattr(sampler.importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr(sampler, "installed_vllm", lambda: None)
        assert worst(module.vllm()).verdict == "warning"

    def test_little_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100 * GIB, 98 * GIB, 2 * GIB))
        assert worst(disk()).verdict == "warning"
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100 * GIB, 100 * GIB, 0))
        assert worst(disk()).verdict == "broken"
        monkeypatch.setattr(module, "LITTLE_MEMORY", 2**60)
        assert worst(memory()).verdict == "warning"

    def test_threads_are_told_with_how_they_wait_and_a_busy_machine_is_a_warning(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0, 0))
        (found,) = module.threads()
        assert found.verdict == "ok" and found.found.startswith("2 on ") and "OMP_WAIT_POLICY=PASSIVE" in found.found
        monkeypatch.setattr(os, "getloadavg", lambda: (300.0, 0, 0))
        (found,) = module.threads()
        assert found.verdict == "warning" and "OMP_NUM_THREADS=1" in found.remedy

    def test_a_check_that_raises_is_broken_and_says_why(self) -> None:
        def check() -> Iterator[Finding]:
            yield Finding("first", "ok", "well")
            raise RuntimeError("CUDA error:\n  no kernel image")

        found = list(examined("torch", check))
        assert [f.verdict for f in found] == ["ok", "broken"]
        assert found[1].found == "RuntimeError: CUDA error: no kernel image"
