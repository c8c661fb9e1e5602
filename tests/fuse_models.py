"""Models that fuse runs or leaves alone: containers of every kind, and what torch can do to a layer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import fastgan.nn as fnn


class Block(nn.Sequential):
    """A Sequential with a constructor and a method of its own, but torch's forward."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, width), nn.Tanh())
        self.width = width

    def double_width(self) -> int:
        return 2 * self.width


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Backwards(nn.Sequential):
    def __iter__(self) -> Iterator[nn.Module]:
        return iter(list(self._modules.values())[::-1])


class TorchOwn(nn.Sequential):
    """As torch.ao's fused blocks, whose conversion goes by type."""

    __module__ = "torch.ao.nn.intrinsic"


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Twin(nn.Module):
    """A model with a tree of its own: two nets used in its forward, and a head outside any Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.ReLU()), Block(6)])
        self.head = nn.Linear(6, 2)
        self.remembered = [self.nets[0]]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.remembered[0](x) + self.nets[1](x))


def shared() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 6))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU())
    model[2].weight = model[0].weight
    return model


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU())
    model[2].register_forward_hook(lambda module, args, output: output + 1)
    return model


def pruned() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh())
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    return model


def normalised(how: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(how(nn.Linear(6, 6)), nn.ReLU(), nn.Linear(6, 6), nn.Tanh())


def replaced_forward() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh())
    model[0].forward = nn.Linear(6, 6).forward  # type: ignore[method-assign]
    return model


def named() -> nn.Module:
    return nn.Sequential(
        OrderedDict(a=nn.Linear(6, 6), b=nn.LeakyReLU(0.3), inner=nn.Sequential(nn.Linear(6, 3), nn.ELU()))
    )


L = lambda: nn.Linear(6, 6)  # noqa: E731

# name -> (model, layers of each fused call in eval mode)
MODELS: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "all activations": (
        lambda: nn.Sequential(
            L(),
            nn.ReLU(),
            L(),
            nn.LeakyReLU(),
            L(),
            nn.Tanh(),
            L(),
            nn.Sigmoid(),
            L(),
            nn.ELU(),
            L(),
            nn.Softplus(),
            L(),
            nn.GELU(),
            L(),
            nn.Identity(),
            L(),
        ),
        [9],
    ),
    "inplace activations": (
        lambda: nn.Sequential(L(), nn.ReLU(inplace=True), L(), nn.LeakyReLU(0.1, inplace=True)),
        [2],
    ),
    "no bias": (lambda: nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU(), L()), [2]),
    "nonstandard activations": (
        lambda: nn.Sequential(
            L(),
            nn.ELU(0.5),
            L(),
            nn.GELU("tanh"),
            L(),
            nn.Softplus(2.0),
            L(),
            nn.Softplus(threshold=1.0),
            L(),
            nn.SiLU(),
            L(),
            L(),
        ),
        [2],
    ),
    "after dropout": (
        lambda: nn.Sequential(L(), nn.Dropout(0.5), nn.Tanh(), L(), nn.Dropout(0.1), nn.Dropout(0.2), L()),
        [2, 1],  # in eval mode, where the first dropout and the activation behind it may change places
    ),
    "activation first": (
        lambda: nn.Sequential(nn.Tanh(), nn.Tanh(), nn.Identity(), L(), nn.Tanh(), nn.Tanh()),
        [1],
    ),
    "between others": (
        lambda: nn.Sequential(nn.BatchNorm1d(6), L(), nn.ReLU(), nn.LayerNorm(6), L(), nn.ReLU(), L()),
        [1, 2],
    ),
    "convolution": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 2, 3)),
            nn.Conv2d(1, 2, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4, 3),
            nn.ReLU(),
        ),
        [1],
    ),
    "nested": (
        lambda: nn.Sequential(nn.Sequential(L(), nn.ReLU()), nn.Sequential(nn.Sequential(L(), nn.Tanh()), L())),
        [1, 1],
    ),
    "names": (named, [1, 1]),
    "module tree": (Twin, [1, 1]),
    "own Sequential class": (lambda: nn.Sequential(Block(6), Block(6)), [1, 1]),
    "own forward": (lambda: nn.Sequential(Residual(L(), nn.ReLU()), L(), nn.ReLU()), [1]),
    "torch's own kind": (lambda: nn.Sequential(TorchOwn(L(), nn.ReLU()), L(), nn.ReLU()), [1]),
    "own order": (lambda: Backwards(L(), nn.ReLU()), []),
    "subclass of Linear": (lambda: nn.Sequential(Scaled(6, 6), nn.ReLU(), L(), nn.ReLU()), [1]),
    "module twice": (shared, [4]),
    "weight twice": (tied, [2]),
    "hooks": (hooked, [1, 1]),
    "pruned": (pruned, [1]),
    "weight_norm": (lambda: normalised(parametrizations.weight_norm), [1]),
    "spectral_norm": (lambda: normalised(parametrizations.spectral_norm), [1]),
    "replaced forward": (replaced_forward, [1]),
    "lone": (lambda: nn.Linear(6, 6), []),
    "lone in a Sequential": (lambda: nn.Sequential(nn.LayerNorm(6), L(), nn.LayerNorm(6)), []),
    "empty": (nn.Sequential, []),
    "fastgan": (
        lambda: nn.Sequential(fnn.Linear(6, 6, activation="relu"), nn.Tanh(), fnn.Maxout(6, 6, 2), L()),
        [1, 2],
    ),
    "MLP": (lambda: fnn.MLP([6, 5, 2], activation="relu"), [2]),
}


def make(name: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = MODELS[name][0]().eval()
    torch.manual_seed(0)
    return model, fnn.unfuse(MODELS[name][0]().eval())


def wide() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Dropout(0.0), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
    )
