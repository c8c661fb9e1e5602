"""Old names of the public face: each works until `REMOVED_IN`, with a DeprecationWarning that gives the new one."""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
REMOVED_IN = "0.3.0"


def warn(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn that `old` is deprecated. stacklevel: 3 is the caller of the function that calls this one."""
    message = f"{old} is deprecated and will be removed in {REMOVED_IN}; use {new}"
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)


def names(module: str, renamed: Mapping[str, str], at_first_use: Sequence[str] = ()) -> Callable[[str], Any]:
    """A module's `__getattr__` for names that have changed, old -> new, and for submodules that load at first use."""

    def get(name: str) -> Any:
        if name in at_first_use:
            return importlib.import_module(f"{module}.{name}")
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn(f"{module}.{name}", f"{module}.{renamed[name]}")
        return getattr(sys.modules[module], renamed[name])

    return get


class Attribute:
    """An attribute or method that has changed its name.

    Args:
        old: the old name with its class, as in a message.
        new: the attribute that replaces it.
    """

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        if owner is None:
            return self
        warn(self.old, f"{self.old.partition('.')[0]}.{self.new}")
        return getattr(owner, self.new)


def argument(function: str, old: str, new: str) -> Callable[[F], F]:
    """Let a function take the keyword argument `old` as `new`."""

    def decorate(call: F) -> F:
        @functools.wraps(call)
        def renamed(*arguments: Any, **keywords: Any) -> Any:
            if old in keywords:
                if new in keywords:
                    raise TypeError(f"{function}: {new} must be given once, got {old} as well")
                warn(f"{function}({old}=)", f"{function}({new}=)")
                keywords[new] = keywords.pop(old)
            return call(*arguments, **keywords)

        return renamed  # type: ignore[return-value]

    return decorate


class Keys(dict[str, Any]):
    """A dictionary some of whose keys have changed.

    Args:
        values: by new key.
        function: what returned it, as in a message.
        renamed: old key -> new key.
    """

    def __init__(self, values: Mapping[str, Any], function: str, renamed: Mapping[str, str]) -> None:
        super().__init__(values)
        self._function, self._renamed = function, renamed

    def __missing__(self, key: str) -> Any:
        if key not in self._renamed:
            raise KeyError(key)
        new = self._renamed[key]
        warn(f"{self._function}()[{key!r}]", f"{self._function}()[{new!r}]")
        return self[new]
