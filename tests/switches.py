"""torch's two switches for the precision of float32 products: what a user may have set, and how torch answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

MATMUL: Any = torch.backends.cuda.matmul
MKLDNN: Any = getattr(torch.backends.mkldnn, "matmul", None)
BACKENDS: Any = torch.backends
BOTH = hasattr(MATMUL, "fp32_precision")  # torch before 2.9 has the older one alone
older = torch.set_float32_matmul_precision


def newer(value: str) -> None:
    MATMUL.fp32_precision = value


def of_all(value: str) -> None:
    """The default of the newer switch."""
    BACKENDS.fp32_precision = value


ASKS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "medium": lambda: older("medium"),
    "highest": lambda: older("highest"),
    "allow": lambda: setattr(MATMUL, "allow_tf32", True),
    "the newer": lambda: newer("tf32"),
    "the newer, exact": lambda: newer("ieee"),
    "the newer of all": lambda: of_all("tf32"),
    "the older, then the newer": lambda: (older("high"), newer("ieee")),
    "the newer, then the older": lambda: (newer("tf32"), older("highest")),
    "the newer of all, then the older": lambda: (of_all("tf32"), older("medium")),
    "the older, then the newer of all": lambda: (older("highest"), of_all("tf32")),
}


def answers() -> list[Any]:
    """What torch answers; the older switch refuses to where the newer contradicts it."""
    asked: list[Callable[[], Any]] = [
        torch.get_float32_matmul_precision,
        lambda: MATMUL.allow_tf32,
        lambda: MATMUL.fp32_precision,
        lambda: MKLDNN.fp32_precision,
        lambda: BACKENDS.fp32_precision,
    ]
    return [_answer(ask) for ask in asked]


def _answer(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except RuntimeError:
        return "contradicted"


def reset() -> None:
    """As in a new process."""
    of_all("none")
    older("highest")
    newer("none")
    MKLDNN.fp32_precision = "none"
