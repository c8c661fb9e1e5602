"""Ctrl-C on the command line: one line and exit code 130, also while the heavy imports run and while all is given up.
One line, too, if they refuse. And the imports are quick.

Imported before anything else of the package, hence without torch.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

CODE = 130
_said = False


def say(command: str) -> None:
    """Print the line that says it."""
    global _said
    _said = True
    print(f"{command}: interrupted", file=sys.stderr)


def is_command() -> bool:
    """Whether this process was started as `fastgan`, or as `python -m fastgan`."""
    argv = sys.orig_argv
    as_module = any(argv[i : i + 2] == ["-m", "fastgan"] for i in range(1, len(argv)))
    return as_module or (len(sys.argv) > 0 and os.path.basename(sys.argv[0]) == "fastgan")


def leave_at_once() -> None:
    """From here on Ctrl-C ends the process: nothing of the user's has begun, or all of it has ended."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    if not _said:
        with contextlib.suppress(OSError):  # the reader has closed it
            os.write(2, b"fastgan: interrupted\n")  # print could be what is interrupted
    os._exit(CODE)


@contextlib.contextmanager
def imports() -> Iterator[None]:
    """The first ones of the package: from here on, Ctrl-C ends a command at once, because they take seconds.

    If one of them refuses, as torch's where there is none, a command ends with one line and exit code 2. They leave
    hardly any garbage, and looking for it takes a fifth of the time: a command does not.
    """
    if not is_command():
        yield
        return
    leave_at_once()
    gc.disable()
    try:
        yield
    except ImportError as error:
        print(f"fastgan: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        gc.freeze()  # never looked at again, not even at the end of the process
        gc.enable()


@contextlib.contextmanager
def once() -> Iterator[None]:
    """Inside, the first Ctrl-C raises KeyboardInterrupt, and those that follow do not disturb what it undoes.

    A fourth one ends the process where that takes too long.
    """
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or before not in (signal.default_int_handler, _leave):  # ignored, or the caller's own
        yield
        return
    count = 0

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count == 1:
            raise KeyboardInterrupt
        if count > 3:
            _leave(number, frame)

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
