"""Random uses of the drop-ins against plain PyTorch: values, gradients and their gradients, in any layout and dtype."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from random_drop_ins import Use, random_use
from torch import Tensor

from fastgan import _backend, _kernels

QUICK, MANY, EACH = range(250), range(250, 10_250), 1000
# Of the largest element. Values of halves are rounded after each layer, those of plain PyTorch at other places.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def results(function: object, use: Use, second: bool) -> list[Tensor | None]:
    """The value, the gradients that are wanted, and with `second` the gradients of a number made of these."""
    inputs = [x.detach().requires_grad_(wanted) for x, wanted in zip(use.inputs, use.wanted, strict=True)]
    value = function(*inputs)  # type: ignore[operator]
    found: list[Tensor | None] = [value]
    leaves = [x for x in inputs if x.requires_grad]
    if not leaves or not value.requires_grad:
        return found
    weights = torch.linspace(0.5, 1.5, value.numel(), dtype=torch.float64).to(value.dtype).view(value.shape)
    first = torch.autograd.grad((value * weights).sum(), leaves, create_graph=second, allow_unused=True)
    found += first
    if second:
        total = sum(((g.double() * (1 + g.double())).sum() for g in first if g is not None), torch.zeros(()))
        again = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else [None] * len(leaves)
        found += again
    return found


def differ(number: int) -> str | None:
    """What differs from plain PyTorch; None where nothing does."""
    use, dtype = random_use(number)
    second = use.smooth and dtype in (torch.float64, torch.float32) and number % 2 == 0
    found, plain = results(use.drop_in, use, second), results(use.plain, use, second)
    if len(found) != len(plain):
        return f"{use.text}: {len(found)} results for {len(plain)}"
    for i, (a, b) in enumerate(zip(found, plain, strict=True)):
        if a is None or b is None:  # unused: as good as zero
            if (a is not None and a.any()) or (b is not None and b.any()):
                return f"{use.text}, {dtype}: result {i} is None on one side only"
            continue
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{use.text}, {dtype}: result {i} is {a.dtype} {tuple(a.shape)} for {b.dtype} {tuple(b.shape)}"
        if a.numel():
            apart = distance(a, b)
            if not apart <= TOLERANCE[dtype] and not apart <= rounding(use, second, plain)[i]:
                return f"{use.text}, {dtype}: result {i} differs by {apart:.1e}"
    return None


def distance(a: Tensor, b: Tensor) -> float:
    a, b = a.detach(), b.detach()
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-3))


def rounding(use: Use, second: bool, plain: list[Tensor | None]) -> list[float]:
    """Thirty times the error of plain PyTorch itself, against float64: large where numbers cancel."""
    wide = Use(use.text, use.drop_in, use.plain, [x.double() for x in use.inputs], use.wanted, use.smooth)
    truth = results(use.plain, wide, second)
    return [0.0 if a is None or b is None else 30 * distance(a, b) for a, b in zip(plain, truth, strict=True)]


@pytest.mark.parametrize("start", range(QUICK.start, QUICK.stop, 50))
def test_random_uses_are_those_of_plain_torch(start: int) -> None:
    failed = {number: found for number in range(start, start + 50) if (found := differ(number)) is not None}
    assert not failed, failed


@pytest.mark.slow
@pytest.mark.parametrize("start", MANY[::EACH])
def test_many_random_uses(start: int) -> None:
    failed = {number: found for number in range(start, start + EACH) if (found := differ(number)) is not None}
    assert not failed, failed


@pytest.mark.skipif(_backend.native is None, reason="there is no native core")
def test_the_uses_reach_the_native_core(monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[str, int] = {}
    for name in ("mlp_forward", "mlp_backward", "dropout", "pair_loss", "pointwise"):
        usual = vars(_kernels)[name]

        def spy(*arguments: Any, name: str = name, usual: Any = usual, **options: Any) -> Any:
            called[name] = called.get(name, 0) + 1
            return usual(*arguments, **options)

        monkeypatch.setattr(_kernels, name, spy)
    for number in range(100):
        differ(number)
    assert set(called) == {"mlp_forward", "mlp_backward", "dropout", "pair_loss", "pointwise"}
    assert called["mlp_forward"] > 30


def test_a_fault_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a value off by a thousandth the same comparison fails."""
    uses = [random_use(number) for number in QUICK]
    faulty, dtype = next((u, t) for u, t in uses if t is torch.float32 and u.inputs[0].numel() > 3)
    monkeypatch.setitem(globals(), "random_use", lambda _: (faulty, dtype))
    assert differ(0) is None
    right = faulty.drop_in
    faulty.drop_in = lambda *x: right(*x) * 1.001
    assert differ(0) is not None
