"""The output layer of a generator of rows whose columns are of several kinds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastgan import _options, ops, random, reference
from fastgan._errors import Invalid, check_choice
from fastgan._options import HeadName, Impl
from fastgan.nn.checks import check_size
from fastgan.random import Purpose

invalid = Invalid("Heads")

HEADS = _options.names(HeadName)


class Heads(nn.Module):
    """Mixed activation functions for a row of scalars and categories: tanh, softmax or Gumbel-softmax, group by group.

    Equivalent to `torch.cat` of, for each group of neighbouring features x: x itself ("none"), `torch.tanh(x)`
    ("tanh", of each), `torch.softmax(x, -1)` ("softmax"), or `torch.softmax((x + g) / tau, -1)` with g from the Gumbel
    distribution ("gumbel_softmax"). Infinities give their limits: infinite inputs of a softmax get equal parts of 1.

    The noise is a function of a seed that each call draws, like a mask of `fastgan.nn.Dropout`, in train and in eval
    mode: the index of the largest is then distributed as `torch.softmax(x, -1)`. `GAN.sample` draws the same noise for
    the same sample. As the last layer of a generator it runs in the CPU engine and in the CUDA-graph engine.

    Args:
        groups: of features, in order: (kind, width) each.
        tau: temperature of the Gumbel-softmax; a smaller one gives samples nearer to one-hot vectors.
        impl: of the noise: "auto", "native" or "reference".

    Raises:
        ValueError: no groups, an unknown kind, a width below 1, a tau that is not positive and finite, an input of
            another width.

    Source: Xu et al. (2019), "Modeling Tabular Data using Conditional GAN", section 4.4 (there tau is 0.2);
        Jang, Gu, Poole (2017); Maddison, Mnih, Teh (2017).
    """

    columns_of_softmax: Tensor
    columns_of_tanh: Tensor
    group: Tensor
    cold: Tensor
    noisy: Tensor

    def __init__(self, groups: Sequence[tuple[HeadName, int]], *, tau: float = 0.2, impl: Impl = "auto") -> None:
        super().__init__()
        self.groups = tuple((kind, check_size("Heads", "a group's width", width)) for kind, width in groups)
        if not self.groups:
            raise invalid.value("groups", "must have at least one group, got none")
        for kind, _ in self.groups:
            check_choice("Heads", "a group's kind", kind, HEADS)
        invalid.check_number("tau", tau)
        if not 0.0 < tau < math.inf:
            raise invalid.value("tau", f"must be positive and finite, got {tau!r}")
        self.tau, self.impl = float(tau), ops.check_impl("Heads", impl)
        self.width = sum(width for _, width in self.groups)
        kinds = [kind for kind, width in self.groups for _ in range(width)]
        numbers = [number for number, (_, width) in enumerate(self.groups) for _ in range(width)]
        softmax = [i for i, kind in enumerate(kinds) if kind in ("softmax", "gumbel_softmax")]
        own = {number: i for i, number in enumerate(dict.fromkeys(numbers[i] for i in softmax))}
        self._softmaxes = len(own)
        for name, value in (
            ("columns_of_softmax", torch.tensor(softmax, dtype=torch.int64)),
            ("columns_of_tanh", torch.tensor([i for i, kind in enumerate(kinds) if kind == "tanh"], dtype=torch.int64)),
            ("group", torch.tensor([own[numbers[i]] for i in softmax], dtype=torch.int64)),
            ("cold", torch.tensor([kinds[i] == "gumbel_softmax" for i in softmax], dtype=torch.bool)),
            ("noisy", torch.tensor([kind == "gumbel_softmax" for kind in kinds], dtype=torch.bool)),
        ):
            self.register_buffer(name, value, persistent=False)

    @property
    def draws(self) -> bool:
        """Whether a call draws noise."""
        return any(kind == "gumbel_softmax" for kind, _ in self.groups)

    def forward(self, input: Tensor) -> Tensor:
        """input (..., width) -> the same shape."""
        ops.check_tensor("Heads", "input", input)
        if input.shape[-1:] != (self.width,):
            raise invalid.value("input", f"must have {self.width} features, got shape {tuple(input.shape)}")
        x = input + self._gumbel(input) if self.draws else input
        columns = self.columns_of_softmax
        if len(columns):
            shares = reference.softmax_of_groups(x[..., columns], self.group, self._softmaxes, self.cold, self.tau)
            x = x.index_copy(-1, columns, shares)
        if len(self.columns_of_tanh):
            x = x.index_copy(-1, self.columns_of_tanh, torch.tanh(input[..., self.columns_of_tanh]))
        return x

    def _gumbel(self, x: Tensor) -> Tensor:
        """Noise for the groups that have it, else 0; a random block of four words never straddles two rows."""
        rows, padded = math.prod(x.shape[:-1]), -(-self.width // 4) * 4
        uniform = random.uniform(
            (rows, padded),
            seed=int(random.next_dropout_seed()),
            purpose=Purpose.GUMBEL,
            dtype=x.dtype if x.dtype == torch.float64 else torch.float32,
            device=x.device,
            impl=self.impl,
        )
        noise = -torch.log(-torch.log(uniform[:, : self.width]))
        return torch.where(self.noisy, noise, 0.0).to(x.dtype).reshape(x.shape)

    def extra_repr(self) -> str:
        groups = ", ".join(f"{kind} {width}" for kind, width in self.groups)
        return f"{groups}, tau={self.tau:g}" if self.draws else groups
