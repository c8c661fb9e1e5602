"""Stopping a run between two iterations instead of inside one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """Inside, the first Ctrl-C only asks the loop to stop; the second one acts as it did before.

    Args:
        terminate: treat SIGTERM in the same way.

    Handlers can be set on the main thread only; on another one nothing changes.
    """

    def __init__(self, *, terminate: bool) -> None:
        self.requested = False
        self._signals = [signal.SIGINT, *([signal.SIGTERM] if terminate else [])]
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and shells in the background ignore it
                    self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            self._restore()
            signal.raise_signal(number)
        self.requested = True

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
