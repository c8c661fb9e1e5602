"""Random uses of the drop-in layers, fused models, dropout and losses, each beside plain PyTorch."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastgan
from fastgan import reference

DTYPES = (torch.float64, torch.float64, torch.float32, torch.float16, torch.bfloat16)
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x, "relu": F.relu, "leaky_relu": lambda x: F.leaky_relu(x, 0.2), "tanh": torch.tanh,
    "sigmoid": torch.sigmoid, "elu": F.elu, "softplus": F.softplus, "gelu": F.gelu,
}  # fmt: skip
MODULES = (nn.ReLU, lambda: nn.LeakyReLU(0.1), nn.Tanh, nn.Sigmoid, nn.ELU, nn.Softplus, nn.GELU, nn.Identity)


@dataclass
class Use:
    """What is called, plain PyTorch for it, and the tensors that both are given; gradients are those of `wanted`."""

    text: str
    drop_in: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    inputs: list[Tensor]
    wanted: list[bool]
    smooth: bool  # whether a second derivative may be compared


class Maker:
    def __init__(self, number: int) -> None:
        self.r = random.Random(f"drop-in {number}")
        torch.manual_seed(number)

    def maybe(self, probability: float) -> bool:
        return self.r.random() < probability

    def tensor(self, *shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
        """Normal numbers in memory of one of many layouts."""
        kind = self.r.choice(["plain", "plain", "plain", "transposed", "strided", "sliced", "expanded", "offset"])
        make = lambda *size: scale * torch.randn(size, dtype=torch.float64)  # noqa: E731
        if kind == "transposed" and len(shape) > 1:
            return make(*shape[:-2], shape[-1], shape[-2]).to(dtype).transpose(-1, -2)
        if kind == "strided" and shape:
            return make(*shape[:-1], 2 * shape[-1]).to(dtype)[..., ::2]
        if kind == "sliced" and shape:
            return make(shape[0] + 3, *shape[1:]).to(dtype)[2 : 2 + shape[0]]
        if kind == "expanded" and len(shape) > 1:
            return make(1, *shape[1:]).to(dtype).expand(*shape)
        if kind == "offset":
            size = torch.Size(shape).numel()
            return make(size + 1).to(dtype)[1:].view(shape)
        return make(*shape).to(dtype)

    def leading(self) -> tuple[int, ...]:
        return self.r.choice([(0,), (1,), (2,), (5,), (17,), (33,), (), (3, 4), (1, 1, 7), (2, 0, 3), (70,)])

    # ------------------------------------------------------------ uses

    def linear(self, dtype: torch.dtype) -> Use:
        name, fan_in, units = self.r.choice(list(ACTIVATIONS)), self.width(), self.width()
        layer = fastgan.nn.Linear(fan_in, units, activation=name, bias=self.maybe(0.7)).to(dtype)
        plain = lambda x, w, b=None: ACTIVATIONS[name](F.linear(x, w, b))  # noqa: E731
        return self.layer(f"Linear({fan_in}, {units}, {name})", layer, plain, fan_in, dtype, name)

    def maxout(self, dtype: torch.dtype) -> Use:
        fan_in, units, pieces = self.width(), self.width(), self.r.randint(1, 5)
        layer = fastgan.nn.Maxout(fan_in, units, pieces, bias=self.maybe(0.7)).to(dtype)

        def plain(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
            return F.linear(x, w, b).unflatten(-1, (units, pieces)).max(-1).values

        return self.layer(f"Maxout({fan_in}, {units}, {pieces})", layer, plain, fan_in, dtype, "relu")

    def layer(self, text: str, layer: Any, plain: Any, fan_in: int, dtype: torch.dtype, name: str) -> Use:
        x = self.tensor(*self.leading(), fan_in, dtype=dtype)
        parameters = [p.detach() for p in (layer.weight, layer.bias) if p is not None]

        def drop_in(x: Tensor, *given: Tensor) -> Tensor:
            return torch.func.functional_call(layer, dict(zip(("weight", "bias"), given, strict=False)), (x,))

        return Use(text, drop_in, plain, [x, *parameters], self.flags(1 + len(parameters)), name not in ("relu",))

    def fused(self, dtype: torch.dtype) -> Use:
        """A Sequential of torch's layers through fuse(), or an MLP, beside a copy that stays as it is."""
        widths = [self.width() for _ in range(self.r.randint(2, 5))]
        if self.maybe(0.3):
            name = self.r.choice(list(ACTIVATIONS)[1:])
            model: nn.Module = fastgan.nn.MLP(widths, activation=name, bias=self.maybe(0.8))
            other: nn.Module = nn.Sequential(*copy.deepcopy(list(model.children())))
        else:
            modules: list[nn.Module] = []
            for a, b in zip(widths, widths[1:], strict=False):
                modules.append(nn.Linear(a, b, bias=self.maybe(0.8)))
                if self.maybe(0.7):
                    modules.append(self.r.choice(MODULES)())
                if self.maybe(0.2):
                    modules.append(nn.Dropout(0.5).eval())
                if self.maybe(0.1) and b > 1:  # of one number it is zero, and its gradient rounding
                    modules.append(nn.LayerNorm(b))
            if len(modules) > 2 and self.maybe(0.2):
                modules = [nn.Sequential(*modules[:2]), *modules[2:]]
            other = nn.Sequential(*modules)
            model = fastgan.fuse(copy.deepcopy(other))
        model, other = model.to(dtype), other.to(dtype)
        if self.maybe(0.3):
            model.eval(), other.eval()
        names = [name for name, _ in model.named_parameters()]
        given = [p.detach() for p in other.parameters()]

        def call(module: nn.Module) -> Callable[..., Tensor]:
            return lambda x, *p: torch.func.functional_call(module, dict(zip(names, p, strict=True)), (x,))

        x = self.tensor(*self.leading(), widths[0], dtype=dtype)
        text = f"{'MLP' if isinstance(model, fastgan.nn.MLP) else 'fuse'} {widths} {list(map(type, other.modules()))}"
        return Use(text, call(model), call(other), [x, *given], self.flags(1 + len(given)), True)

    def dropout(self, dtype: torch.dtype) -> Use:
        p = self.r.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        layer = fastgan.nn.Dropout(p)
        layer.train(self.maybe(0.8))
        seed = self.r.randrange(2**31)
        shape = (*self.leading(), *self.r.choice([(), (self.width(),)]))

        def drop_in(x: Tensor) -> Tensor:
            torch.manual_seed(seed)
            return layer(x)

        def plain(x: Tensor) -> Tensor:
            if not layer.training or p == 0.0:
                return x
            key = torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(seed))
            mask = reference.dropout(torch.ones(x.shape, dtype=torch.float64), p, key)
            return x * mask.to(x.dtype)

        return Use(f"Dropout({p}) of {shape}", drop_in, plain, [self.tensor(*shape, dtype=dtype)], self.flags(1), True)

    def loss(self, dtype: torch.dtype) -> Use:
        kind = self.r.choice(["gan", "hinge", "least_squares", "wasserstein", "relativistic"])
        reduction = self.r.choice(["mean", "sum"])
        shape = self.r.choice([(1,), (5,), (7, 1), (3, 4), (0,), (300,), ()])
        other = shape if kind == "relativistic" or self.maybe(0.5) else (11,)
        if reduction == "mean" and 0 in (*shape, *other):
            reduction = "sum"
        real_label = self.r.choice([1.0, 0.9, 0.0]) if kind in ("gan", "least_squares") else 1.0
        fake_label = self.r.choice([0.0, 0.1]) if kind in ("gan", "least_squares") else 0.0
        reduce = lambda t: (t.mean if reduction == "mean" else t.sum)()  # noqa: E731
        bce = F.binary_cross_entropy_with_logits

        def plain(a: Tensor, b: Tensor) -> Tensor:
            a, b = (t if t.dtype == torch.float64 else t.float() for t in (a, b))
            if kind == "relativistic":
                return reduce(F.softplus(b - a))
            if kind == "gan":
                return sum(
                    reduce(bce(t, torch.full_like(t, label), reduction="none"))
                    for t, label in ((a, real_label), (b, fake_label))
                )
            return {
                "hinge": lambda: reduce(F.relu(1 - a)) + reduce(F.relu(1 + b)),
                "least_squares": lambda: reduce((a - real_label) ** 2 / 2) + reduce((b - fake_label) ** 2 / 2),
                "wasserstein": lambda: reduce(-a) + reduce(b),
            }[kind]()

        def drop_in(a: Tensor, b: Tensor) -> Tensor:
            return fastgan.discriminator_loss(
                a, b, kind=kind, real_label=real_label, fake_label=fake_label, reduction=reduction
            )

        inputs = [self.tensor(*size, dtype=dtype, scale=3.0) for size in (shape, other)]
        text = f"discriminator_loss {kind} {reduction} {real_label} {fake_label} of {shape} and {other}"
        return Use(text, drop_in, plain, inputs, self.flags(2), True)

    def generator_loss(self, dtype: torch.dtype) -> Use:
        kind = self.r.choice(["non_saturating", "minimax", "mle", "hinge", "least_squares", "wasserstein"])
        reduction = self.r.choice(["mean", "sum", "none"])
        shape = self.r.choice([(1,), (5,), (7, 1), (3, 4), (300,), ()])

        def plain(x: Tensor) -> Tensor:
            wide = x if x.dtype == torch.float64 else x.float()
            terms = {
                "non_saturating": lambda: F.softplus(-wide), "minimax": lambda: -F.softplus(wide),
                "mle": lambda: -torch.exp(wide) / 2, "hinge": lambda: -wide, "wasserstein": lambda: -wide,
                "least_squares": lambda: (wide - 1) ** 2 / 2,
            }[kind]()  # fmt: skip
            return terms.to(x.dtype) if reduction == "none" else terms.mean() if reduction == "mean" else terms.sum()

        drop_in = lambda x: fastgan.generator_loss(x, kind=kind, reduction=reduction)  # noqa: E731
        text = f"generator_loss {kind} {reduction} of {shape}"
        return Use(text, drop_in, plain, [self.tensor(*shape, dtype=dtype, scale=2.0)], self.flags(1), True)

    def width(self) -> int:
        return self.r.choice([1, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 64, 130])

    def flags(self, count: int) -> list[bool]:
        return [self.maybe(0.7) for _ in range(count)]


def random_use(number: int) -> tuple[Use, torch.dtype]:
    """Use `number`; the same on every machine."""
    maker = Maker(number)
    dtype = maker.r.choice(DTYPES)
    kinds: Sequence[str] = ("linear", "maxout", "fused", "fused", "dropout", "loss", "generator_loss")
    return getattr(maker, maker.r.choice(kinds))(dtype), dtype
