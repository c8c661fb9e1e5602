"""Flags: from the fields of a dataclass, with help from its docstring, and errors in one line."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import re
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Collection
from typing import Any, NoReturn

_COLUMNS = 80  # of the narrowest terminal that help fits


class Parser(argparse.ArgumentParser):
    """argparse with one line for an error and examples left as they are written."""

    def __init__(self, *, description: str, **options: Any) -> None:
        super().__init__(
            description=textwrap.fill(description, _COLUMNS),
            allow_abbrev=False,
            exit_on_error=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {' '.join(message.split())}", file=sys.stderr)
        raise SystemExit(2)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Like argparse's, but an error names its argument first."""
        try:
            return super().parse_known_args(args, namespace)
        except argparse.ArgumentError as error:
            self.error(f"{error.argument_name} {error.message}" if error.argument_name else error.message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += did_you_mean(str(value), [str(choice) for choice in action.choices or ()])
            raise

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Like argparse's, but the error of an unknown flag suggests a known one."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = command_of(self, found)
            flag = next((text for text in unknown if text.startswith("-")), "").partition("=")[0]
            hint = did_you_mean(flag, command._option_string_actions) if flag else ""
            command.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return found


def commands_of(parser: argparse.ArgumentParser) -> dict[str, Parser]:
    """The parsers of its commands, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def command_of(parser: Parser, arguments: argparse.Namespace) -> Parser:
    """The parser of the command that was given, or of the one below it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            name = getattr(arguments, action.dest, None)
            return command_of(action.choices[name], arguments) if name in action.choices else parser
    return parser


def did_you_mean(word: str, known: Collection[str]) -> str:
    """A question to append to an error: the known word nearest to an unknown one; empty if none is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def wrapped(line: str, indent: int) -> str:
    """A line of a list of measures: folded on a terminal, whole in a file or a pipe, where programs look for names."""
    return folded(line, indent) if sys.stdout.isatty() else line


def folded(line: str, indent: int) -> str:
    """A line of output, broken at the width of the terminal; in a file or a pipe at 80 columns."""
    columns = shutil.get_terminal_size().columns
    return textwrap.fill(line, columns, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def explain(error: BaseException, command: argparse.ArgumentParser | None = None) -> str:
    """An error or warning in one line, without the function that refused.

    Args:
        error: of the library (fastgan._errors) or of Python.
        command: whose flags it names: a config's `batch_size` as --batch-size.
    """
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = str(error)
    if (subject := getattr(error, "subject", None)) is not None:
        name = subject.removeprefix("config.")
        flag = f"--{name.replace('_', '-')}"
        known = command._option_string_actions if command else ()
        text = f"{flag if flag in known else name} {error.rule}"  # type: ignore[attr-defined]
    return " ".join(text.split()) or type(error).__name__


class Deprecated(argparse.Action):
    """A renamed flag: it still works, and prints its new name."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        print(f"{parser.prog}: {option_string} is deprecated, use --{self.dest.replace('_', '-')}", file=sys.stderr)
        setattr(namespace, self.dest, values)


def whole(text: str) -> int:
    """An integer."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer, got {text!r}") from None


def counting(text: str, least: int = 0) -> int:
    """An integer of at least 0."""
    if (value := whole(text)) < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
    return value


def natural(text: str) -> int:
    """An integer of at least 1."""
    return counting(text, 1)


def number(text: str) -> float:
    """A floating-point number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


def share(text: str) -> float:
    """A number from 0 to below 1."""
    if not 0.0 <= (value := number(text)) < 1.0:
        raise argparse.ArgumentTypeError(f"must lie in [0, 1), got {value}")
    return value


def wholes(text: str) -> list[int]:
    """Integers, as 0:32 (from 0, below 32), as 1,5,9, or both."""
    found: list[int] = []
    try:
        for part in text.split(","):
            bounds = [int(bound) for bound in part.split(":")]
            found += bounds if len(bounds) == 1 else range(*bounds)
    except (ValueError, TypeError):
        raise argparse.ArgumentTypeError(f"must be as 0:32 or 1,5,9, got {text!r}") from None
    if not found:
        raise argparse.ArgumentTypeError(f"must hold at least one number, got {text!r}")
    return found


def grid_field(text: str) -> tuple[str, list[Any]]:
    """A field and its values, as optimizer.lr=1e-4,2e-4."""
    name, equals, values = text.partition("=")
    if not (name and equals and values):
        raise argparse.ArgumentTypeError(f"must be as optimizer.lr=1e-4,2e-4, got {text!r}")
    return name, [_plain(value) for value in values.split(",")]


def _plain(text: str) -> Any:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            pass
    return None if text.lower() == "none" else text


def widths(text: str) -> tuple[int, ...]:
    """Layer widths, as 256,256."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be integers joined by commas, got {text!r}") from None


def _names(text: str) -> str | tuple[str, ...]:
    """A name, or several joined by commas."""
    return tuple(text.split(",")) if "," in text else text


def _or_none(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text.lower() == "none" else convert(text)


_CONVERTERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    int: (whole, "N"),
    float: (number, "X"),
    str: (str, "NAME"),
    tuple[int, ...]: (widths, "N,N"),
}


def add_fields(group: Any, owner: type, *, skip: Collection[str] = ()) -> None:
    """A flag for each field of a dataclass whose type fits on a command line.

    What is not given stays out of the namespace; "none" means None if the field allows it.
    """
    hints, helps = typing.get_type_hints(owner), field_help(owner)
    for item in dataclasses.fields(owner):
        hint, optional, several = hints[item.name], False, False
        text = helps.get(item.name, "")
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            optional = type(None) in typing.get_args(hint)
            parts = [part for part in typing.get_args(hint) if part in _CONVERTERS or _is_literal(part)]
            several = any(typing.get_origin(part) is tuple and part not in parts for part in typing.get_args(hint))
            hint = parts[0] if len(parts) == 1 else None
        if _is_literal(hint):  # the dataclass checks it, in one sentence
            choices = [value for value in typing.get_args(hint) if value is not None]
            if any(f'"{value}"' not in text for value in choices):
                text += f" One of {', '.join(choices)}."
            hint = str
        if hint not in _CONVERTERS or item.name in skip:
            continue
        convert, metavar = (_names, "NAME,NAME") if several and hint is str else _CONVERTERS[hint]
        if item.default is not dataclasses.MISSING:
            text += f" ({_as_text(item.default)})"
        else:
            text += " (the preset's)"
        group.add_argument(
            f"--{item.name.replace('_', '-')}",
            type=_or_none(convert) if optional else convert,
            metavar=metavar,
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
        )


def _as_text(default: Any) -> str:
    """The default as text on a command line."""
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default).replace("None", "none")


def _is_literal(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Literal


def given(arguments: argparse.Namespace, owner: type) -> dict[str, Any]:
    """The fields of a dataclass that were given on the command line."""
    names = {item.name for item in dataclasses.fields(owner)}
    return {name: value for name, value in vars(arguments).items() if name in names}


def field_help(owner: type) -> dict[str, str]:
    """The sentence of each field in the Args section of a docstring."""
    found: dict[str, str] = {}
    names: list[str] = []
    # Without the indentation of the source, which Python itself removes from version 3.13 on.
    section = inspect.cleandoc(owner.__doc__ or "").partition("Args:\n")[2]
    for raw in section.splitlines():
        indent = len(raw) - len(raw.lstrip())
        if raw.strip() and indent == 0:
            break
        if match := re.match(r" {4}([a-z_0-9]+(?:, [a-z_0-9]+)*): (.*)", raw):
            names = match[1].split(", ")
            found |= dict.fromkeys(names, match[2].strip())
        elif raw.strip():
            found |= {name: f"{found[name]} {raw.strip()}" for name in names}
    return found
