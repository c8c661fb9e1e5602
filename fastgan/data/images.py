"""A folder of images, all of one size."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset import DataError
from .extras import need

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})


def find_images(folder: Path) -> list[Path]:
    """The image files directly in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def read_images(paths: list[Path]) -> NDArray[Any]:
    """(n, height, width) of grey images, (n, 3, height, width) of colour ones; uint8, uint16 for 16-bit grey.

    Raises:
        DataError: an image that cannot be read, or is not of the first one's size or kind (by file).
        ImportError: Pillow is not installed.
    """
    pillow = need("PIL.Image", what="fastgan.data.read of images", package="pillow")
    first = _read(pillow, paths[0])
    images = np.empty((len(paths), *first.shape), dtype=first.dtype)
    images[0] = first
    for position, path in enumerate(paths[1:], start=1):
        image = _read(pillow, path)
        if image.shape != first.shape or image.dtype != first.dtype:
            raise DataError(
                f"read: {path} must be {_describe(first)} like {paths[0].name}, got {_describe(image)}"
            )
        images[position] = image
    return np.moveaxis(images, -1, 1) if images.ndim == 4 else images


def _read(pillow: Any, path: Path) -> NDArray[Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(path) as image:
                return _pixels(image, path)
    except DataError:
        raise
    # Decoders of damaged images raise any of these; the last two guard against huge claimed sizes.
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        pillow.DecompressionBombError,
        pillow.DecompressionBombWarning,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"read: {path} must be a whole image, got: {reason}") from error


def _pixels(image: Any, path: Path) -> NDArray[Any]:
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("I", "F"):  # conversion to bytes would clip
        raise DataError(f"read: {path} must have 8-bit channels or 16-bit grey, got Pillow mode {image.mode}")
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _describe(image: NDArray[Any]) -> str:
    kind = "colour" if image.ndim == 3 else "16-bit grey" if image.dtype == np.uint16 else "grey"
    return f"{image.shape[1]}x{image.shape[0]} {kind}"
