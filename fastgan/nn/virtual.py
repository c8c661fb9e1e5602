"""Virtual batch normalisation: each example is normalised by a fixed reference batch and itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan._errors import Invalid
from fastgan.nn.checks import check_size

invalid = Invalid("ReferenceBatch")


class VirtualBatchNorm(nn.Module):
    """Batch normalisation whose statistics come from a reference batch, so that the examples of a batch do not affect
    each other.

    Example i is brought to mean 0 and variance 1 by the statistics of the n reference examples and itself: mean
    1/(n+1) of its own and n/(n+1) of the reference's, the variance that of all n + 1 together. Reference examples are
    normalised by the reference batch alone. For a network inside `ReferenceBatch`, which adds the reference batch.
    Train and eval mode are the same.

    Args:
        num_features: features, or channels of images.
        eps: added to the variance.
        device, dtype: of the parameters.

    Attributes:
        weight, bias: (num_features,) scale and shift, 1 and 0 at first.

    Raises:
        ValueError: num_features below 1, an eps that is not above 0, an input of another width.
        RuntimeError: called outside `ReferenceBatch`.

    Source: Salimans et al. (2016), section 3.5.
    """

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = check_size("VirtualBatchNorm", "num_features", num_features)
        Invalid("VirtualBatchNorm").check_number("eps", eps)
        if not 0.0 < eps < float("inf"):
            raise Invalid("VirtualBatchNorm").value("eps", f"must be above 0 and finite, got {eps!r}")
        self.eps = eps
        self.references = 0  # leading rows of the input that are the reference batch; ReferenceBatch says how many
        self.weight = nn.Parameter(torch.ones(num_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(num_features, device=device, dtype=dtype))

    def forward(self, input: Tensor) -> Tensor:
        """input (n + m, num_features, ...), the reference batch first -> the same shape."""
        n = self.references
        if not n:
            raise Invalid("VirtualBatchNorm")(
                RuntimeError, "must be part of a network inside fastgan.nn.ReferenceBatch"
            )
        shape = tuple(input.shape)
        if input.ndim < 2 or shape[1] != self.num_features:
            raise Invalid("VirtualBatchNorm").value("input", f"must have {self.num_features} features, got {shape}")
        x = input.flatten(2) if input.ndim > 2 else input[..., None]  # (n + m, features, positions)
        mean, variance = x.mean(2), x.var(2, correction=0)
        reference = x[:n]
        of_reference = reference.mean((0, 2)), reference.var((0, 2), correction=0)
        means = torch.cat([of_reference[0].expand(n, -1), (mean[n:] + n * of_reference[0]) / (n + 1)])
        # Of the union, from the parts' own variances and the distance of their means: mean(x^2) - mean(x)^2 would
        # cancel where the mean is large.
        between = (mean[n:] - of_reference[0]).square() * (n / (n + 1) ** 2)
        own = (variance[n:] + n * of_reference[1]) / (n + 1) + between
        scale = self.weight / torch.sqrt(torch.cat([of_reference[1].expand(n, -1), own]) + self.eps)
        return ((x - means[..., None]) * scale[..., None] + self.bias[:, None]).reshape(input.shape)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps:g}"


class ReferenceBatch(nn.Module):
    """Puts a fixed reference batch before every batch of a network, for its `VirtualBatchNorm` layers.

    Equivalent to `network(torch.cat([reference, input]))[len(reference):]`. The output of one example does not depend
    on the others of its batch. A forward pass costs that of both batches.

    Args:
        network: with at least one `VirtualBatchNorm`; all its other layers must treat rows independently.
        reference: (n, ...) inputs of the network, n at least 2: rows of the data for D, of p_z for G. Kept as a
            buffer, so that it moves and is saved with the network.

    Raises:
        TypeError: network is not a module or reference is not a floating-point tensor. ValueError: fewer than two
            reference rows, a network without `VirtualBatchNorm`.

    Source: Salimans et al. (2016), section 3.5.
    """

    reference: Tensor

    def __init__(self, network: nn.Module, reference: Tensor) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise invalid.type("network", f"must be a torch.nn.Module, got {type(network).__name__}")
        if not isinstance(reference, Tensor) or not reference.is_floating_point():
            got = reference.dtype if isinstance(reference, Tensor) else type(reference).__name__
            raise invalid.type("reference", f"must be a floating-point tensor, got {got}")
        if reference.ndim < 2 or len(reference) < 2:
            shape = tuple(reference.shape)
            raise invalid.value("reference", f"must have two rows or more, got shape {shape}")
        layers = [module for module in network.modules() if isinstance(module, VirtualBatchNorm)]
        if not layers:
            raise invalid.value("network", "must have a VirtualBatchNorm layer, got none")
        for layer in layers:
            layer.references = len(reference)
        self.network = network
        self.register_buffer("reference", reference.detach().clone())

    def forward(self, input: Tensor) -> Tensor:
        """input (m, ...) -> what the network gives for these rows."""
        output: Tensor = self.network(torch.cat([self.reference, input]))
        return output[len(self.reference) :]
