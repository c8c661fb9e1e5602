"""The adversarial loss as a module, which replaces `nn.BCEWithLogitsLoss`."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan import losses, ops
from fastgan._errors import Invalid, check_choice
from fastgan._options import Impl, Reduction


class AdversarialLoss(torch.nn.Module):
    """The loss of a batch of logits against one target, real (1) or fake (0), as a drop-in criterion.

    Equivalent to `nn.BCEWithLogitsLoss(reduction=reduction)`; on a constant target it is one call of
    `fastgan.losses.adversarial_loss`, value and gradient in one pass.

    Args:
        reduction: "mean", "sum" or "none".
        impl: "auto", "native" or "reference".

    Raises:
        ValueError: an unknown reduction or impl; a target outside [0, 1]; a target of another shape than the logits.
        TypeError: a target that is no tensor, number or bool.

    Source: Goodfellow et al. (2014), eq. 1.
    """

    def __init__(self, reduction: Reduction = "mean", *, impl: Impl = "auto") -> None:
        super().__init__()
        check_choice("AdversarialLoss", "reduction", reduction, losses.REDUCTIONS)
        self.reduction = reduction
        self.impl = ops.check_impl("AdversarialLoss", impl)

    def forward(self, input: Tensor, target: Tensor | float | bool = True) -> Tensor:
        """The loss of the logits `input` (any shape) against `target`.

        Args:
            input: logits.
            target: True or False, a number in [0, 1], or a tensor of input's shape. On the CPU its values are read:
                one that is not constant takes torch's own loss, as does one on a GPU, where reading would synchronise.
        """
        if isinstance(target, Tensor):
            label = _constant(input, target)
            if label is None:
                loss = torch.nn.functional.binary_cross_entropy_with_logits
                return loss(input, target, reduction=self.reduction)
        else:
            try:
                label = float(target)
            except (TypeError, ValueError):
                rule = f"must be a tensor, a number or a bool, got {target!r}"
                raise Invalid("AdversarialLoss").type("target", rule) from None
        return losses.adversarial_loss(input, label=label, reduction=self.reduction, impl=self.impl)

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


def _constant(logits: Tensor, target: Tensor) -> float | None:
    """The value of all elements of target; None if they differ or may not be looked at, or for torch to refuse."""
    if target.device.type != "cpu" or not ops.can_look(target) or target.requires_grad or target.numel() == 0:
        return None
    if target.shape != logits.shape or not target.is_floating_point():
        return None
    low, high = torch.aminmax(target)
    first, last = low.item(), high.item()
    return first if first == last and 0.0 <= first <= 1.0 else None
