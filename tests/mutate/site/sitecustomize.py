"""Plants the Python fault that FASTGAN_FAULT names, in this process and, by PYTHONPATH, in those that tests start."""

from __future__ import annotations

import importlib.machinery
import json
import os
from pathlib import Path
from typing import Any


def plant(file: str, start: int, end: int, put: str) -> list[str]:
    """From now on the import of this file gives the faulty one; the list gets its name when that happens."""
    path = Path(file)
    text = path.read_text()
    code = compile(text[:start] + put + text[end:], file, "exec")
    usual = importlib.machinery.SourceFileLoader.get_code
    names: list[str] = []

    def get_code(self: Any, name: str) -> Any:
        if Path(self.path) != path:
            return usual(self, name)
        names.append(name)
        return code

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
    return names


if "FASTGAN_FAULT" in os.environ:
    plant(*json.loads(os.environ["FASTGAN_FAULT"]))
