"""Damaged files are read or refused; nothing else can come out of the readers."""

from __future__ import annotations

import gzip
import io
import struct
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import idx_bytes

from fastgan.data import DataError, DataWarning, read

MANY = 20_000  # mutants of the slow run, over all kinds
FEW = 40  # of each kind in the default run
LIMITS = 3 << 30  # bytes of address space that reading a file of some kilobytes may add
PIXELS = np.arange(60, dtype=np.uint8).reshape(5, 3, 4)
TABLE = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
TEXTS = [
    b"a,b,c\n1,2.5,-3e4\n4,5,6\n",
    b"1;2\n3;4\n",
    b'sep=;\n"height, cm";"weight, kg"\n1,5;2,25\n3,5;4\n',
    b"Weather of Oslo\n\nday,degrees\n1,2\n3,4\n",
    b",a,b\n0,1.5,2\n1,2.5,3\n2,3.5,4\n",
    b"2019,2020,2021\n1.5,2,3\n4,5,6\n7,8,9\n",
    b"# a b\n 1 2\n 3  4\n",
    "größe\tb\n1\t2\n3\t4\n".encode("utf-16"),
]
TOKENS = [
    b",",
    b";",
    b"\t",
    b'"',
    b"\n",
    b"\r",
    b"\0",
    b"#",
    b"nan",
    b"1e999",
    b"-",
    b"sep=;\n",
    b"\xff\xfe",
    b"_",
    b" ",
]
NUMBERS = [b"\xff" * 4, b"\x7f" + b"\xff" * 3, b"\xff\xff\xff\x7f", b"\0" * 4, b"\x80" + b"\0" * 7, b"\xff" * 8, b"\1"]

Seed = tuple[bytes, Callable[[bytes], bytes]]  # what is damaged, and what then becomes a file of it


def same(content: bytes) -> bytes:
    return content


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    return saved(lambda buffer: np.save(buffer, array))


def zipped(content: bytes) -> bytes:
    """An honest .npz with that inside."""
    import zipfile

    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    return buffer.getvalue()


def checked(content: bytes) -> bytes:
    """A .png whose checksums are right again: damage gets past them into the decoder."""
    out, at = bytearray(content[:8]), 8
    while at + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, at)
        body = content[at + 4 : at + 8 + size]
        if len(body) < 4 + size:
            break
        out += struct.pack(">I", size) + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return bytes(out + content[at:])


def picture(suffix: str, mode: str, pages: int = 1, **options: object) -> bytes:
    from PIL import Image

    images = []
    for page in range(pages):
        pixels = np.random.default_rng(page).integers(0, 256, (9, 11, 4), dtype=np.uint8)
        grey16 = mode == "I;16"
        images.append(Image.fromarray(pixels[..., 0].astype(np.uint16) if grey16 else pixels).convert(mode))
    more = {"save_all": True, "append_images": images[1:]} if pages > 1 else {}
    return saved(lambda buffer: images[0].save(buffer, suffix, **more, **options))


def parquet_bytes(kind: str) -> bytes:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "plain": {"a": arrow.array(range(20)), "b": arrow.array([0.5 * k for k in range(20)])},
        "lists": {
            "price": arrow.array([Decimal(k) / 4 for k in range(8)], arrow.decimal128(10, 2)),
            "place": arrow.array([[1.0 * k, 2.0] for k in range(8)]),
        },
    }[kind]
    return saved(lambda buffer: parquet.write_table(arrow.table(columns), buffer, compression="snappy"))


@cache
def seeds() -> dict[str, list[Seed]]:
    """What is damaged, by the name of the file; the name of a folder first where the folder is read."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    plain = {
        "x.npy": [npy_bytes(a) for a in (PIXELS, TABLE, np.asfortranarray(TABLE), TABLE > 0)],
        "x-idx3-ubyte": [idx_bytes(PIXELS), idx_bytes(TABLE), idx_bytes(TABLE.astype(np.int16))],
        "x.csv": TEXTS,
        "x.tsv": [text.replace(b",", b"\t") for text in TEXTS if b";" not in text],
        "table": TEXTS,
        "x.bin": [bytes([3]) + bytes(3072)],
        "x.parquet": [parquet_bytes("plain"), parquet_bytes("lists")],
        "spark/part-0.parquet": [parquet_bytes("plain")],
        "cifar/data_batch_1.bin": [2 * (bytes([3]) + bytes(3072))],
        "jpeg/x.jpg": [
            picture("JPEG", "RGB", exif=exif),
            picture("JPEG", "CMYK"),
            picture("JPEG", "L", progressive=True),
        ],
        "gif/x.gif": [picture("GIF", "P", 3), picture("GIF", "L", 2)],
        "tiff/x.tiff": [
            picture("TIFF", "RGBA", 2, exif=exif),
            picture("TIFF", "I;16", 2),
            picture("TIFF", "RGB", 1, compression="tiff_lzw"),
        ],
        "png/x.png": [picture("PNG", "RGBA")],
        "webp/x.webp": [picture("WEBP", "RGBA", 2, lossless=True)],
    }
    found: dict[str, list[Seed]] = {name: [(whole, same) for whole in wholes] for name, wholes in plain.items()}
    packed = [(whole, gzip.compress) for whole in (idx_bytes(PIXELS), idx_bytes(TABLE))]
    found["x-idx3-ubyte.gz"] = [(gzip.compress(idx_bytes(PIXELS), mtime=0), same), *packed]
    found["x.csv.gz"] = [(gzip.compress(TEXTS[0], mtime=0), same), *((text, gzip.compress) for text in TEXTS)]
    found["x.npz"] = [(saved(lambda buffer: np.savez_compressed(buffer, PIXELS)), same), (npy_bytes(TABLE), zipped)]
    found["png/x.png"] += [(picture("PNG", mode), checked) for mode in ("RGBA", "P", "LA", "I;16", "L")]
    found["png/x.png"] += [(picture("PNG", "L", 3), checked)]
    return found


NAMES = (
    "x.npy x.npz x-idx3-ubyte x-idx3-ubyte.gz x.bin x.csv x.tsv table x.csv.gz x.parquet spark/part-0.parquet "
    "cifar/data_batch_1.bin jpeg/x.jpg gif/x.gif tiff/x.tiff png/x.png webp/x.webp"
).split()


def damage(whole: bytes, rng: np.random.Generator) -> bytes:
    """One edit, seldom more. Headers and footers are where damage matters, so both ends are likelier."""
    content = bytearray(whole)
    for _ in range(rng.geometric(0.7)):
        near, size = int(rng.integers(0, 140)), len(content)
        at = int(rng.choice([near, size - near, rng.integers(0, size + 1)])) % (size + 1)
        action = rng.choice(["set", "flip", "insert", "token", "number", "delete", "repeat", "cut"])
        if action == "insert":
            content.insert(at, int(rng.integers(256)))
        elif action in ("token", "number"):
            text = rng.choice(np.array(TOKENS if action == "token" else NUMBERS, dtype=object))
            content[at : at + len(text) * int(rng.integers(2))] = text
        elif action == "cut" and rng.integers(3) == 0:
            del content[at:]
        elif action == "delete":
            del content[at : at + int(rng.integers(1, 9))]
        elif action == "repeat":
            content[at:at] = content[at : at + int(rng.integers(1, 40))]
        elif at < size:
            content[at] = int(rng.integers(256)) if action == "set" else content[at] ^ (1 << int(rng.integers(8)))
    return bytes(content)


def survives(path: Path, content: bytes, **options: bool | None) -> bool:
    """Whether it is read; if not it must be refused in one line."""
    path.write_bytes(content)
    source = path.parent if "part" in path.name or path.suffix in (".jpg", ".gif", ".tiff", ".png", ".webp") else path
    source = path.parent if path.name.startswith("data_batch") else source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            dataset = read(source, **options)
    except DataError as error:
        assert str(source) in str(error) and "\n" not in str(error)
        return False
    rows = dataset.tensor()
    assert rows.ndim == 2 and len(rows) == len(dataset) > 0
    assert rows.dtype == torch.float32 and torch.isfinite(rows).all()
    return True


@contextmanager
def little_room() -> Iterator[None]:
    """Reading may not ask for much more memory than the file has, or it fails with a MemoryError."""
    if sys.platform != "linux":
        yield
        return
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMITS, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def fuzz(name: str, count: int, folder: Path) -> int:
    """`count` mutants of a kind; how many were read."""
    pytest.importorskip("PIL")
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(sum(name.encode()))
    wholes = seeds()[name]
    for whole, pack in wholes:
        assert survives(path, pack(whole)), "an undamaged file is read"
    with little_room():
        return sum(
            survives(path, pack(damage(whole, rng)), header=(None, True, False)[number // len(wholes) % 3])
            for number, (whole, pack) in enumerate((wholes * count)[:count])
        )


@pytest.mark.parametrize("name", NAMES)
def test_R35_damaged_files(name: str, tmp_path: Path) -> None:
    assert fuzz(name, FEW, tmp_path) < FEW  # some are refused: the damage is real


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_R35_twenty_thousand_damaged_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {name: MANY // len(NAMES) + (number < MANY % len(NAMES)) for number, name in enumerate(NAMES)}
    read_ = {name: fuzz(name, count, tmp_path) for name, count in counts.items()}
    with capsys.disabled():
        for name, count in counts.items():
            print(f"\n{name:25} {count:6} mutants, {read_[name]:6} read, {count - read_[name]:6} refused", end="")
        total = sum(read_.values())
        print(f"\n{'all':25} {sum(counts.values()):6} mutants, {total:6} read, {MANY - total:6} refused")
    assert sum(counts.values()) == MANY


@pytest.mark.parametrize("name", ["x.npy", "x-idx3-ubyte"])
def test_R35_every_byte_of_the_header(name: str, tmp_path: Path) -> None:
    """Every single-bit fault in the first 96 bytes, and every length."""
    whole = seeds()[name][0][0]
    for at in range(min(96, len(whole))):
        for bit in range(8):
            survives(tmp_path / name, whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
    for length in range(len(whole)):
        with pytest.raises(DataError):
            (tmp_path / name).write_bytes(whole[:length])
            read(tmp_path / name)


def test_R35_text_as_csv(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    letters = np.array(list("0123456789.,;\t\"'\n\r -+eEnaif_x\x00\ufeff"))
    for _ in range(200):
        survives(tmp_path / "x.csv", "".join(rng.choice(letters, rng.integers(60))).encode() + b"1")
