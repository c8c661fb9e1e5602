"""The base of all results: a one-line repr, and comparison by identity."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

_LONGEST = 48  # characters of one field


class Result:
    """Base of frozen dataclasses that hold arrays. `==` compares identity: that of arrays is no single answer."""

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        parts = (f"{field.name}={_short(getattr(self, field.name))}" for field in fields if field.repr)
        return f"{type(self).__name__}({', '.join(parts)})"


def shortened(text: str, longest: int) -> str:
    """The text, or so many characters of a longer one: its begin and its end, which tell names apart."""
    kept = longest - 3
    return text if len(text) <= longest else f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray | torch.Tensor):
        if value.size == 1 if isinstance(value, np.ndarray) else value.numel() == 1:
            return f"{value.item():.6g}"
        return f"<{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}>"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, torch.nn.Module):
        return f"<{type(value).__name__}>"
    if isinstance(value, str) and len(value) > _LONGEST:
        return repr(f"{value[:_LONGEST]}...")
    text = re.sub(r"\s+", " ", repr(value))
    if isinstance(value, Mapping) and len(text) > _LONGEST:
        return f"<{len(value)} entries>"
    if isinstance(value, list | tuple) and len(text) > _LONGEST:
        return f"<{len(value)} {type(value[0]).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
