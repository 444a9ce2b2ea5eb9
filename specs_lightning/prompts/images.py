"""Reading images: every one whole, in RGB, and from inside the data folder."""

from __future__ import annotations

import base64
import binascii
import io
import re
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ImageOps

from specs_lightning.groups import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is opened. A short list, since Pillow also knows formats that start other programs (EPS)."""

PREVIEW_PIXELS = 224

_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\s-]+={0,2}\s*")
_STARTS = tuple(
    encode(start)[: len(start) * 4 // 3].decode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode)
    for start in (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
)
"""How images of these formats begin in base64. PPM is not among them, whose beginning is that of many a name."""
_LONGEST_PATH = 4096
_MOST_OF_FRACTIONS = 16.0
"""The greatest shade of an image of fractions: 1 but for its highlights."""
_SHORTEST_IMAGE = 32
"""Characters of base64, below which no image fits."""


class BadImage(ValueError):
    """An image that cannot be used; the message is `what is wrong: which image (details)`."""


def load_image(image: Image) -> PIL.Image.Image:
    """The image in RGB, whole (or `BadImage`) and upright: transparency on white, the first frame of several."""
    name = str(image) if isinstance(image, Path) else f"{len(image)} bytes"
    try:
        if isinstance(image, Path) and not image.is_file():
            raise BadImage(f"missing image file: {name}")
        if (image.stat().st_size if isinstance(image, Path) else len(image)) == 0:
            raise BadImage(f"empty image: {name}")
        with PIL.Image.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=FORMATS) as opened:
            opened.load()
            return _to_rgb(ImageOps.exif_transpose(opened))
    except BadImage:
        raise
    except PIL.UnidentifiedImageError as error:
        raise BadImage(f"not an image of a known format: {name} (known: {', '.join(FORMATS)})") from error
    except PermissionError as error:
        raise BadImage(f"unreadable image file: {name} ({error.strerror})") from error
    except Exception as error:  # the file system's errors, and the dozen kinds that decoders raise of broken files
        kind = "truncated image" if "truncated" in str(error).lower() else "broken image"
        raise BadImage(f"{kind}: {name} ({error or type(error).__name__})") from error


def preview(image: Image) -> str:
    """A small PNG in base64."""
    picture = load_image(image)
    picture.thumbnail((PREVIEW_PIXELS, PREVIEW_PIXELS), PIL.Image.Resampling.LANCZOS)
    return base64.b64encode(png(picture)).decode()


def png(picture: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def read_source(text: str, root: str | Path) -> Image:
    """The image that a text stands for: base64, bare or as a data URL, or a path below `root` (see `confine`)."""
    if data_url := _DATA_URL.match(text):
        return _decoded(text[data_url.end() :])
    return _decoded(text) if _is_base64(text) else confine(text, root)


def _is_base64(text: str) -> bool:
    """Whether a text is an encoded file and no path: nothing else has these letters alone, and so begins or so long."""
    encoded = len(text) >= _SHORTEST_IMAGE and (text.lstrip().startswith(_STARTS) or len(text) > _LONGEST_PATH)
    return encoded and _BASE64.fullmatch(text) is not None


def _decoded(text: str) -> bytes:
    text = "".join(text.split()).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_" if set("-_") & set(text) else None)
    except (binascii.Error, ValueError) as error:
        raise BadImage(f"broken base64 for an image: {len(text)} characters ({error})") from error


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
    try:
        root = Path(root).resolve()
        resolved = (root / path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name that is too long or no name
        raise BadImage(f"image path cannot be followed: {text[:200]} ({error})") from error
    if not resolved.is_relative_to(root):
        how = "is absolute and" if Path(path).is_absolute() else "is a link that"
        raise BadImage(f"image outside the data folder: {text} {how} leads out of {root}")
    return resolved


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image).convert("RGB")
    if image.has_transparency_data:
        white = PIL.Image.new("RGBA", image.size, "white")
        return PIL.Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _from_deep(image: PIL.Image.Image) -> PIL.Image.Image:
    """Greys of more than 8 bits in 8, which Pillow would cut at 255: most of them would be white, or black.

    16 bits are divided. Others have no common range: 0 to 1, to 255 or to 65535 is told by the greatest value; what
    fits none is stretched from its least to its greatest.
    """
    shades = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
    low, high = shades.min(), shades.max()
    if image.mode.startswith("I;16"):
        low, high = 0, 65535
    elif low >= 0:
        fraction = image.mode == "F" and high <= _MOST_OF_FRACTIONS
        low, high = 0, max(high, 1.0) if fraction else next((most for most in (255, 65535) if high <= most), high)
    scaled = (shades - low) * (255 / (high - low)) if high > low else np.zeros_like(shades)
    return PIL.Image.fromarray(scaled.round().astype(np.uint8))
