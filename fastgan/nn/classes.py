"""A discriminator that also classifies the data: semi-supervised learning with K + 1 classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan._errors import Invalid


class ClassDiscriminator(nn.Module):
    """A discriminator of K + 1 classes: the K of the data, and "fake", whose logit is held at 0.

    Equivalent to a softmax over K + 1 logits (l_1, ..., l_K, 0): the probability that x is real, of any class, is
    sigmoid(log sum exp l_k). `forward` gives that logit, so every loss of D and G works as with any discriminator.
    `fastgan.train` adds the cross-entropy of labelled rows, `supervised_loss`, to D's loss: the data are a `Dataset`
    whose unknown labels are -1.

    Args:
        features: module from samples (m, ...) to features (m, n); call it for D's learnt features.
        head: module from features to the logits of the K classes (m, K).
        supervised_weight: of the cross-entropy in D's loss.

    Raises:
        TypeError: features or head is not a module. ValueError: a weight that is negative or not finite.

    Source: Goodfellow et al. (2014), section 7, item 4; Salimans et al. (2016), section 5.
    """

    def __init__(self, features: nn.Module, head: nn.Module, *, supervised_weight: float = 1.0) -> None:
        super().__init__()
        for name, module in (("features", features), ("head", head)):
            if not isinstance(module, nn.Module):
                raise Invalid("ClassDiscriminator").type(
                    name, f"must be a torch.nn.Module, got {type(module).__name__}"
                )
        Invalid("ClassDiscriminator").check_number("supervised_weight", supervised_weight)
        if not 0.0 <= supervised_weight < float("inf"):
            raise Invalid("ClassDiscriminator").value(
                "supervised_weight", f"must be finite and at least 0, got {supervised_weight!r}"
            )
        self.features, self.head = features, head
        self.supervised_weight = supervised_weight

    def forward(self, input: Tensor) -> Tensor:
        """input (m, ...) -> the logit of "real" (m, 1)."""
        return torch.logsumexp(self.class_logits(input), 1, keepdim=True)

    def class_logits(self, input: Tensor) -> Tensor:
        """input (m, ...) -> logits of the data's classes (m, K)."""
        logits: Tensor = self.head(self.features(input))
        return logits

    def supervised_loss(self, input: Tensor, labels: Tensor) -> Tensor:
        """supervised_weight times the mean cross-entropy of labels (m,) among the K classes."""
        return self.supervised_weight * nn.functional.cross_entropy(self.class_logits(input), labels)
