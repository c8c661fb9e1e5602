"""What tests of the command line share: options of a tiny run, and what a refusal is."""

from __future__ import annotations

from collections.abc import Callable

FAST = ("--quiet", "--no-pictures")
TINY = ("--rows", "200", "--batch-size", "20", "--width", "8", "--steps", "20")
Run = Callable[..., tuple[int, str, str]]  # conftest.run


def check_refusal(result: tuple[int, str, str], says: str) -> None:
    code, out, err = result
    assert code == 2, (code, out, err)
    assert out == ""
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert says in err and "Traceback" not in err, err
