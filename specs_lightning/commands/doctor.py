"""`specs doctor`: is everything there that a training needs, and what to do where it is not.

Whatever is broken must not keep the others from being looked at, so each check imports for itself what it looks at.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.table import Table
from rich.text import Text

from specs_lightning.system.terminal import plain, say

GIB = 2**30
DISTRIBUTION = "specs-lightning"
LITTLE_MEMORY, LITTLE_DISK = 4 * GIB, 20 * GIB
"""Less than this is enough for the toy only."""

Verdict = Literal["ok", "warning", "broken"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and what to do where that is not well."""

    subject: str
    verdict: Verdict
    found: str
    remedy: str = ""


Check = Callable[[], Iterator[Finding]]


def doctor(model: str = "toy:base") -> bool:
    """Look whether this machine and a model are ready for training; exit status 1 if anything is broken.

    Args:
        model: the folder or name of the model to look at; the tiny one of the package if not given.

    Returns:
        whether nothing is broken.
    """
    checks: dict[str, Check] = {
        "packages": packages,
        "torch": devices,
        "torchvision": vision,
        "vLLM": vllm,
        "threads": threads,
        "memory": memory,
        "disk": disk,
        "model": lambda: model_folder(model),
    }
    findings = [finding for subject, check in checks.items() for finding in examined(subject, check)]
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False)
    console.print(_table(findings))
    say(last_line(findings))
    return all(finding.verdict != "broken" for finding in findings)


def last_line(findings: Sequence[Finding]) -> str:
    """Whether one can begin, and with what."""
    if broken := [finding.subject for finding in findings if finding.verdict == "broken"]:
        return f"broken: {', '.join(broken)}. Do what the table says, and ask again"
    return "nothing is broken. To try all parts in small: specs run --config toy/smoke.yaml"


def examined(subject: str, check: Check) -> Iterator[Finding]:
    """A check's findings; one that raises is broken, whatever it raised: a half-installed library raises anything."""
    try:
        yield from check()
    except Exception as error:
        said = " ".join(str(error).split()) or "no message"
        yield Finding(subject, "broken", f"{type(error).__name__}: {said}", "mend what the message names, or reinstall")


def packages() -> Iterator[Finding]:
    """Python and every package that this one requires, in versions that it takes."""
    try:
        required = importlib.metadata.requires(DISTRIBUTION) or []
        python = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", "warning", f"{DISTRIBUTION} is not installed: versions unknown", "pip install .")
        return
    if SpecifierSet(python).contains(platform.python_version(), prereleases=True):
        yield Finding("Python", "ok", platform.python_version())
    else:
        yield Finding("Python", "broken", f"{platform.python_version()}, wanted {python}", "install another Python")
    wanted = [r for r in map(Requirement, required) if r.marker is None or r.marker.evaluate({"extra": ""})]
    faults = [fault for requirement in wanted if (fault := _fault(requirement))]
    yield from faults
    if not faults:
        shown = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "lightning")]
        yield Finding("packages", "ok", f"{', '.join(shown)} and {len(wanted) - len(shown)} others")


def _fault(requirement: Requirement) -> Finding | None:
    name = requirement.name
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "broken", "not installed", f"pip install '{requirement}'")
    if requirement.specifier.contains(installed, prereleases=True):
        return None
    return Finding(name, "broken", f"{installed}, wanted {requirement.specifier}", f"pip install '{requirement}'")


def devices() -> Iterator[Finding]:
    """GPUs, and whether torch computes on them."""
    import torch

    if torch.cuda.is_available():
        yield from map(_gpu, range(torch.cuda.device_count()))
    elif shutil.which("nvidia-smi") is None:
        yield Finding("CUDA", "ok", "no GPU here: trainings run on the CPU, which is enough for the toy")
    else:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        remedy = "install a torch for this driver's CUDA (nvidia-smi shows it), and look at CUDA_VISIBLE_DEVICES"
        yield Finding("CUDA", "broken", f"there is a driver, but torch ({built}) finds no GPU", remedy)


def vision() -> Iterator[Finding]:
    """Whether torchvision goes with torch: it holds compiled code for one build of it."""
    try:
        import torchvision
    except (ImportError, RuntimeError, OSError) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        yield Finding("torchvision", "broken", said, "install torch and torchvision again, both from the same place")
        return
    yield Finding("torchvision", "ok", torchvision.__version__)


def _gpu(number: int) -> Finding:
    import torch

    subject = f"GPU {number}"
    ones = torch.ones(64, 64, device=f"cuda:{number}")
    if (ones @ ones).sum().item() != 64**3:
        return Finding(subject, "broken", "computes wrongly", "look at the driver's log for faults of the device")
    free, total = torch.cuda.mem_get_info(number)
    found = f"{torch.cuda.get_device_name(number)}, {free / GIB:.0f} of {total / GIB:.0f} GiB free"
    if free < total / 2:
        return Finding(subject, "warning", found, "another process has most of it: nvidia-smi shows which")
    if torch.cuda.get_device_capability(number) < (8, 0):
        remedy = "leave trainer.precision and model.policy.dtype alone"
        return Finding(subject, "warning", f"{found}, no bfloat16", remedy)
    return Finding(subject, "ok", found)


def vllm() -> Iterator[Finding]:
    """Whether vLLM can sample; it is not required."""
    from specs_lightning.rollout.sampler import EngineError, check_vllm, installed_vllm

    version = installed_vllm()
    try:
        check_vllm()
    except EngineError as error:
        remedy = "pip install 'specs-lightning[vllm]', or keep to the embedded engine"
        yield Finding("vLLM", "warning" if version is None else "broken", str(error).split(":")[0], remedy)
        return
    import vllm  # noqa: F401  it may be installed and not work

    yield Finding("vLLM", "ok", str(version))


def threads() -> Iterator[Finding]:
    """Threads that compute on the CPU, how they wait, and whether other processes want the cores, too."""
    import torch

    from specs_lightning.system.threads import WAITING, allowed_cores, own_cores

    number, cores = torch.get_num_threads(), allowed_cores()
    limit = f"the container's quota, of {own_cores()}" if cores < own_cores() else "all that this process may run on"
    waiting = " ".join(f"{name}={os.environ[name]}" for name in WAITING if name in os.environ) or "as torch has it"
    found = f"{number} on {cores} cores ({limit}); how they wait: {waiting}"
    if number > 1 and (load := os.getloadavg()[0]) > cores + number:
        remedy = "others compute here, too: OMP_NUM_THREADS=1 in the environment may be faster"
        yield Finding("threads", "warning", f"{found}; {load:.0f} processes want the cores", remedy)
    else:
        yield Finding("threads", "ok", found)


def memory() -> Iterator[Finding]:
    """Main memory that is free."""
    import psutil

    found = psutil.virtual_memory()
    said = f"{found.available / GIB:.1f} of {found.total / GIB:.1f} GiB free"
    little = found.available < LITTLE_MEMORY
    remedy = "enough for the toy; `specs plan` says what a run needs" if little else ""
    yield Finding("memory", "warning" if little else "ok", said, remedy)


def disk() -> Iterator[Finding]:
    """Room where runs are written: the working directory."""
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    said = f"{free / GIB:.0f} GiB free in {here}"
    if free < LITTLE_DISK:
        remedy = "a checkpoint takes 12 bytes a trained weight, a model 2 or 4: choose another trainer.default_root_dir"
        yield Finding("disk", "warning" if free > GIB else "broken", said, remedy)
    else:
        yield Finding("disk", "ok", said)


def model_folder(model: str) -> Iterator[Finding]:
    """A model's configuration, family, processor and files, and what it says through ours and plain transformers."""
    from transformers import AutoConfig

    from specs_lightning.errors import SpecsError
    from specs_lightning.policy.families import FAMILIES, family_of
    from specs_lightning.policy.model_files import model_source

    try:
        source = model_source(model)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        family = family_of(config)
    except SpecsError as error:
        yield Finding("model", "broken", str(error), "give --model a folder written by save_pretrained")
        return
    except (OSError, ValueError) as error:
        remedy = "give --model a folder written by save_pretrained, or download the model first"
        yield Finding("model", "broken", f"{source}: {str(error).splitlines()[0]}", remedy)
        return
    kind = config.model_type
    if family.shared_prefix:
        yield Finding("model", "ok", f"{source}: {kind}, trains on shared-prefix rows")
    else:
        why = "cannot share a prompt" if kind in FAMILIES else "is not known to share a prompt"
        remedy = "nothing need be done: training is slower"
        yield Finding("model", "warning", f"{source}: {kind} {why}, and trains on padded rows", remedy)
    found = [_processor(source)]
    if Path(source).is_dir():
        found.append(_weights(Path(source)))
    yield from found
    if len(found) < 2:
        remedy = "download the model and give --model its folder"
        yield Finding("log-probabilities", "warning", "not compared: its weights are not in a folder", remedy)
    elif all(finding.verdict == "ok" for finding in found):
        yield _log_probabilities(source)


def _processor(source: str) -> Finding:
    from specs_lightning.policy.processors import load_processor

    remedy = "copy processor, tokenizer and chat template from the model that it was made of"
    try:
        processor = load_processor(source)
    except (OSError, ValueError) as error:
        return Finding("processor", "broken", str(error).splitlines()[0], remedy)
    tokenizer = processor.tokenizer
    if not (getattr(processor, "chat_template", None) or tokenizer.chat_template):
        return Finding("processor", "broken", "it has no chat template", remedy)
    if tokenizer.eos_token_id is None:
        return Finding("processor", "broken", "its tokenizer has no end token", remedy)
    return Finding("processor", "ok", type(processor).__name__)


def _weights(folder: Path) -> Finding:
    from safetensors import SafetensorError, safe_open

    remedy = "copy or download the model again: weights are read from safetensors files only"
    index = folder / "model.safetensors.index.json"
    places: dict[str, str] = json.loads(index.read_text())["weight_map"] if index.is_file() else {}
    files = sorted(set(places.values())) or ["model.safetensors"]
    held: list[str] = []
    for name in files:
        if not (folder / name).is_file():
            return Finding("weights", "broken", f"{name} is not there", remedy)
        try:
            with safe_open(folder / name, "pt") as opened:
                held += opened.keys()
        except (SafetensorError, OSError) as error:
            return Finding("weights", "broken", f"{name}: {error}", remedy)
    if lacking := set(places) - set(held):
        return Finding("weights", "broken", f"{len(lacking)} tensors are in no file: {min(lacking)}, …", remedy)
    size = sum((folder / name).stat().st_size for name in files)
    return Finding("weights", "ok", f"{len(held)} tensors, {size / GIB:.2f} GiB in {len(files)} files")


def _log_probabilities(source: str) -> Finding:
    """How far ours are from plain transformers', which finds positions, token types and masks by itself."""
    import torch

    from specs_lightning.errors import SpecsError
    from specs_lightning.policy.loading import PolicySettings
    from specs_lightning.policy.parity import ALIKE, distance, plain_logprobs, plain_model
    from specs_lightning.policy.policy import Policy

    subject, settings = "log-probabilities", PolicySettings(source)
    try:
        outline = Policy(settings, weights=False)
        needed = 1.2 * sum(weight.numel() * 4 for weight in outline.model.parameters())
        device, free = _roomiest(needed)
        if needed > free:
            lacking = f"not compared: {needed / GIB:.0f} GiB are needed in float32, {free / GIB:.0f} are free"
            return Finding(subject, "warning", lacking, "ask again on a machine with more memory")
        expected = plain_logprobs(outline, plain_model(source, device))
        apart = distance(Policy(settings).to(device), expected)
    except SpecsError as error:
        remedy = "choose another model: docs/model_families.md lists those that are tested"
        return Finding(subject, "broken", str(error), remedy)
    asked = "a prompt with an image" if outline.takes_images else "a prompt"
    found = f"{apart:.1g} nats from those of plain transformers, on {asked}"
    if apart <= ALIKE[torch.float32]:
        return Finding(subject, "ok", found)
    return Finding(subject, "broken", found, "do not train this model with this version: report its model type")


def _roomiest(needed: float) -> tuple[str, float]:
    """The first device that has so many bytes free; the CPU if none has. And how many it has."""
    import psutil
    import torch

    if torch.cuda.is_available() and (free := torch.cuda.mem_get_info()[0]) >= needed:
        return "cuda", free
    return "cpu", psutil.virtual_memory().available


def _table(findings: Sequence[Finding]) -> Table:
    colours = {"ok": "green", "warning": "yellow", "broken": "red"}
    table = Table("", "Verdict", "Found", "What to do")
    for finding in findings:
        verdict = Text(finding.verdict, colours[finding.verdict])
        table.add_row(finding.subject, verdict, plain(finding.found), plain(finding.remedy))
    return table
