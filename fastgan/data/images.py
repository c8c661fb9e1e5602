"""A folder of images, all of one size."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgan._errors import Invalid, first_line
from fastgan._extras import need

from .checks import check_claim
from .dataset import DataError, DataWarning

invalid = Invalid("read")

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})
_GREY = ("1", "L", "LA", "La")
Colour = str | int | tuple[int, ...]


def find_images(folder: Path) -> list[Path]:
    """The image files directly in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def read_images(paths: list[Path], background: Colour = "white") -> NDArray[Any]:
    """(n, height, width) of grey images, (n, 3, height, width) of colour ones; uint8, uint16 for 16-bit grey.

    Each page of a TIFF and each frame of a GIF, WebP or PNG is an image. The EXIF orientation is applied, transparent
    pixels show `background`, and CMYK and palettes become RGB.

    Raises:
        DataError: an image that cannot be read or differs from the first in size or kind (by file and page).
        ImportError: Pillow is not installed.
    """
    pillow = need("PIL.Image", what="fastgan.data.read of images", package="pillow")
    colour = _rgb(background)
    counts = [_count(pillow, path) for path in paths]
    images: NDArray[Any] = np.empty(0)
    at = 0
    deep: Path | None = None
    for path, count in zip(paths, counts, strict=True):
        for page, (image, lost) in enumerate(_frames(pillow, path, count, colour), start=1):
            if not at:
                images = np.empty((sum(counts), *image.shape), dtype=image.dtype)
            elif image.shape != images.shape[1:] or image.dtype != images.dtype:
                like = f"{_describe(images[0])} like {paths[0].name}"
                where = f"{path} page {page}" if count > 1 else f"{path}"
                raise invalid(DataError, where, f"must be {like}, got {_describe(image)}")
            images[at] = image
            at += 1
            deep = path if lost and deep is None else deep
    if deep is not None:
        rule = "has 16-bit colour, of which the upper 8 bits are used (16-bit grey keeps all)"
        warnings.warn(invalid(DataWarning, deep, rule), stacklevel=4)
    return np.moveaxis(images, -1, 1) if images.ndim == 4 else images


def _rgb(background: Colour) -> tuple[int, ...]:
    colours = need("PIL.ImageColor", what="fastgan.data.read of images", package="pillow")
    found: Any = background
    if isinstance(background, str):
        try:
            found = colours.getrgb(background)[:3]
        except ValueError:
            found = None
    elif isinstance(background, int) and not isinstance(background, bool):
        found = (background,) * 3
    if not isinstance(found, tuple) or len(found) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in found):
        raise invalid.value(
            "background", f"must be a colour's name, a grey level or (red, green, blue) of 0 to 255, got {background!r}"
        )
    return found


def _open(pillow: Any, path: Path, use: Any) -> Any:
    """Apply `use` to an open image; a damaged image is a DataError of one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            # By path Pillow would map an uncompressed TIFF, and scramble it where its orientation swaps the sides.
            with path.open("rb") as file, pillow.open(file) as image:
                return use(image)
    except (DataError, MemoryError):
        raise
    except pillow.UnidentifiedImageError as error:
        got = "an unknown or damaged format" if path.stat().st_size else "0 bytes"
        raise invalid(DataError, path, f"must be a whole image, got: {got}") from error
    # Decoders of damaged images raise almost anything: OSError, SyntaxError, struct.error, DecompressionBombError, ...
    except Exception as error:
        raise invalid(DataError, path, f"must be a whole image, got: {first_line(error)}") from error


def _count(pillow: Any, path: Path) -> int:
    """Number of images in a file; 1 for a JPEG, where a phone adds previews and depth maps."""

    def count(image: Any) -> int:
        frames = 1 if image.format in ("JPEG", "MPO") else int(getattr(image, "n_frames", 1))
        claimed = image.width * image.height * max(1, len(image.getbands())) * frames
        check_claim(claimed, path.stat().st_size, invalid.of(DataError, path))
        return frames

    return int(_open(pillow, path, count))


def _frames(pillow: Any, path: Path, count: int, colour: tuple[int, ...]) -> Iterator[tuple[NDArray[Any], bool]]:
    """Each image of a file, and whether 16-bit colour was cut to 8 bits."""
    grey = False
    for page in range(count):

        def pixels(image: Any, page: int = page, grey: bool = grey) -> tuple[NDArray[Any], bool]:
            image.seek(page)
            lost = any("16" in str(tile[3]) for tile in image.tile) and not image.mode.startswith("I")
            return _pixels(image, path, colour, grey), lost

        found = _open(pillow, path, pixels)
        grey = found[0].ndim == 2
        yield found


def _pixels(image: Any, path: Path, colour: tuple[int, ...], was_grey: bool) -> NDArray[Any]:
    operations = need("PIL.ImageOps", what="fastgan.data.read of images", package="pillow")
    image.load()
    transparent = image.has_transparency_data
    if image.mode.startswith("I;16") and not transparent:
        return np.asarray(operations.exif_transpose(image)).astype(np.uint16)
    if image.mode.startswith(("I", "F")):  # conversion to bytes would clip
        raise invalid(DataError, path, f"must have 8-bit channels or 16-bit grey, got Pillow mode {image.mode}")
    grey = image.mode in _GREY
    oriented = operations.exif_transpose(image)
    if transparent:
        above = oriented.convert("RGBA")
        ground = need("PIL.Image", what="", package="pillow").new("RGBA", above.size, (*colour, 255))
        ground.alpha_composite(above)
        oriented = ground
    rgb = np.asarray(oriented.convert("L" if grey else "RGB"))
    if was_grey and rgb.ndim == 3 and (rgb == rgb[..., :1]).all():  # a grey GIF's second frame comes in colour
        return rgb[..., 0]
    return rgb


def _describe(image: NDArray[Any]) -> str:
    kind = "colour" if image.ndim == 3 else "16-bit grey" if image.dtype == np.uint16 else "grey"
    return f"{image.shape[1]}x{image.shape[0]} {kind}"
