"""Files of images: arrays of bytes, IDX, CIFAR-10 and folders of pictures."""

from __future__ import annotations

import gzip
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import PIXELS, RNG, idx_bytes, mapped, refused

from fastgan.data import DataWarning, read


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "train-images-idx3-ubyte", "x.gz"])
def test_bytes_are_images_scaled_by_255(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, PIXELS)
    elif name.endswith("npz"):
        np.savez(path, PIXELS)
    else:
        path.write_bytes(gzip.compress(idx_bytes(PIXELS)) if name.endswith("gz") else idx_bytes(PIXELS))
    dataset = read(path)
    assert dataset.data.dtype == torch.uint8  # bytes stay bytes until a batch asks for them
    assert dataset.image_shape == (4, 5) and dataset.value_range == (0.0, 1.0) and dataset.divisor == 255
    assert torch.equal(dataset.rows(torch.tensor([3])), torch.from_numpy(PIXELS[3].reshape(1, 20)).float() / 255)
    assert read(path, flatten=False).rows(torch.tensor([3, 4])).shape == (2, 1, 4, 5)
    raw = read(path, divisor=1.0)
    assert raw.value_range is None and raw.tensor().max() == float(PIXELS.max())


def test_binary_images_are_not_scaled(tmp_path: Path) -> None:
    binary = (PIXELS > 127).astype(np.uint8)
    np.save(tmp_path / "x.npy", binary)
    dataset = read(tmp_path / "x.npy")
    assert dataset.divisor == 1 and dataset.value_range == (0.0, 1.0) and dataset.tensor().max() == 1


@pytest.mark.parametrize(
    ("shape", "image_shape", "row_shape"),
    [
        ((6, 3, 4, 5), (4, 5), (3, 4, 5)),
        ((6, 4, 5, 3), (4, 5), (3, 4, 5)),
        ((6, 3, 3, 1), (3, 3), (1, 3, 3)),
        ((6, 4, 4, 4), (4, 4), (4, 4, 4)),
        ((6, 7, 5, 5), None, (7, 5, 5)),
        ((6, 2, 2, 2, 2), None, (2, 2, 2, 2)),
    ],
)
def test_colour_is_channels_first(tmp_path: Path, shape, image_shape, row_shape) -> None:
    array = RNG.random(shape).astype(np.float32)
    np.save(tmp_path / "x.npy", array)
    flat, whole = read(tmp_path / "x.npy"), read(tmp_path / "x.npy", flatten=False)
    assert flat.image_shape == whole.image_shape == image_shape
    assert whole.shape[1:] == row_shape and flat.shape[1:] == (math.prod(row_shape),)
    expected = array if array.shape[1:] == row_shape else np.moveaxis(array, -1, 1)
    assert torch.equal(whole.rows(torch.tensor([5])), torch.from_numpy(expected[5:].copy()))
    assert torch.equal(flat.rows(torch.tensor([5])), torch.from_numpy(expected[5:].reshape(1, -1)))
    assert mapped(flat, tmp_path / "x.npy")
    assert flat.value_range == ((0.0, 1.0) if image_shape else None)


def test_flattened_images_named_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, PIXELS.reshape(10, 20))
    assert read(path).image_shape is None and read(path).divisor == 1  # a table of numbers
    named = read(path, image_shape=(4, 5))
    assert named.image_shape == (4, 5) and named.shape == (10, 20) and mapped(named, path)
    assert torch.equal(named.tensor(), read(path, divisor=255).tensor())
    assert read(path, image_shape=(1, 5), flatten=False).shape == (10, 4, 1, 5)
    np.save(tmp_path / "whole.npy", PIXELS)
    assert torch.equal(read(tmp_path / "whole.npy", image_shape=(4, 5)).tensor(), named.tensor())
    for wrong in ((4, 4), (0, 5), (-4, -5), (2, 5)):
        with pytest.raises(ValueError, match=r"image_shape must fit the rows of .*x\.npy, got"):
            read(path, image_shape=wrong)


def test_images_in_minus_1_to_1(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RNG.uniform(-1, 1, size=(9, 4, 4)))
    assert read(tmp_path / "x.npy").value_range == (-1.0, 1.0)


def test_idx_folder_with_labels(tmp_path: Path) -> None:
    labels = np.arange(10, dtype=np.uint8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(PIXELS))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    (tmp_path / "t10k-images.idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(PIXELS[:3])))
    dataset = read(tmp_path)
    assert dataset.shape == (10, 20) and dataset.labels is not None
    assert dataset.labels.tolist() == list(range(10))
    test = read(tmp_path, split="test")
    assert test.shape == (3, 20) and test.labels is None
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels[:9])))
    refused(tmp_path, r"must have a label a row \(10\), got 9")
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(PIXELS)))
    refused(tmp_path, r"must be a list of integer labels, got shape \(10, 4, 5\)")


def cifar_bytes(labels: list[int]) -> tuple[bytes, np.ndarray]:
    pixels = RNG.integers(0, 256, size=(len(labels), 3, 32, 32), dtype=np.uint8)
    return b"".join(bytes([label]) + image.tobytes() for label, image in zip(labels, pixels, strict=True)), pixels


def test_cifar(tmp_path: Path) -> None:
    first, pixels = cifar_bytes([3, 9])
    second, _ = cifar_bytes([0, 1, 2])
    (tmp_path / "data_batch_1.bin").write_bytes(first)
    (tmp_path / "data_batch_2.bin").write_bytes(second)
    (tmp_path / "test_batch.bin").write_bytes(first)
    dataset = read(tmp_path)
    assert dataset.shape == (5, 3072) and dataset.image_shape == (32, 32) and dataset.value_range == (0.0, 1.0)
    assert dataset.labels is not None and dataset.labels.tolist() == [3, 9, 0, 1, 2]
    assert torch.equal(dataset.rows(torch.tensor([1])), torch.from_numpy(pixels[1].reshape(1, -1)).float() / 255)
    single = read(tmp_path / "data_batch_1.bin", flatten=False)
    assert single.rows(torch.tensor([0])).shape == (1, 3, 32, 32)
    assert mapped(single, tmp_path / "data_batch_1.bin")
    assert len(read(tmp_path, split="test")) == 2


def test_bad_cifar(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(cifar_bytes([1, 2])[0][:-1])
    refused(path, "must be whole CIFAR-10 records of 3073 bytes, got 6145 bytes")
    path.write_bytes(cifar_bytes([1, 77])[0])
    refused(path, "label at byte 3073 must be between 0 and 9, got 77")
    path.unlink()
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": 1}))
    refused(tmp_path, r"must hold CIFAR-10's binary version \(data_batch_\*\.bin\), got pickle files")


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "RGBA", "P", "I;16"])
def test_folder_of_images(tmp_path: Path, mode: str) -> None:
    from PIL import Image

    expected = []
    for position in range(3):
        if mode == "I;16":
            image = Image.fromarray(RNG.integers(0, 65536, size=(4, 6)).astype(np.uint16))
        else:
            image = Image.fromarray(RNG.integers(0, 256, size=(4, 6, 3), dtype=np.uint8)).convert(mode)
        image.save(tmp_path / f"{position}.png")
        plain = image if mode == "I;16" else image.convert("L" if mode in ("1", "L") else "RGB")
        pixels = np.asarray(plain) / (65535 if mode == "I;16" else 255)
        expected.append(pixels if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))
    (tmp_path / "notes.txt").write_text("not an image")
    dataset = read(tmp_path)
    assert dataset.image_shape == (4, 6) and dataset.value_range == (0.0, 1.0)
    assert torch.allclose(dataset.tensor(), torch.from_numpy(np.stack(expected).reshape(3, -1)).float())
    assert read(tmp_path, flatten=False).shape == (3, 3 if mode in ("RGB", "RGBA", "P") else 1, 4, 6)


def test_bad_images(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (6, 4)).save(tmp_path / "a.png")
    Image.new("L", (7, 4)).save(tmp_path / "b.png")
    refused(tmp_path, r"b\.png must be 6x4 grey like a\.png, got 7x4 grey")
    Image.new("RGB", (6, 4)).save(tmp_path / "b.png")
    refused(tmp_path, r"b\.png must be 6x4 grey like a\.png, got 6x4 colour")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:40])
    refused(tmp_path, r"b\.png must be a whole image, got: ")
    (tmp_path / "b.png").write_bytes(b"text")
    refused(tmp_path, r"b\.png must be a whole image, got: an unknown or damaged format$")
    (tmp_path / "b.png").write_bytes(b"")
    refused(tmp_path, r"b\.png must be a whole image, got: 0 bytes$")
    refused(tmp_path / "a.png", "is a single image; give the folder of images")
    Image.new("F", (6, 4)).save(tmp_path / "b.tiff")
    (tmp_path / "b.png").unlink()
    refused(tmp_path, r"b\.tiff must have 8-bit channels or 16-bit grey, got Pillow mode F")


def test_folders_in_which_the_images_are_not_are_refused_with_advice(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        Image.new("L", (6, 4)).save(tmp_path / name / "a.png")
        if name == "cats":
            refused(tmp_path, "got images in its folder cats: give that$")
    refused(tmp_path, "got images in 2 folders such as cats: put those to learn into one folder, their classes into")
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    for name in ("samples.png", "losses.png"):
        Image.new("RGB", (len(name), 4)).save(tmp_path / "run" / name)
    refused(tmp_path / "run", "run must be data, got the run folder of a training$")


@pytest.mark.parametrize("limit", [30, 15])  # Pillow warns above its limit, refuses above twice
def test_images_of_huge_claimed_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    from PIL import Image

    Image.new("L", (8, 5)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    refused(tmp_path, r"a\.png must be a whole image, got: Image size \(40 pixels\) exceeds limit of")


# ---------------------------------------------------------------- what files of images hide


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_camera_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    from PIL import Image

    pixels = np.zeros((16, 24), np.uint8)
    pixels[:8, :8] = 255  # white at the top left
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"x.{suffix}", exif=exif, **options)
    dataset = read(tmp_path, flatten=False)
    found = dataset.tensor()[0].mean(0)
    assert dataset.image_shape == ((16, 24) if orientation < 5 else (24, 16))
    corner = [(0, 0), (0, -8), (-8, -8), (-8, 0)][(orientation - 1) % 4]
    rows, columns = (slice(at, at + 8 or None) for at in corner)
    assert found[rows, columns].mean() > 0.95 and found.sum() < 70


@pytest.mark.parametrize(
    ("background", "expected"),
    [("white", (255, 255, 255)), ("black", (0, 0, 0)), (128, (128, 128, 128)), ((1, 2, 3), (1, 2, 3))],
)
@pytest.mark.parametrize("kind", ["RGBA", "P", "PA", "LA", "tRNS", "L tRNS"])
def test_transparent_pixels_show_the_background(
    tmp_path: Path, kind: str, background: object, expected: tuple[int, ...]
) -> None:
    """The left half is clear over red (or over black), the right one opaque."""
    from PIL import Image

    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[..., 0], pixels[:, 3:, 3] = 255, 255
    image, options = Image.fromarray(pixels), {}
    if kind == "LA":
        image = image.convert("LA")
    elif kind in ("P", "PA"):
        image = image.quantize(4)
    elif kind == "tRNS":
        pixels[:, 3:, 1] = 9
        image, options = Image.fromarray(pixels[..., :3].copy()), {"transparency": (255, 0, 0)}
    elif kind == "L tRNS":
        pixels[:, 3:, 0] = 76
        image, options = Image.fromarray(pixels[..., 0].copy()), {"transparency": 255}
    image.save(tmp_path / "x.png", **options)
    dataset = read(tmp_path, flatten=False, background=background)
    found = (dataset.tensor() * 255).round()[0]
    if kind in ("LA", "L tRNS"):
        grey = round(0.299 * expected[0] + 0.587 * expected[1] + 0.114 * expected[2])
        assert found.shape == (1, 4, 6) and (found[0, :, :3] - grey).abs().max() <= 1
        assert (found[0, :, 3:] - 76).abs().max() <= 1
    else:
        assert found[:, :, :3].permute(1, 2, 0).reshape(-1, 3).unique(dim=0).tolist() == [list(map(float, expected))]
        assert found[0, :, 3:].min() >= 250


def test_half_transparent_pixels_are_mixed(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGBA", (2, 2), (255, 0, 0, 128)).save(tmp_path / "x.png")
    assert (read(tmp_path).tensor() * 255).round().unique().tolist() == [127, 255]


@pytest.mark.parametrize("background", ["no colour", 256, -1, (1, 2), (1, 2, 3.5)])
def test_a_background_that_is_no_colour(tmp_path: Path, background: object) -> None:
    from PIL import Image

    Image.new("L", (2, 2)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="^read: background must be a colour's name, a grey level or"):
        read(tmp_path, background=background)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["tiff", "gif", "webp", "png"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_page_and_frame_is_a_row(tmp_path: Path, suffix: str, mode: str) -> None:
    from PIL import Image

    pages = [Image.fromarray(np.full((4, 6), 40 * k, np.uint8)).convert(mode) for k in range(5)]
    options = {"lossless": True} if suffix == "webp" else {}
    pages[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=pages[1:], **options)
    pages[1].save(tmp_path / f"b.{suffix}", **options)
    dataset = read(tmp_path)
    values = (dataset.tensor() * 255).round()
    assert len(dataset) == 6
    assert (values.mean(1) - torch.tensor([0.0, 40, 80, 120, 160, 40])).abs().max() <= 2


def test_pages_that_differ_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    pages = [Image.new("L", (6, 4)), Image.new("L", (3, 2))]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    refused(tmp_path, r"a\.tiff page 2 must be 6x4 grey like a\.tiff, got 3x2 grey$")


def test_a_jpeg_with_a_preview_is_one_image(tmp_path: Path) -> None:
    from PIL import Image

    photograph, preview = Image.new("RGB", (6, 4)), Image.new("RGB", (3, 2))
    photograph.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    assert len(read(tmp_path)) == 1


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=95)
    rows = read(tmp_path, flatten=False).tensor()[0]
    assert rows[0].min() > 0.95 and rows[1:].max() < 0.05


def test_16_bit_colour_is_said_to_lose_bits(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    line = b"\0" + struct.pack(">6H", 65535, 256, 0, 65535, 256, 0)
    header = struct.pack(">2I5B", 2, 2, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(2 * line)) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(png)
    with pytest.warns(DataWarning, match=r"x\.png has 16-bit colour, of which the upper 8 bits are used"):
        rows = read(tmp_path, flatten=False).tensor()
    assert (rows[0] * 255).round().mean((1, 2)).tolist() == [255, 1, 0]


def test_16_bit_grey_keeps_its_orientation_and_pages(tmp_path: Path) -> None:
    from PIL import Image

    pages = [Image.fromarray(np.full((4, 6), 1000 * k, np.uint16)) for k in range(3)]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    assert (read(tmp_path).tensor()[:, 0] * 65535).round().tolist() == [0, 1000, 2000]


def test_a_file_that_claims_more_than_it_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from fastgan.data import checks

    Image.new("L", (100, 100)).save(tmp_path / "a.gif", save_all=True)
    monkeypatch.setattr(checks, "MAX_CLAIM", 1000)
    monkeypatch.setattr(checks, "MAX_RATIO", 1)
    refused(tmp_path, r"a\.gif claims 10000 bytes of numbers, more than its \d+ bytes can hold$")
