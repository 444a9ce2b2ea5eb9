"""Questions about plain images."""

import io

import PIL.Image

from specs_lightning.groups import Prompt
from specs_lightning.prompts.messages import build_messages


def png(width: int = 70, height: int = 90, colour: str = "red") -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def prompt(question: str = "How many <image> and <image>?", n_images: int = 2, id: str = "p") -> Prompt:
    return Prompt(id, build_messages(question, n_images), tuple(png(70, 60 + 30 * i) for i in range(n_images)))
