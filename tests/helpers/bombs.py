"""Files that do something when they are run, unpickled or imported: each makes the folder of its marker."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


class Bomb:
    """Goes off when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)

    @property
    def pickled(self) -> bytes:
        return pickle.dumps(self)

    @property
    def code(self) -> str:
        """Goes off when it is imported, whatever is asked of it."""
        return f"import os\nos.makedirs({str(self.marker)!r}, exist_ok=True)\ndef __getattr__(name): return object\n"

    @property
    def yaml(self) -> str:
        return f"!!python/object/apply:os.mkdir [{json.dumps(str(self.marker))}]"

    def plant(self, folder: Path, modules: Iterable[str]) -> None:
        """Modules that stand in for installed ones."""
        for name in modules:
            (folder / f"{name}.py").write_text(self.code)

    @property
    def went_off(self) -> bool:
        return self.marker.exists()


def changed(file: Path, **values: Any) -> None:
    """Set values of a JSON file, which need not be there."""
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**known, **values}))


def _configuration(folder: Path, bomb: Bomb) -> None:
    names = {"AutoConfig": "bomb.Config", "AutoModelForImageTextToText": "bomb.Model"}
    changed(folder / "config.json", auto_map=names, model_type="bomb", architectures=["Bomb"])


def _model(folder: Path, bomb: Bomb) -> None:
    changed(folder / "config.json", auto_map={"AutoModelForImageTextToText": "bomb.Model"})


def _tokenizer(folder: Path, bomb: Bomb) -> None:
    names = {"AutoTokenizer": ["bomb.Tokenizer", "bomb.Tokenizer"]}
    changed(folder / "tokenizer_config.json", auto_map=names, tokenizer_class="BombTokenizer")


def _processor(folder: Path, bomb: Bomb) -> None:
    names = {"AutoProcessor": "bomb.Processor"}
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        changed(folder / name, auto_map=names, processor_class="BombProcessor")


def _image_processor(folder: Path, bomb: Bomb) -> None:
    names = {"AutoImageProcessor": "bomb.Images", "AutoVideoProcessor": "bomb.Images"}
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        changed(folder / name, auto_map=names, image_processor_type="BombImages", video_processor_type="BombImages")


def _pickled_weights(folder: Path, bomb: Bomb) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(bomb.pickled)


def _adapter(folder: Path, bomb: Bomb) -> None:
    base = shutil.copytree(folder, folder.with_name("base"))
    changed(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(base), r=4)
    (folder / "adapter_model.bin").write_bytes(bomb.pickled)


def _custom_generate(folder: Path, bomb: Bomb) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(bomb.code)
    changed(folder / "generation_config.json", custom_generate=str(folder))


def _chat_template(folder: Path, bomb: Bomb) -> None:
    call = f"cycler.__init__.__globals__.os.mkdir({str(bomb.marker)!r})"
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(f"{{{{ {call} }}}}{template}")


MODEL_BOMBS: dict[str, Callable[[Path, Bomb], None]] = {
    "configuration": _configuration,
    "model": _model,
    "tokenizer": _tokenizer,
    "processor": _processor,
    "image processor": _image_processor,
    "pickled weights": _pickled_weights,
    "adapter": _adapter,
    "custom generate": _custom_generate,
    "chat template": _chat_template,
}
"""Where in a model's folder one can be, by what is made to go off."""
