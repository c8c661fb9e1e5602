"""What tests of the command line share: options of a tiny run, and what a refusal is."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from typing import Any

import pytest

from fastgan.plots import style
from fastgan.training.display import Display

FAST = ("--quiet", "--no-pictures")
TINY = ("--rows", "200", "--batch-size", "20", "--width", "8", "--steps", "20")
Run = Callable[..., tuple[int, str, str]]  # conftest.run


def check_refusal(result: tuple[int, str, str], *says: str) -> None:
    """It ended by one line, with these words."""
    code, out, err = result
    assert code == 2, (code, out, err)
    assert out == ""
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert all(words in err for words in says) and "Traceback" not in err, err


def check_success(result: tuple[int, str, str]) -> str:
    """What it printed."""
    code, out, err = result
    assert code == 0, err
    return out


def signatures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the pictures drawn from now on say in small type, one after another."""
    found: list[str] = []
    sign = style.sign

    def kept(figure: Any, about: str = "") -> None:
        found.append(style._SOURCE.get() or about)
        sign(figure, about)

    monkeypatch.setattr(style, "sign", kept)
    return found


class CtrlC(Display):
    """Ctrl-C at an iteration of a member."""

    def __init__(self, step: int, member: int = 0) -> None:
        self.every, self._member = step, member

    def on_chunk(self, run: Any, rows: object) -> None:
        if (run.member, run.step) == (self._member, self.every):
            signal.raise_signal(signal.SIGINT)


def showing(*displays: Display) -> Callable[..., contextlib.AbstractContextManager[list[Display]]]:
    """A replacement for `fastgan.training.progress` that shows these displays."""
    return lambda *_, **__: contextlib.nullcontext(list(displays))
