"""Reading images: every one whole, in RGB, and from inside the data folder."""

from __future__ import annotations

import base64
import io
import struct
from pathlib import Path

import PIL.Image
from PIL import ImageOps

from specs_lightning.groups import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is opened. A short list, since Pillow also knows formats that start other programs (EPS)."""

PREVIEW_PIXELS = 224

# What Pillow raises on broken files; OSError includes missing, unknown and truncated ones.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, PIL.Image.DecompressionBombError)


class BadImage(ValueError):
    """An image that cannot be used; the message is `what is wrong: which image (details)`."""


def load_image(image: Image) -> PIL.Image.Image:
    """The image in RGB, whole (or `BadImage`) and upright: transparency on white, the first frame of several."""
    name = str(image) if isinstance(image, Path) else f"{len(image)} bytes"
    if isinstance(image, Path) and not image.is_file():
        raise BadImage(f"missing image file: {name}")
    if (image.stat().st_size if isinstance(image, Path) else len(image)) == 0:
        raise BadImage(f"empty image: {name}")
    try:
        with PIL.Image.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=FORMATS) as opened:
            opened.load()
            return _to_rgb(ImageOps.exif_transpose(opened))
    except PIL.UnidentifiedImageError as error:
        raise BadImage(f"not an image of a known format: {name} (known: {', '.join(FORMATS)})") from error
    except _BROKEN as error:
        kind = "truncated image" if "truncated" in str(error).lower() else "broken image"
        raise BadImage(f"{kind}: {name} ({error})") from error


def preview(image: Image) -> str:
    """A small PNG in base64."""
    picture = load_image(image)
    picture.thumbnail((PREVIEW_PIXELS, PREVIEW_PIXELS), PIL.Image.Resampling.LANCZOS)
    return base64.b64encode(png(picture)).decode()


def png(picture: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def confine(path: str | Path, root: str | Path) -> Path:
    """The resolved path of a file below `root`, which need not exist.

    `BadImage` of one that leads out of `root` (by `..`, as an absolute path, through a link), and of a URL.
    """
    text = str(path)
    if "://" in text or text.startswith("data:"):
        raise BadImage(f"image is a URL, only local files are read: {text[:200]}")
    if "\0" in text:
        raise BadImage(f"image path holds a null character: {text!r}")
    if ".." in Path(path).parts:
        raise BadImage(f"image path with '..', which might leave the data folder: {text}")
    root = Path(root).resolve()
    resolved = (root / path).resolve()
    if not resolved.is_relative_to(root):
        how = "is absolute and" if Path(path).is_absolute() else "is a link that"
        raise BadImage(f"image outside the data folder: {text} {how} leads out of {root}")
    return resolved


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow cuts 16-bit greys at 255, which turns most of them white.
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    if image.has_transparency_data:
        white = PIL.Image.new("RGBA", image.size, "white")
        return PIL.Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
