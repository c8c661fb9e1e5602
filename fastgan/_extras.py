"""Optional libraries, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any


def need(module: str, *, what: str, package: str) -> Any:
    """Import a module of an optional package; the error says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{what} needs {package}: pip install {package}") from error
