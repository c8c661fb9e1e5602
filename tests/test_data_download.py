"""--download: files from a local server, whole and with the right hash, or not there at all."""

from __future__ import annotations

import gc
import gzip
import hashlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, check_refusal, check_success
from data_files import idx_bytes

from fastgan import data
from fastgan.data import mnist_files

pytest.importorskip("pooch", reason="needs pooch: pip install pooch")

RNG = np.random.default_rng(5)
ARRAYS = (
    RNG.integers(0, 256, size=(40, 28, 28), dtype=np.uint8),
    (np.arange(40) % 10).astype(np.uint8),
    RNG.integers(0, 256, size=(8, 28, 28), dtype=np.uint8),
    (np.arange(8) % 10).astype(np.uint8),
)
NAMES = [f"{name}.gz" for name, _ in mnist_files._FILES]
WHOLE = {name: gzip.compress(idx_bytes(array), mtime=0) for name, array in zip(NAMES, ARRAYS, strict=True)}
SUMS = tuple(hashlib.sha256(WHOLE[name]).hexdigest() for name in NAMES)


class Server:
    """Serves WHOLE; `spoilt` says what becomes of a file: "corrupted", "cut", "refused", "stalled"."""

    def __init__(self) -> None:
        self.spoilt: dict[str, str] = {}
        self.asked: list[str] = []
        self.reached = threading.Event()  # half of a stalled file is out
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                server.asked.append(name)
                content, fault = WHOLE[name], server.spoilt.get(name)
                if fault == "refused":
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if fault == "corrupted":
                    content = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
                half = len(content) // 2
                self.wfile.write(content[:half])
                self.wfile.flush()
                if fault == "stalled":
                    server.reached.set()
                    server.released.wait(60)
                if fault != "cut":
                    self.wfile.write(content[half:])

            def log_message(self, *arguments: object) -> None:
                """Nothing: tests look at what fastgan says."""

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, *arguments: object) -> None:
                """Nothing: a client that is killed breaks the pipe."""

        self.released = threading.Event()
        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/files/"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server that both data sets come from, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("FASTGAN_MNIST", "FASTGAN_FASHION_MNIST", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = Server()
    for name in mnist_files.NAMES:
        origin = mnist_files._ORIGINS[name]._replace(url=running.url, packed=SUMS)
        monkeypatch.setitem(mnist_files._ORIGINS, name, origin)
    yield running
    running.close()
    with warnings.catch_warnings():  # of connections that pooch leaves to the collector where a download fails
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def left(folder: Path) -> list[str]:
    """All names in a folder, hidden and temporary ones too."""
    return sorted(os.listdir(folder)) if folder.is_dir() else []


@pytest.mark.parametrize("load", [data.mnist, data.fashion_mnist])
def test_a_download_gives_the_rows_and_happens_once(server: Server, load: Callable[..., data.Dataset]) -> None:
    found = load("there", download=True)
    assert np.array_equal(found.data.numpy().reshape(40, 28, 28), ARRAYS[0])
    assert found.labels is not None and found.labels.tolist() == ARRAYS[1].tolist()
    assert len(load("there", split="test")) == 8
    assert left(Path("there")) == sorted(NAMES) and sorted(server.asked) == sorted(NAMES)
    load("there", download=True)
    assert len(server.asked) == len(NAMES)


def test_without_download_the_network_is_left_alone(server: Server) -> None:
    with pytest.raises(FileNotFoundError, match="--download fetches"):
        data.mnist("there")
    assert server.asked == []


def test_files_of_the_user_are_left_as_they_are(server: Server) -> None:
    """Unpacked ones, and gzipped ones of other bytes, as Debian has them."""
    folder = Path("there")
    folder.mkdir()
    unpacked, repacked = folder / NAMES[0].removesuffix(".gz"), folder / NAMES[1]
    unpacked.write_bytes(gzip.decompress(WHOLE[NAMES[0]]))
    repacked.write_bytes(gzip.compress(idx_bytes(ARRAYS[1]), 1, mtime=7))
    before = repacked.read_bytes()
    assert len(data.mnist(folder, download=True)) == 40
    assert sorted(server.asked) == sorted(NAMES[2:]) and repacked.read_bytes() == before


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("corrupted", data.DataError, "must have sha256 {sum}, got another file, which was not kept"),
        ("cut", ConnectionError, "whole, got ChunkedEncodingError"),
        ("refused", ConnectionError, "whole, got answer 404"),
    ],
)
def test_nothing_of_a_bad_file_is_kept_and_the_next_call_goes_on(
    server: Server, fault: str, error: type[Exception], message: str
) -> None:
    bad = NAMES[2]
    server.spoilt[bad] = fault
    with pytest.raises(error) as caught:
        data.mnist("there", download=True)
    text = str(caught.value)
    assert text.startswith("mnist: download ") and server.url + bad in text and "\n" not in text
    assert message.format(sum=SUMS[2]) in text, text
    assert left(Path("there")) == sorted(NAMES[:2])  # those before it are whole
    assert server.asked.count(bad) == 2  # a failed transfer is tried again
    server.spoilt.clear()
    assert len(data.mnist("there", download=True)) == 40
    assert left(Path("there")) == sorted(NAMES) and server.asked.count(NAMES[0]) == 1


def test_an_interrupted_download_leaves_no_part_of_a_file(server: Server, tmp_path: Path) -> None:
    """Ctrl-C in the middle of the first file, in a process of its own."""
    server.spoilt[NAMES[0]] = "stalled"
    script = (
        "import sys; from fastgan.apps.cli import main; from fastgan.data import mnist_files as m\n"
        f"m._ORIGINS['mnist'] = m._ORIGINS['mnist']._replace(url={server.url!r}, packed={SUMS!r})\n"
        "sys.exit(main(['train', 'mnist', '--download', '--data', 'there', '--quiet']))"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    assert server.reached.wait(120)
    folder = tmp_path / "there"
    for _ in range(600):  # until the first bytes are in the temporary file
        if any(path.stat().st_size for path in folder.iterdir()):
            break
        time.sleep(0.05)
    assert left(folder) and NAMES[0] not in left(folder)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130 and "Traceback" not in err, err
    assert left(folder) == []


def test_the_command_downloads_trains_and_shows_a_bar(run: Run, server: Server) -> None:
    tiny = ("--steps", "2", "--batch-size", "4", "--width", "8", "--no-pictures", "--threads", "1", "--out", "r")
    code, _, err = run("train", "mnist", "--download", *tiny)
    assert code == 0 and all(name in err for name in NAMES) and left(Path("data/mnist")) == sorted(NAMES), err
    assert run("train", "fashion-mnist", "--download", "--quiet", *tiny[:-1], "q") == (0, "", "")
    assert left(Path("data/fashion-mnist")) == sorted(NAMES)


def test_without_network_or_pooch_one_line_says_so(run: Run, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:  # a port where nothing listens
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        monkeypatch.setitem(mnist_files._ORIGINS, "mnist", mnist_files._ORIGINS["mnist"]._replace(url=url))
        says = f"fastgan train: --download must get {url}{NAMES[0]} whole, got ConnectionError: is there a network?\n"
        check_refusal(run("train", "mnist", "--download", "--quiet"), says)
    assert left(Path("data/mnist")) == [] and not Path("runs").exists()
    monkeypatch.setitem(sys.modules, "pooch", None)
    says = "fastgan train: download needs pooch: pip install pooch\n"
    check_refusal(run("train", "mnist", "--download"), says)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("train digits --download", "--download must be used with mnist or fashion-mnist, got digits"),
        ("train --resume --out r --download", "--download must be used with mnist or fashion-mnist, got no SOURCE"),
        ("train mnist --download --data file", "path must be a folder for a download, got the file file"),
    ],
)
def test_a_mistake_ends_in_one_line(run: Run, server: Server, argv: str, message: str) -> None:
    Path("file").write_bytes(b"")
    if "--resume" in argv:
        check_success(run(*"train digits --steps 1 --out r --quiet --no-pictures".split()))
    check_refusal(run(*argv.split()), message)
    assert server.asked == []


def test_the_pinned_files_have_names_and_hashes() -> None:
    for name in mnist_files.NAMES:
        origin = mnist_files._ORIGINS[name]
        assert origin.url.startswith("http") and origin.url.endswith("/")
        assert len({*origin.packed}) == 4 and all(len(value) == 64 for value in origin.packed)
