"""Errors that keep their parts, so that an application can name the argument in its own way."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Collection
from typing import TypeVar

Error = TypeVar("Error", bound=Exception)


class Invalid:
    """Makes the errors of one operation: each says "operation: subject rule", and has the three as attributes.

    Args:
        operation: the function or class that refuses, as its caller knows it.
    """

    def __init__(self, operation: str) -> None:
        self.operation = operation

    def __call__(self, kind: type[Error], subject: object, rule: str = "") -> Error:
        """An error of any kind.

        Args:
            kind: the class of the error.
            subject: the argument, file or row that is wrong; a whole sentence where `rule` is empty.
            rule: what must hold for it, and what came: "must be at least 1, got 0".
        """
        error = kind(f"{self.operation}: {subject} {rule}".rstrip())
        vars(error).update(operation=self.operation, subject=str(subject), rule=rule)
        return error

    def of(self, kind: type[Error], subject: object) -> Callable[[str], Error]:
        """A function of the rule, for checks that many operations and subjects share."""
        return functools.partial(self, kind, subject)

    def value(self, subject: object, rule: str = "") -> ValueError:
        """A ValueError."""
        return self(ValueError, subject, rule)

    def type(self, subject: object, rule: str = "") -> TypeError:
        """A TypeError."""
        return self(TypeError, subject, rule)

    def check_number(self, subject: object, value: object) -> None:
        """Raise a TypeError unless the value is a number."""
        if not is_number(value):
            raise self.type(subject, f"must be a number, got {value!r}")

    def check_integer(self, subject: object, value: object, least: int) -> None:
        """Raise a TypeError unless the value is an integer, and a ValueError where it is below the least one."""
        if not is_integer(value):
            raise self.type(subject, f"must be an integer, got {value!r}")
        if value < least:  # type: ignore[operator]
            raise self.value(subject, f"must be at least {least}, got {value}")


def first_line(error: BaseException) -> str:
    """What the error of another library says, in one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def check_choice(operation: str, subject: str, value: object, choices: Collection[str]) -> None:
    """Raise a ValueError unless the value is one of these words."""
    if not isinstance(value, str) or value not in choices:
        raise Invalid(operation).value(subject, f"must be one of {', '.join(choices)}, got {value!r}")


def is_number(value: object) -> bool:
    """Whether a value is one real number, of Python, NumPy or a tensor. A bool is none, and neither is a text."""
    if isinstance(value, int | float):
        return not isinstance(value, bool)
    return hasattr(value, "__float__") and getattr(value, "shape", ()) == () and not _of_bools(value)


def is_integer(value: object) -> bool:
    """Whether a value is one integer, of Python, NumPy or a tensor. A bool is none."""
    if isinstance(value, int):
        return not isinstance(value, bool)
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return not _of_bools(value)


def _of_bools(value: object) -> bool:
    return "bool" in str(getattr(value, "dtype", ""))
