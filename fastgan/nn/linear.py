"""A linear layer with its activation inside."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan import ops
from fastgan._options import Impl
from fastgan.nn.activation import Activation, resolve
from fastgan.nn.checks import check_size


class Linear(torch.nn.Linear):
    """One layer of the multilayer perceptrons G and D: an affine map with its activation, in one call.

    Equivalent to `activation(torch.nn.functional.linear(input, weight, bias))`. It is a `torch.nn.Linear`:
    same parameters, same initialisation, same state_dict.

    Args:
        in_features: width of the input.
        out_features: number of units.
        activation: None or one of "none", "relu", "leaky_relu", "tanh", "sigmoid", "elu", "softplus", "gelu";
            or the torch module that means the same, e.g. `nn.LeakyReLU(0.1)` (whose slope then counts) or
            `nn.Tanh`.
        negative_slope: of "leaky_relu"; 0.2 is the GAN literature's, torch's default is 0.01.
        bias: whether the layer learns an additive bias.
        device: of the parameters.
        dtype: of the parameters.
        impl: "auto", "native" or "reference".

    Raises:
        ValueError: an unknown activation or impl, a size below 1, an input of the wrong width.

    Source: Goodfellow et al. (2014), section 5.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activation: Activation = None,
        negative_slope: float = 0.2,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        impl: Impl = "auto",
    ) -> None:
        check_size("Linear", "in_features", in_features)
        check_size("Linear", "out_features", out_features)
        name, negative_slope = resolve("Linear", "activation", activation, negative_slope)
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.spec = ops.LayerSpec(activation=name, negative_slope=negative_slope)
        self.impl = ops.check_impl("Linear", impl)

    @property
    def activation(self) -> str:
        return self.spec.activation

    @property
    def negative_slope(self) -> float:
        return self.spec.negative_slope

    def forward(self, input: Tensor) -> Tensor:
        """input (..., in_features) -> (..., out_features)."""
        return ops.mlp(input, [self.weight], [self.bias], [self.spec], impl=self.impl, caller="Linear")

    def extra_repr(self) -> str:
        negative_slope = f", negative_slope={self.negative_slope:g}" if self.activation == "leaky_relu" else ""
        return f"{super().extra_repr()}, activation={self.activation!r}{negative_slope}"
