"""Files that are written whole or not at all, and numbers as JSON has them."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastgan._errors import Invalid


def finite(value: Any) -> Any:
    """The value with null in place of numbers that JSON does not have: NaN and infinities."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sweep(folder: Path) -> None:
    """Remove the temporary files of `write_atomically` that killed processes have left in a folder."""
    for left in folder.glob(".*.[0-9]*.tmp"):
        left.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike[str], parts: Iterable[bytes]) -> None:
    """Write a file so that its name shows either the old contents or the new ones, whatever happens.

    A symbolic link stays one: the file it leads to is written. A device or a pipe is written to, not replaced.

    Raises:
        OSError: naming the path; the old file is intact and no temporary one is left.
    """
    try:
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if stat.S_ISREG(mode):
            _replace(Path(os.path.realpath(path)), parts)
        else:
            with open(path, "wb") as file:
                file.writelines(parts)
    except OSError as error:
        raise type(error)(error.errno, f"cannot write: {error.strerror}", str(Path(path))) from error


def _mode(path: str | os.PathLike[str]) -> int:
    """The mode of an existing file, or of a new one."""
    try:
        return os.stat(Path(path)).st_mode
    except FileNotFoundError:
        return stat.S_IFREG


def _replace(path: Path, parts: Iterable[bytes]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere folders cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def folder_at(invalid: Invalid, name: str, path: str | os.PathLike[str]) -> Path:
    """The path of a folder that is there or can be made.

    Raises:
        NotADirectoryError: a file has its place, or that of a folder above it.
    """
    folder = Path(path)
    there = next((part for part in (folder, *folder.parents) if part.exists()), folder)
    if there.exists() and not there.is_dir():
        raise invalid(NotADirectoryError, name, f"must be a folder, got the file {there}")
    return folder
