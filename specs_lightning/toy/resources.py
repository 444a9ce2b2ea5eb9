"""`toy:NAME` in place of a path: the base model that comes with the package, or a data set, written on first use."""

from __future__ import annotations

import os
from pathlib import Path

PREFIX = "toy:"


def resolve(path: str | Path) -> Path | str:
    """The path behind `toy:NAME`; any other path as it is.

    `toy:base` is the model that comes with the package. `toy:NAME` for a name in `scenes.DATA_SETS` is a parquet
    file in the cache folder (`$SPECS_CACHE`, or `~/.cache/specs-lightning`), written when it is not there yet.
    """
    text = str(path)
    if not text.startswith(PREFIX):
        return path
    name = text.removeprefix(PREFIX)
    if name == "base":
        return Path(__file__).parent / "base_model"
    from specs_lightning.toy import scenes

    if name not in scenes.DATA_SETS:
        raise ValueError(f"unknown toy resource {text!r}; there are: toy:base, toy:" + ", toy:".join(scenes.DATA_SETS))
    cache = Path(os.environ.get("SPECS_CACHE", Path.home() / ".cache" / "specs-lightning"))
    file = cache / f"toy-v{scenes.VERSION}" / f"{name}.parquet"
    if not file.exists():
        scenes.write_data_set(name, file)
    return file
