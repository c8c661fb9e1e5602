"""Numbers as people write them, which are text to a program: 1,234.50 or $5."""

from __future__ import annotations

import re
from typing import Any

_MONEY = "[$\u20ac\u00a3\u00a5]|EUR|USD|GBP|CHF"
_MINUS = "[+\u2212-]?"
_DIGITS = "(?:[0-9]{1,3}(?:[,.'\u2019 \u00a0\u202f_][0-9]{3})+|[0-9]+)(?:[.,][0-9]+)?"
_WRITTEN = re.compile(rf"\(?{_MINUS}\s?(?:{_MONEY})?\s?{_MINUS}{_DIGITS}\s?(?:%|{_MONEY})?\)?")
_PLAIN = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_LEAST = 10  # different texts; a few may be labels, such as 10% and 20%


def example(texts: Any) -> str | None:
    """Of texts that all are numbers as people write them, the first that is no number to a program; else None."""
    different = set(texts)
    if len(different) <= _LEAST or not all(isinstance(text, str) for text in different):
        return None
    if not all(_WRITTEN.fullmatch(text.strip()) for text in different):
        return None
    return next((text for text in texts if not _PLAIN.fullmatch(text.strip())), None)
