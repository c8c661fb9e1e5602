"""The loss of one batch against one target, in place of BCEWithLogitsLoss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, IMPLS, name_of, need
from test_losses import LOSS_DTYPE, TOLERANCE, logits

import fastgan


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("label", (None, 1.0, 0.0, 0.9, 0.25))
@pytest.mark.parametrize("is_real", (True, False))
def test_adversarial_loss_is_bce_on_a_constant_target(
    is_real: bool, label: float | None, dtype: torch.dtype, impl: str, device: str
) -> None:
    need(impl, "loss", device, dtype)
    x = logits(37, dtype, device=device).requires_grad_()
    wide = x.detach().double().cpu().requires_grad_()
    target = torch.full_like(wide, float(is_real) if label is None else label)
    for reduction in ("mean", "sum"):
        loss = fastgan.losses.adversarial_loss(x, is_real, label=label, reduction=reduction, impl=impl)
        want = F.binary_cross_entropy_with_logits(wide, target, reduction=reduction)
        assert loss.dtype == LOSS_DTYPE.get(dtype, torch.float32)
        torch.testing.assert_close(loss.double().cpu(), want, rtol=TOLERANCE[dtype], atol=0.0)
        derivative = torch.autograd.grad(want, wide)[0]  # torch's sigmoid(l) - target is off by an eps of 1
        eps = torch.finfo(dtype).eps
        atol = 2.0**-52 if dtype == torch.float64 else 1e-6
        torch.testing.assert_close(torch.autograd.grad(loss, x)[0].cpu(), derivative.to(dtype), rtol=4 * eps, atol=atol)
    terms = fastgan.losses.adversarial_loss(x, is_real, label=label, reduction="none", impl=impl)
    want = F.binary_cross_entropy_with_logits(wide, target, reduction="none")
    torch.testing.assert_close(terms.cpu(), want.to(dtype))


@pytest.mark.parametrize("reduction", ("mean", "sum", "none"))
def test_the_module_takes_the_place_of_bce_with_logits(reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, plain = fastgan.nn.AdversarialLoss(reduction), torch.nn.BCEWithLogitsLoss(reduction=reduction)
    fused: list[object] = []
    run = fastgan.losses.adversarial_loss
    monkeypatch.setattr(fastgan.losses, "adversarial_loss", lambda *a, **k: fused.append(k) or run(*a, **k))
    x = logits(12).view(4, 3).requires_grad_()
    ones = torch.ones(4, 3)
    cases = [(ones, 1), (0 * ones, 1), (0.9 * ones, 1), (ones.double(), 1), (ones.triu(), 0), (2 * ones, 0)]
    for target, calls in cases:
        fused.clear()
        got, want = mine(x, target), plain(x, target)
        assert len(fused) == calls
        torch.testing.assert_close(got, want.to(got.dtype))
        grads = [torch.autograd.grad(loss.sum(), x)[0] for loss in (got, want)]
        torch.testing.assert_close(*grads)
    for target in (True, False, 0.9, 1):
        torch.testing.assert_close(mine(x, target), plain(x, float(target) * ones))
    learned = torch.full((4, 3), 0.5, requires_grad=True)
    mine(x, learned).sum().backward()
    assert learned.grad is not None
    assert repr(mine) == f"AdversarialLoss(reduction={reduction!r})"


def test_what_adversarial_losses_refuse() -> None:
    x = torch.zeros(4, 1)
    loss, module = fastgan.losses.adversarial_loss, fastgan.nn.AdversarialLoss()
    for error, message, call in (
        (TypeError, "adversarial_loss: is_real must be a bool, got Tensor", lambda: loss(x, torch.ones(4, 1))),
        (ValueError, r"adversarial_loss: label must lie in \[0, 1\], got 2", lambda: loss(x, label=2)),
        (ValueError, "adversarial_loss: reduction must be one of mean, sum, none", lambda: loss(x, reduction="max")),
        (ValueError, "adversarial_loss: logits must not be empty under 'mean'", lambda: loss(x[:0])),
        (ValueError, r"adversarial_loss: label must lie in \[0, 1\], got -1", lambda: module(x, -1.0)),
        (TypeError, "AdversarialLoss: target must be a tensor, .* got 'real'", lambda: module(x, "real")),
        (TypeError, "AdversarialLoss: target must be a tensor, .* got None", lambda: module(x, None)),
        (ValueError, "Target size .* must be the same as input size", lambda: module(x, torch.ones(4))),
        (ValueError, "AdversarialLoss: reduction must be one of", lambda: fastgan.nn.AdversarialLoss("max")),
    ):
        with pytest.raises(error, match=message):
            call()
