"""Files that are written whole: what a path may lead to. Kills and full disks are in test_checkpoint.py."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
import torch

import fastgan
from fastgan._files import write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "file", tmp_path / "link"
    link.symlink_to(target)
    for text in (b"new", b"newer"):  # the target is missing, then there
        write_atomically(link, [text])
        assert link.is_symlink() and target.read_bytes() == text
    assert names(tmp_path) == ["far", "link"] and names(tmp_path / "far") == ["file"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_atomically(pipe, [b"a", b"b"])
    reader.join(60)
    assert read == [b"ab"] and stat.S_ISFIFO(pipe.stat().st_mode) and names(tmp_path) == ["pipe"]


@pytest.mark.parametrize("path", [".", "", "..", "folder"])
def test_a_folder_is_refused(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="cannot write: Is a directory"):
        write_atomically(path, [b""])
    assert names(tmp_path) == ["folder"]


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="cannot write: Too many levels"):
        write_atomically(loop, [b""])
    assert loop.is_symlink()


@pytest.mark.parametrize("below", ["", "below"])
def test_a_run_folder_that_is_a_file_is_refused_by_name(below: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    gan = fastgan.GAN(fastgan.nn.MLP([2, 2]), fastgan.nn.MLP([2, 1]), latent_dim=2)
    data, config = torch.randn(32, 2), fastgan.TrainConfig(1, 8)
    for name, call in (
        ("train", lambda: fastgan.train(gan, data, config, run_dir=file / below)),
        (
            "train_population",
            lambda: fastgan.train_population(lambda: gan, data, config, seeds=(1,), run_dir=file / below),
        ),
    ):
        with pytest.raises(NotADirectoryError) as raised:
            call()
        assert str(raised.value) == f"{name}: run_dir must be a folder, got the file {file}"
    assert file.read_text() == "mine"
