"""An auto-encoder and a variational auto-encoder of multilayer perceptrons, as baselines for a GAN."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastgan._options import Impl
from fastgan.nn.activation import Activation
from fastgan.nn.mlp import MLP


class AutoEncoder(nn.Module):
    """An encoder to a code and a decoder back, trained to reconstruct.

    Equivalent to `decoder(encoder(x))` of two `MLP`s, the decoder with the encoder's widths reversed. With two sizes it
    is linear, and its best code is that of principal component analysis.

    Args:
        sizes: widths from the data to the code, as (64, 256, 8).
        activation: of the hidden layers.
        output_activation: of the decoder's output; None for unbounded data.
        impl: "auto", "native" or "reference".

    Raises:
        ValueError: as `MLP`.

    Source: Hinton and Salakhutdinov (2006).
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: Activation = "relu",
        output_activation: Activation = None,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        self.sizes, self.impl = tuple(sizes), impl
        self.activation, self.output_activation = activation, output_activation
        self.encoder = MLP(sizes, activation=activation, impl=impl)
        self.decoder = MLP([*reversed(sizes)], activation=activation, output_activation=output_activation, impl=impl)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of x. x: (m, data)."""
        reconstruction: Tensor = self.decoder(self.encoder(x))
        return reconstruction

    def loss(self, x: Tensor) -> Tensor:
        """Mean squared error of the reconstruction, over rows and features."""
        return (self(x) - x).square().mean()


class VAE(nn.Module):
    """A variational auto-encoder: z ~ N(0, I), x ~ N(decoder(z), sigma^2 I), with one sigma that is learned.

    Its density is that of an infinite mixture of Gaussians, known only from below: by the evidence lower bound.

    Args:
        sizes: widths from the data to the code, as (2, 128, 128, 2); the encoder gives mean and log-variance of z.
        activation, output_activation, impl: as in `AutoEncoder`.

    Raises:
        ValueError: as `MLP`.

    Source: Kingma and Welling (2014), appendix C.2.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: Activation = "relu",
        output_activation: Activation = None,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        self.sizes, self.impl = tuple(sizes), impl
        self.activation, self.output_activation = activation, output_activation
        *outer, code = sizes
        self.code = code
        self.encoder = MLP([*outer, 2 * code], activation=activation, impl=impl)
        self.decoder = MLP([*reversed(sizes)], activation=activation, output_activation=output_activation, impl=impl)
        self.log_sigma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """The evidence lower bound of each row, one draw of z for it, in nats.

        Args:
            x: (m, data).
            noise: (m, code), standard normal.
        """
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        z = mean + noise * (0.5 * log_variance).exp()
        error = (x - self.decoder(z)) * (-self.log_sigma).exp()
        log_likelihood = -0.5 * (error.square() + math.log(2 * math.pi)).sum(1) - x.shape[1] * self.log_sigma
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1)
        return log_likelihood - kl

    def loss(self, x: Tensor, noise: Tensor) -> Tensor:
        """The mean of minus the evidence lower bound."""
        return -self(x, noise).mean()
