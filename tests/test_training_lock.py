"""One process at a time in a run folder, and nothing left behind by killed ones."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fastgan.apps.cli import runs
from fastgan.models import GAN
from fastgan.training import Adam, Callback, Run, TrainConfig, checkpoint, lock, train, train_population

DATA = torch.randn(32, 2, generator=torch.Generator().manual_seed(1))
CONFIG = TrainConfig(steps=6, batch_size=8, optimizer=Adam(0.01), checkpoint_every=2)
HOLDER = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import lock
held = lock.FolderLock(Path(sys.argv[1]))
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def new_gan() -> GAN:
    torch.manual_seed(0)
    return GAN(nn.Linear(2, 2), nn.Linear(2, 1), latent_dim=2)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run folder with a checkpoint."""
    train(new_gan(), DATA, replace(CONFIG, steps=4), run_dir=tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def hold() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Another process that has locked a folder; without torch, which it would wait for."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", HOLDER, str(folder), str(Path(lock.__file__).parent)]
        other = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(other)
        assert other.stdout is not None and int(other.stdout.readline()) == other.pid
        return other

    yield start
    for other in started:
        other.kill()
        other.wait()
        for pipe in (other.stdin, other.stdout):
            assert pipe is not None
            pipe.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_second_process_in_a_run_folder_is_refused(begun: Path, hold: Callable[..., subprocess.Popen[str]]) -> None:
    other = hold(begun)
    before = contents(begun)
    with pytest.raises(lock.FolderInUse, match=rf"run must be used by one process at a time.*process {other.pid} on"):
        train(new_gan(), DATA, CONFIG, run_dir=begun, resume=True)
    assert contents(begun) == before
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (begun / lock.LOCK).exists()  # stale: it locks nothing
    assert train(new_gan(), DATA, CONFIG, run_dir=begun, resume=True).step == 6
    assert not (begun / lock.LOCK).exists()


def test_the_second_run_of_one_process_is_refused_too(tmp_path: Path) -> None:
    class Again(Callback):
        def on_start(self, run: Run) -> None:
            with pytest.raises(lock.FolderInUse, match=f"process {os.getpid()} on"):
                train(new_gan(), DATA, CONFIG, run_dir=run.run_dir)

    assert train(new_gan(), DATA, CONFIG, run_dir=tmp_path / "run", callbacks=[Again()]).step == 6


def test_the_second_process_in_a_population_is_refused(
    tmp_path: Path, hold: Callable[..., subprocess.Popen[str]]
) -> None:
    hold(tmp_path)
    with pytest.raises(lock.FolderInUse, match="must be used by one process at a time"):
        train_population(new_gan, DATA, CONFIG, seeds=range(2), run_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [lock.LOCK]


def test_a_refused_population_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        train_population(new_gan, "no data", CONFIG, seeds=range(2), run_dir=tmp_path / "a/b")
    assert list(tmp_path.iterdir()) == []


def test_the_lock_goes_with_an_error(begun: Path) -> None:
    """Else the same process could never try again."""

    class Fails(Callback):
        def on_start(self, run: Run) -> None:
            raise RuntimeError("on purpose")

    broken = GAN(nn.Linear(2, 2), nn.Linear(2, 1, bias=False), latent_dim=2)
    for gan, callbacks in ((broken, []), (new_gan(), [Fails()])):
        with pytest.raises((ValueError, RuntimeError)):
            train(gan, DATA, CONFIG, run_dir=begun, resume=True, callbacks=callbacks)
        assert not (begun / lock.LOCK).exists()
    assert train(new_gan(), DATA, CONFIG, run_dir=begun, resume=True).step == 6


def test_a_run_that_went_on_between_reading_and_locking_is_refused(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint.load

    def load_and_train(path: Path) -> checkpoint.Checkpoint:
        found = real(path)
        monkeypatch.setattr(checkpoint, "load", real)
        train(new_gan(), DATA, replace(CONFIG, steps=8), run_dir=begun, resume=True)
        return found

    monkeypatch.setattr(checkpoint, "load", load_and_train)
    with pytest.raises(ValueError, match="run_dir must not hold other or newer checkpoints than resume"):
        train(new_gan(), DATA, CONFIG, run_dir=begun, resume=True)
    assert checkpoint.load(begun).step == 8


def test_a_lock_removed_by_its_holder_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between our open and our lock the holder may remove the file: a third process would then lock another one."""
    first = lock.FolderLock(tmp_path)
    real = lock.fcntl.flock

    def release_first(handle: int, how: int) -> None:
        first.release()
        real(handle, how)

    monkeypatch.setattr(lock.fcntl, "flock", release_first)
    second = lock.FolderLock(tmp_path)
    monkeypatch.undo()
    with pytest.raises(lock.FolderInUse):
        lock.FolderLock(tmp_path)
    second.release()
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_used_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    assert train(new_gan(), DATA, CONFIG, run_dir=tmp_path / "run").step == 6
    assert not (tmp_path / "run" / lock.LOCK).exists()


def test_temporary_files_of_killed_processes_go_at_the_next_start(begun: Path) -> None:
    (begun / "snapshots").mkdir()
    left = [begun / ".history.csv.123.tmp", begun / ".config.json.9.tmp", begun / "snapshots/.000.npy.77.tmp"]
    left.append(begun / "checkpoint/.step-000000000006.json.5.tmp")
    kept = [begun / ".mine.tmp", begun / "notes.5.tmp"]
    for path in (*left, *kept):
        path.write_bytes(b"half")
    train(new_gan(), DATA, CONFIG, run_dir=begun, resume=True)
    assert not any(path.exists() for path in left) and all(path.exists() for path in kept)
    population = begun.parent / "many"
    population.mkdir()
    (population / ".population.json.4.tmp").write_bytes(b"half")
    train_population(new_gan, DATA, CONFIG, seeds=[0], run_dir=population)
    assert [path.name for path in population.iterdir()] == ["member-0000"]


def test_the_command_line_leaves_a_folder_in_which_another_process_has_begun(tmp_path: Path) -> None:
    folder = runs.Folder.new(str(tmp_path / "run"), "ring")
    (folder.path / "config.json").write_text("{}")
    held = lock.FolderLock(folder.path)
    folder.discard()
    assert (folder.path / "config.json").is_file()
    held.release()
    folder.discard()
    assert not folder.path.exists()
