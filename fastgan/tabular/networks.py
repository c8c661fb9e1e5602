"""The two networks for tables, and what turns the outputs of G into a row.

Source: Xu et al. (2019), section 4.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .encoded import Head


class Residual(nn.Module):
    """Appends features to the input: a linear map, normalised over the batch, rectified.

    Equivalent to `torch.cat([relu(batch_norm(linear(input))), input], 1)`.

    Args:
        in_features: width of the input.
        features: how many are appended; the output is wider by them.
    """

    def __init__(self, in_features: int, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, features)
        self.norm = nn.BatchNorm1d(features)

    def forward(self, input: Tensor) -> Tensor:
        """input (m, in_features) -> (m, features + in_features)."""
        return torch.cat([torch.relu(self.norm(self.linear(input))), input], 1)


class TableGenerator(nn.Module):
    """G(z, c): residual blocks, and a linear map to the outputs of all heads, before their activations.

    Args:
        in_features: of noise and condition together.
        hidden: features that each block appends.
        out_features: of a row.
    """

    def __init__(self, in_features: int, hidden: Sequence[int], out_features: int) -> None:
        super().__init__()
        blocks, width = [], in_features
        for features in hidden:
            blocks.append(Residual(width, features))
            width += features
        self.blocks = nn.Sequential(*blocks)
        self.out = nn.Linear(width, out_features)

    def forward(self, input: Tensor) -> Tensor:
        """input (m, in_features) -> logits of the heads (m, out_features)."""
        return self.out(self.blocks(input))


class TableDiscriminator(nn.Module):
    """D of packs of rows: leaky rectifiers with dropout, one logit a pack.

    Args:
        in_features: of a pack: its rows and their conditions.
        hidden: widths of the layers.
        dropout: probability that a unit is left out.
        negative_slope: of the rectifiers.
    """

    def __init__(
        self, in_features: int, hidden: Sequence[int], *, dropout: float = 0.5, negative_slope: float = 0.2
    ) -> None:
        super().__init__()
        widths = [in_features, *hidden]
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.layers: Sequence[nn.Linear] = nn.ModuleList(nn.Linear(before, after) for before, after in pairs)  # type: ignore[assignment]
        self.out = nn.Linear(widths[-1], 1)
        self.dropout, self.negative_slope = dropout, negative_slope

    def forward(self, input: Tensor, uniform: Sequence[Tensor]) -> Tensor:
        """input (packs, in_features) -> logits (packs,).

        Args:
            input: rows and conditions of a pack, one after another.
            uniform: for each layer (packs, width) numbers in (0, 1): a unit below `dropout` is left out.
        """
        return self._forward(input, uniform)[0]

    def with_gradient(
        self, input: Tensor, uniform: Sequence[Tensor], last: int, features: int
    ) -> tuple[Tensor, Tensor]:
        """The logits, and the gradient of those of the last packs with respect to the first features of these.

        The network is linear between its kinks, so that the gradient is a product of its weights: written out, its own
        gradient needs no second pass through the graph.

        Args:
            input, uniform: as for `forward`.
            last: packs whose gradient is wanted.
            features: of the input with respect to which it is taken.

        Returns:
            Tensors (packs,) and (last, features), both differentiable with respect to the weights.
        """
        logits, derivatives = self._forward(input, uniform)
        gradient = self.out.weight.expand(last, -1)
        for layer, derivative in reversed(list(zip(self.layers, derivatives, strict=True))):
            weight = layer.weight[:, :features] if layer is self.layers[0] else layer.weight
            gradient = (gradient * derivative[-last:]) @ weight
        return logits, gradient if len(self.layers) else gradient[:, :features]

    def _forward(self, input: Tensor, uniform: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        x, derivatives = input, []
        for layer, numbers in zip(self.layers, uniform, strict=True):
            sums = layer(x)
            with torch.no_grad():  # of the rectifier and the dropout behind it
                derivative = torch.full_like(sums, self.negative_slope).masked_fill_(sums > 0, 1.0)
                if self.dropout:
                    derivative *= (numbers >= self.dropout).to(derivative.dtype).mul_(1 / (1 - self.dropout))
            x = sums * derivative
            derivatives.append(derivative)
        return self.out(x)[:, 0], derivatives


class _Heads(torch.autograd.Function):
    """tanh of the scalars and softmax of the groups, in one node of the graph."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, layout: Layout, temperature: float) -> Tensor:
        out = torch.empty_like(logits)
        for start, stop in layout.softmax:
            torch.softmax(logits[:, start:stop] / temperature, 1, out=out[:, start:stop])
        out[:, layout.scalars] = torch.tanh(logits[:, layout.scalars])
        ctx.save_for_backward(out)
        ctx.layout, ctx.temperature = layout, temperature
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,), (out,), layout = grads, ctx.saved_tensors, ctx.layout
        weighted = grad * out
        # The sum over a group, at each of its outputs: the groups are few and narrow, a product with zeros is cheap.
        for start, stop in layout.softmax:
            part = weighted[:, start:stop]
            part.sub_(out[:, start:stop] * part.sum(1, keepdim=True)).div_(ctx.temperature)
        scalars = layout.scalars
        weighted[:, scalars] = grad[:, scalars] * (1 - out[:, scalars].square())
        return weighted, None, None


class Layout:
    """Where the heads of a row are.

    Args:
        heads: of a row, in order.
        conditions: those of the softmax heads that a condition can name.
        device: of the networks.
    """

    def __init__(self, heads: Sequence[Head], conditions: Sequence[Head], device: torch.device | str = "cpu") -> None:
        self.softmax = [(head.start, head.stop) for head in heads if head.kind == "softmax"]
        tanh = [head.start for head in heads if head.kind == "tanh"]
        self.scalars = torch.tensor(tanh, dtype=torch.int64, device=device)
        width = heads[-1].stop
        self.starts = torch.tensor([head.start for head in conditions], dtype=torch.int64, device=device)
        self.inside = torch.zeros(len(conditions), width, dtype=torch.bool, device=device)
        for row, head in zip(self.inside, conditions, strict=True):
            row[head.start : head.stop] = True

    def activate(self, logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
        """Rows (m, width): tanh of the scalars, Gumbel-softmax of the groups.

        Equivalent to `torch.tanh(logits)` and `torch.softmax((logits + gumbel) / temperature, 1)`, head by head, with
        `gumbel = -log(-log(uniform))`. uniform: (m, width) numbers in (0, 1); those of scalars are not used.

        Source: Jang, Gu, Poole (2017); Maddison, Mnih, Teh (2017).
        """
        noise = -torch.log(-torch.log(uniform))
        noise[:, self.scalars] = 0.0
        return _Heads.apply(logits + noise, self, temperature)

    def cross_entropy(self, logits: Tensor, column: Tensor, code: Tensor) -> Tensor:
        """The mean of -log p(label asked for), of the heads that the conditions name.

        Args:
            logits: of all heads, (m, width).
            column, code: which head of `conditions`, and which label of it, (m,) int64.

        Returns:
            Scalar Tensor.
        """
        own = logits.masked_fill(~self.inside[column], -math.inf)
        wanted = logits.gather(1, (self.starts[column] + code)[:, None])[:, 0]
        return (torch.logsumexp(own, 1) - wanted).mean()
