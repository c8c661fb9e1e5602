"""Downloads by pooch: a file appears only when it is complete and its sha256 is right."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastgan._errors import Invalid
from fastgan._extras import need

from .dataset import DataError

_TIMEOUT = 30  # seconds without a byte


def download(
    base_url: str, sha256: Mapping[str, str], folder: str | os.PathLike[str], *, what: str, progress: bool = True
) -> list[Path]:
    """Download the files that a folder lacks; existing files are not changed.

    A file has a temporary name until it is whole and its hash is right. A failed transfer is tried a second time.

    Args:
        base_url: of the server's folder, with a slash at its end.
        sha256: of each file, by name.
        folder: of the files; created if missing.
        what: the first word of messages.
        progress: a bar on standard error.

    Returns: the files that were fetched.

    Raises:
        ImportError: pooch is not installed. ConnectionError: the server cannot be reached, refuses, or breaks off.
        DataError: it sent another file. OSError: the folder cannot be written.
    """
    pooch = need("pooch", what="download", package="pooch")
    from requests.exceptions import RequestException  # pooch needs it

    pooch.get_logger().setLevel(logging.ERROR)  # fastgan has messages of its own
    folder, fetched = Path(folder), []
    registry = {name: f"sha256:{value}" for name, value in sha256.items()}
    store = pooch.create(path=folder, base_url=base_url, registry=registry, retry_if_failed=1, allow_updates=False)
    with _bars(progress) as bars:
        for name in sha256:
            if (folder / name).exists():
                continue
            bar = _Bar(bars, name) if bars is not None else False
            try:
                store.fetch(name, downloader=pooch.HTTPDownloader(progressbar=bar, timeout=_TIMEOUT))
            except RequestException as error:
                answer = getattr(error.response, "status_code", None)
                got = type(error).__name__ if answer is None else f"answer {answer}"
                raise Invalid(what)(
                    ConnectionError, "download", f"must get {base_url}{name} whole, got {got}: is there a network?"
                ) from error
            except ValueError as error:  # pooch raises it for a wrong hash
                raise Invalid(what)(
                    DataError,
                    f"download of {base_url}{name}",
                    f"must have sha256 {sha256[name]}, got another file, which was not kept",
                ) from error
            fetched.append(folder / name)
    return fetched


def _bars(wanted: bool) -> Any:
    from contextlib import nullcontext

    if not wanted:
        return nullcontext()
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(bar_width=12), DownloadColumn(), TransferSpeedColumn()
    return Progress(*columns, console=Console(file=sys.stderr))


class _Bar:
    """A task of rich's progress with the methods that pooch calls."""

    def __init__(self, bars: Any, name: str) -> None:
        self._bars, self._task = bars, bars.add_task(name, total=None)

    def _set_total(self, total: int) -> None:
        self._bars.update(self._task, total=total or None)

    total = property(None, _set_total)

    def update(self, count: int) -> None:
        self._bars.advance(self._task, count)

    def reset(self) -> None:
        self._bars.update(self._task, completed=0)

    def close(self) -> None:
        self._bars.refresh()
