"""A layer that appends its input to its outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.nn.checks import check_size


class Residual(nn.Module):
    """A residual block of CTGAN's generator: appends the input to new features of it.

    Equivalent to `torch.cat([torch.relu(norm(linear(input))), input], 1)` with `linear` a `torch.nn.Linear` and `norm`
    a `torch.nn.BatchNorm1d`. It runs in the CPU engine and in the CUDA-graph engine.

    Args:
        in_features: width of the input.
        features: how many are new; the output is wider by them.
        device, dtype: of the parameters.

    Raises:
        TypeError, ValueError: a width that is not an int of at least 1.

    Source: Xu et al. (2019), "Modeling Tabular Data using Conditional GAN", section 4.4, where the input comes first.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = check_size("Residual", "in_features", in_features)
        self.features = check_size("Residual", "features", features)
        self.linear = nn.Linear(in_features, features, device=device, dtype=dtype)
        self.norm = nn.BatchNorm1d(features, device=device, dtype=dtype)

    def forward(self, input: Tensor) -> Tensor:
        """input (m, in_features) -> (m, features + in_features)."""
        return torch.cat([torch.relu(self.norm(self.linear(input))), input], 1)
