"""Minibatch discrimination: features of an example that tell how close the others of its batch are."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastgan._errors import Invalid
from fastgan.nn.checks import check_size


class MinibatchDiscrimination(nn.Module):
    """Appends to each example its similarities to the other examples of its batch, so that D sees a collapse of G.

    Equivalent to `torch.cat([x, o], 1)` with `M = (x @ T).view(m, features, kernel)` and
    `o[i, b] = sum over j of exp(-|M[i, b] - M[j, b]|_1)`. The sum includes j = i: a feature lies between 1 and the m of
    a batch of equal examples. Its gradient there is 0, as the gradient of |.| at 0 is taken as 0: equal examples get
    no gradient, for any weights.

    D must see a batch that is all real or all fake, as training does; its logits then depend on the batch's size, in
    eval mode too. Takes memory for m * m * features * kernel numbers.

    Args:
        in_features: width of the input.
        features: how many are appended.
        kernel: length of the vectors that are compared for each.
        device, dtype: of the parameters.

    Attributes:
        weight: T, (in_features, features * kernel), N(0, 1 / in_features) at first.

    Raises:
        ValueError: a size below 1, an input of another width.

    Source: Salimans et al. (2016), section 3.2.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        kernel: int = 5,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = check_size("MinibatchDiscrimination", "in_features", in_features)
        self.features = check_size("MinibatchDiscrimination", "features", features)
        self.kernel = check_size("MinibatchDiscrimination", "kernel", kernel)
        self.weight = nn.Parameter(torch.empty(in_features, features * kernel, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """N(0, 1 / in_features): for inputs of order 1 distances are of order `kernel`, where exp still has a usable
        gradient."""
        nn.init.normal_(self.weight, 0.0, 1 / math.sqrt(self.in_features))

    def forward(self, input: Tensor) -> Tensor:
        """input (m, in_features) -> (m, in_features + features)."""
        if input.ndim != 2 or input.shape[1] != self.in_features:
            raise Invalid("MinibatchDiscrimination").value(
                "input", f"must have shape (m, {self.in_features}), got {tuple(input.shape)}"
            )
        compared = (input @ self.weight).view(len(input), self.features, self.kernel)
        distance = (compared[:, None] - compared).abs().sum(3)  # (m, m, features)
        return torch.cat([input, torch.exp(-distance).sum(1)], 1)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, features={self.features}, kernel={self.kernel}"
