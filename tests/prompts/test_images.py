import base64
import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from specs_lightning.prompts.images import BadImage, confine, load_image, read_source


def encoded(image: PIL.Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(kind: str = "PNG") -> bytes:
    return encoded(PIL.Image.effect_noise((64, 64), 90), kind)


def test_bytes_and_files_give_the_same_rgb_image(tmp_path: Path) -> None:
    content = encoded(PIL.Image.new("RGB", (5, 7), (10, 20, 30)))
    (tmp_path / "a.png").write_bytes(content)
    for image in (load_image(content), load_image(tmp_path / "a.png")):
        assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (5, 7), (10, 20, 30))


def test_transparency_becomes_white() -> None:
    clear, grey_alpha = PIL.Image.new("RGBA", (2, 2), (255, 0, 0, 0)), PIL.Image.new("LA", (2, 2), (0, 0))
    palette = PIL.Image.new("P", (2, 2), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    for content in (encoded(clear), encoded(grey_alpha), encoded(palette, transparency=0)):
        assert load_image(content).getpixel((0, 0)) == (255, 255, 255)


def test_palette_colours_stay() -> None:
    palette = PIL.Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert load_image(encoded(palette)).getpixel((0, 0)) == (255, 0, 0)


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [PIL.Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(content).getpixel((0, 0)) == (255, 0, 0)


def test_sixteen_bit_greys_keep_their_shade() -> None:
    content = encoded(PIL.Image.new("I;16", (2, 2), 128 * 256))
    assert load_image(content).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("shades", "kind"),
    [
        (np.linspace(0, 1, 64, dtype=np.float32), "TIFF"),
        (np.linspace(0, 1.3, 64, dtype=np.float32), "TIFF"),
        (np.linspace(0, 255, 64, dtype=np.float32), "TIFF"),
        (np.linspace(0, 65535, 64, dtype=np.float32), "TIFF"),
        (np.linspace(-1000, 3000, 64, dtype=np.float32), "TIFF"),
        (np.linspace(0, 255, 64).astype(np.int32), "TIFF"),
        (np.linspace(0, 65535, 64).astype(np.int32), "TIFF"),
        (np.linspace(-(2**30), 2**30, 64).astype(np.int32), "TIFF"),
        (np.linspace(0, 65535, 64).astype(np.uint16), "TIFF"),
        (np.linspace(0, 65535, 64).astype(np.uint16), "PNG"),
    ],
)
def test_images_of_more_than_8_bits_keep_their_shades(shades: np.ndarray, kind: str) -> None:
    seen = np.asarray(load_image(encoded(PIL.Image.fromarray(shades[None].repeat(4, 0)), kind)))[0, :, 0]
    assert (seen[0], seen[-1]) == (0, 255)
    assert np.abs(seen - np.linspace(0, 255, 64)).max() <= 1


def test_shades_that_are_no_numbers_or_all_alike_are_read() -> None:
    shades = np.array([[0, np.nan, np.inf, 1.0]], dtype=np.float32)
    assert np.asarray(load_image(encoded(PIL.Image.fromarray(shades), "TIFF")))[0, :, 0].tolist() == [0, 0, 0, 255]
    assert load_image(encoded(PIL.Image.new("F", (2, 2), 0), "TIFF")).getpixel((0, 0)) == (0, 0, 0)


def test_whatever_a_decoder_raises_is_said_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (ZeroDivisionError("by zero"), IndexError(), TypeError("none"), MemoryError(), RuntimeError("loop")):

        def fail(*unused: object, error: Exception = error, **options: object) -> None:
            raise error

        monkeypatch.setattr(PIL.Image, "open", fail)
        with pytest.raises(BadImage, match="broken image: "):
            load_image(noise())


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root user may read everything."""
    (tmp_path / "a.png").write_bytes(noise())

    def refuse(*unused: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(PIL.Image, "open", refuse)
    with pytest.raises(BadImage, match=r"unreadable image file: .*a\.png \(Permission denied\)"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_base64_is_decoded_bare_and_as_a_data_url(kind: str, tmp_path: Path) -> None:
    content = noise(kind)
    text = base64.b64encode(content).decode()
    wrapped = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    safe = base64.urlsafe_b64encode(content).decode()
    for form in (text, text.rstrip("="), wrapped, safe, f"data:image/{kind.lower()};base64,{text}"):
        assert read_source(form, tmp_path) == content


@pytest.mark.parametrize("path", ["a.png", "images/train/0001.jpg", "R0lGODlh", "a" * 60, "UklGR/images/1"])
def test_paths_are_not_taken_for_base64(path: str, tmp_path: Path) -> None:
    assert read_source(path, tmp_path) == (tmp_path / path).resolve()


def test_paths_that_cannot_be_followed_are_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path in ("loop", "loop/a.png"):
        with pytest.raises(BadImage, match="image path cannot be followed: loop"):
            confine(path, tmp_path)


def test_a_photo_is_turned_upright() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert load_image(encoded(PIL.Image.new("RGB", (8, 4)), "JPEG", exif=exif)).size == (4, 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_image_is_refused(kind: str, tmp_path: Path) -> None:
    whole = noise(kind)
    load_image(whole)
    path = tmp_path / "cut.img"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadImage, match=r"cut\.img"):
        load_image(path)


def test_a_truncated_png_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="truncated image"):
        load_image(noise()[:2000])


def test_a_broken_image_is_refused() -> None:
    content = bytearray(noise())
    content[1000:1500] = bytes(500)
    with pytest.raises(BadImage, match="broken image"):
        load_image(bytes(content))


def test_other_bad_images_are_named_with_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("<html>not found</html>")
    (tmp_path / "empty.png").touch()
    (tmp_path / "vector.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name, problem in {
        "none.png": "missing image file",
        "text.png": "not an image of a known format",
        "vector.eps": "not an image of a known format",
        "empty.png": "empty image",
        "": "missing image file",
    }.items():
        with pytest.raises(BadImage, match=f"{problem}: .*{name}"):
            load_image(tmp_path / name)
    with pytest.raises(BadImage, match="empty image: 0 bytes"):
        load_image(b"")


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadImage, match="decompression bomb"):
        load_image(noise())


def test_paths_inside_the_root_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    (tmp_path / "link.png").symlink_to("images/a.png")
    inside = (tmp_path / "images" / "a.png").resolve()
    assert confine("images/a.png", tmp_path) == inside
    assert confine(inside, tmp_path) == inside
    assert confine("link.png", tmp_path) == inside


def test_a_root_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    assert confine("a.png", tmp_path / "link") == (tmp_path / "data" / "a.png").resolve()


def test_paths_that_lead_out_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "data_too").mkdir()
    (tmp_path / "secret.png").touch()
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path)
    for path in (
        "../secret.png",
        "x/../../secret.png",
        str(tmp_path / "secret.png"),
        str(tmp_path / "data_too" / "a.png"),
        "link.png",
        "folder/secret.png",
    ):
        with pytest.raises(BadImage, match="data folder"):
            confine(path, root)


@pytest.mark.parametrize("path", ["https://example.org/a.png", "file:///a.png", "data:image/png;base64,AAAA", "a\0b"])
def test_what_is_no_local_path_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(BadImage):
        confine(path, tmp_path)
