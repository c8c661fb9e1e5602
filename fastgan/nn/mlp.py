"""A whole multilayer perceptron, run as one call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fastgan import ops
from fastgan._errors import Invalid
from fastgan._options import Impl
from fastgan.nn.activation import Activation, activation_module, resolve
from fastgan.nn.checks import check_size
from fastgan.nn.dropout import Dropout
from fastgan.nn.sequential import Sequential


class MLP(Sequential):
    """The multilayer perceptron that G and D are in the paper: one native call forward, one backward.

    Equivalent to `nn.Sequential(nn.Linear(sizes[0], sizes[1]), activation, nn.Dropout(dropout), ...,
    nn.Linear(...), output_activation)`; those are its children, so state_dicts load both ways. An activation of None
    and a dropout of 0 have no child. The output layer has no dropout.

    Args:
        sizes: widths from the input to the output, at least two.
        activation: of the hidden layers, as for `Linear`; "relu" by default.
        output_activation: of the last layer; None for logits.
        negative_slope: of "leaky_relu"; 0.2 is the GAN literature's, torch's default is 0.01.
        dropout: probability of a zero after each hidden activation.
        input_dropout: probability of a zero in the input (the original code's discriminator: 0.2 here, 0.5
            after).
        bias: whether the layers learn additive biases.
        device: of the parameters.
        dtype: of the parameters.
        impl: "auto", "native" or "reference".

    Raises:
        ValueError: fewer than two sizes or one below 1, a probability outside [0, 1], an unknown activation
            or impl, an input of the wrong width.

    Source: Goodfellow et al. (2014), sections 3 and 5.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: Activation = "relu",
        output_activation: Activation = None,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        impl: Impl = "auto",
    ) -> None:
        if len(sizes) < 2:
            raise Invalid("MLP").value("sizes", f"must hold at least two widths, got {list(sizes)}")
        for i, size in enumerate(sizes):
            check_size("MLP", f"sizes[{i}]", size)
        hidden = resolve("MLP", "activation", activation, negative_slope)
        output = resolve("MLP", "output_activation", output_activation, negative_slope)
        ops.check_probability("MLP", "dropout", dropout)
        ops.check_probability("MLP", "input_dropout", input_dropout)
        children: list[nn.Module] = [Dropout(input_dropout)] if input_dropout else []
        for i in range(len(sizes) - 1):
            last = i == len(sizes) - 2
            children.append(nn.Linear(sizes[i], sizes[i + 1], bias=bias, device=device, dtype=dtype))
            if (output if last else hidden)[0] != "none":
                children.append(activation_module(*(output if last else hidden)))
            if dropout and not last:
                children.append(Dropout(dropout))
        super().__init__(*children, impl=impl)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):  # torch would call this class with the children of the slice
            return Sequential(OrderedDict(list(self._modules.items())[index]), impl=self.impl)
        return super().__getitem__(index)
