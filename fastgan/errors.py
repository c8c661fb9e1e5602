"""Errors that keep their parts, so that an application can name the argument in its own way."""

from __future__ import annotations

import functools
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


def check_choice(operation: str, subject: str, value: object, choices: Collection[str]) -> None:
    """Raise a ValueError unless the value is one of these words."""
    if not isinstance(value, str) or value not in choices:
        raise Invalid(operation).value(subject, f"must be one of {', '.join(choices)}, got {value!r}")


def check_count(operation: str, subject: str, value: object) -> None:
    """Raise a TypeError or a ValueError unless the value is an integer of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise Invalid(operation).type(subject, f"must be an integer, got {value!r}")
    if value < 1:
        raise Invalid(operation).value(subject, f"must be at least 1, got {value}")
