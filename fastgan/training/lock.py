"""A lock: one process at a time trains in a run folder."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from fastgan._run_folder import LOCK

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("fastgan")


class FolderInUse(ValueError):
    """Another process trains in the folder."""


class FolderLock:
    """A file in the folder that is locked, and named, until `release`.

    The kernel drops the lock with the process, however that ends: a file that was left behind locks nothing. On NFS
    the lock is the server's, and other machines see it. File systems that know no locks are used without.

    Args:
        folder: exists.
        name: of the file.

    Raises:
        FolderInUse: another process holds the lock. OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str = LOCK) -> None:
        self._path = folder / name
        self._handle: int | None = None
        while fcntl is not None:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
                os.close(handle)
                raise FolderInUse(
                    f"train: {folder} must be used by one process at a time, got a second one beside {holder}"
                ) from None
            except OSError as error:
                os.close(handle)
                self._path.unlink(missing_ok=True)
                log.info("train: %s is used without a lock: %s", folder, error.strerror)
                return
            if self._is_at_its_name(handle):
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
                self._handle = handle
                return
            os.close(handle)  # it was released and removed between the opening and the locking

    def release(self) -> None:
        """Remove the file and release the lock; a second call does nothing."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._path.unlink(
                missing_ok=True
            )  # while it is locked, so no other process can have created a new file of this name
            os.close(handle)

    def _is_at_its_name(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self._path))
        except FileNotFoundError:
            return False


@contextlib.contextmanager
def locked(folder: Path | None, rank: int) -> Iterator[None]:
    """The folder of a population locked inside, by each rank for itself; it goes again where nothing was put into it.

    Raises:
        FolderInUse: the same rank of another population trains there.
    """
    if folder is None:
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FolderLock(folder, f"{LOCK}-{rank}" if rank else LOCK)
        try:
            yield
        finally:
            lock.release()
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()
