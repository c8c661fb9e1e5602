"""The GANs that are timed, each as plain numbers; every side builds its networks from the same list of layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

import fastgan.nn
from fastgan.models import GAN
from fastgan.random import Purpose
from fastgan.training.rows import Minibatches

ROWS = 10_000  # of the data: too many for the inner caches, like real data
NEGATIVE_SLOPE = 0.2
LEARNING_RATE, BETAS, EPS = 2e-4, (0.5, 0.999), 1e-8


class Child(NamedTuple):
    """A child of a Sequential.

    Args:
        kind: "linear", "maxout", "batch_norm" or the name of an activation.
        numbers: (inputs, outputs, bias), (inputs, units, pieces), (features,) or ().
    """

    kind: str
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class MlpSizes:
    """A multilayer perceptron.

    Args:
        sizes: widths, the input's first.
        activation: of the hidden layers; unused where pieces > 1.
        output: activation of the last layer, or None.
        pieces: affine maps of a hidden unit; above 1: maxout.
        batch_norm: whether hidden layers are normalised over the batch; they then have no bias, which would do nothing.
    """

    sizes: tuple[int, ...]
    activation: str = "relu"
    output: str | None = None
    pieces: int = 1
    batch_norm: bool = False

    def layers(self) -> list[Child]:
        """The children of an `nn.Sequential`, in order."""
        found: list[Child] = []
        *hidden, last = pairwise(self.sizes)
        for inputs, outputs in hidden:
            if self.pieces > 1:
                found.append(Child("maxout", (inputs, outputs, self.pieces)))
                continue
            found.append(Child("linear", (inputs, outputs, int(not self.batch_norm))))
            if self.batch_norm:
                found.append(Child("batch_norm", (outputs,)))
            found.append(Child(self.activation))
        found.append(Child("linear", (*last, 1)))
        return [*found, Child(self.output)] if self.output else found

    def products(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each matrix product, all pieces of a maxout unit among the outputs."""
        return [
            (numbers[0], numbers[1] * (numbers[2] if kind == "maxout" else 1))
            for kind, numbers in self.layers()
            if kind in ("linear", "maxout")
        ]

    def describe(self) -> str:
        """The widths as text, such as 2-128-128-1."""
        hidden = f" maxout {self.pieces}" if self.pieces > 1 else ""
        return "-".join(map(str, self.sizes)) + hidden + (" batch norm" if self.batch_norm else "")


class PlainMaxout(nn.Linear):
    """Maxout as users write it, with the parameters of `fastgan.nn.Maxout`."""

    def __init__(self, in_features: int, out_features: int, pieces: int) -> None:
        super().__init__(in_features, out_features * pieces)
        self.pieces = pieces

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).unflatten(-1, (-1, self.pieces)).max(-1).values


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(NEGATIVE_SLOPE),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def _modules(network: MlpSizes, maxout: type[nn.Module]) -> list[nn.Module]:
    builders: dict[str, Callable[..., nn.Module]] = {
        "linear": lambda inputs, outputs, bias: nn.Linear(inputs, outputs, bias=bool(bias)),
        "maxout": maxout,
        "batch_norm": nn.BatchNorm1d,
        **_ACTIVATIONS,
    }
    return [builders[kind](*numbers) for kind, numbers in network.layers()]


def plain_network(network: MlpSizes) -> nn.Sequential:
    """The network in plain PyTorch."""
    return nn.Sequential(*_modules(network, PlainMaxout))


def fastgan_network(network: MlpSizes) -> nn.Module:
    """The network in fastgan's layers, with the `state_dict` keys of `plain_network`."""
    return fastgan.nn.Sequential(*_modules(network, fastgan.nn.Maxout))


@dataclass(frozen=True)
class Workload:
    """One GAN and its batch size; `targets` has the speeds that it should reach.

    Args:
        name: on the command line.
        generator, discriminator: the networks.
        batch: m of Algorithm 1.
        threads: numbers of threads to measure with.
        zero_columns: how many columns of the data are always 0, as border pixels are: Adam's moments of their weights
            decay into the subnormal range after some 1,000 iterations.
        start: first timed iteration.
    """

    name: str
    generator: MlpSizes
    discriminator: MlpSizes
    batch: int
    threads: int = 1
    zero_columns: int = 0
    start: int = 0

    @property
    def latent_dim(self) -> int:
        return self.generator.sizes[0]

    @property
    def data_dim(self) -> int:
        return self.discriminator.sizes[0]

    def describe(self) -> str:
        """Sizes and batch in one line."""
        late = f", {self.zero_columns} columns always 0, from iteration {self.start:,}" if self.start else ""
        return f"G {self.generator.describe()}, D {self.discriminator.describe()}, batch {self.batch}{late}"

    def data(self, seed: int = 0) -> Tensor:
        """Random rows (ROWS, data_dim), in the range of G's output."""
        x = torch.randn(ROWS, self.data_dim, generator=torch.Generator().manual_seed(seed))
        x = x.sigmoid_() if self.generator.output == "sigmoid" else x.tanh_()
        x[:, : self.zero_columns] = 0
        return x

    def weights(self, seed: int = 0) -> dict[str, dict[str, Tensor]]:
        """First `state_dict`s of "generator" and "discriminator", the same for every side."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = {"generator": self.generator, "discriminator": self.discriminator}
            return {name: plain_network(network).state_dict() for name, network in networks.items()}

    def gan(self, seed: int = 0) -> GAN:
        """The workload's fastgan side."""
        weights = self.weights(seed)
        gan = GAN(fastgan_network(self.generator), fastgan_network(self.discriminator), latent_dim=self.latent_dim)
        gan.generator.load_state_dict(weights["generator"])
        gan.discriminator.load_state_dict(weights["discriminator"])
        return gan


@dataclass(frozen=True)
class Draws:
    """Minibatches and noise of some iterations, as `fastgan.train` draws them.

    Args:
        real: (iterations, batch, data_dim).
        noise_d: (iterations, batch, latent_dim), for D's step.
        noise_g: the same for G's.
    """

    real: Tensor
    noise_d: Tensor
    noise_g: Tensor

    def __len__(self) -> int:
        return len(self.real)


def draws(workload: Workload, data: Tensor, iterations: int, seed: int) -> Draws:
    """The minibatches and the noise of iterations 0 .. `iterations` of a run with this seed (k = 1)."""
    rows = Minibatches(data, batch_size=workload.batch, seed=seed, device=data.device, dtype=data.dtype)
    gan, steps = workload.gan(), range(iterations)

    def noise(purpose: Purpose) -> Tensor:
        return torch.stack([gan.noise(workload.batch, seed=seed, purpose=purpose, step=step) for step in steps])

    return Draws(torch.stack([rows.minibatch(step) for step in steps]), noise(Purpose.NOISE_D), noise(Purpose.NOISE_G))


def _mlp_gan(
    name: str,
    generator: tuple[int, ...],
    discriminator: tuple[int, ...],
    batch: int,
    output: str | None,
    threads: int = 1,
) -> Workload:
    return Workload(name, MlpSizes(generator, "relu", output), MlpSizes(discriminator, "leaky_relu"), batch, threads)


_TOY = (2, 128, 128, 2), (2, 128, 128, 1)
_MNIST_1200 = (100, 1200, 1200, 784), (784, 1200, 1200, 1)
WORKLOADS = {
    workload.name: workload
    for workload in (
        _mlp_gan("tiny", (1, 16, 16, 1), (1, 16, 16, 1), 32, None),
        _mlp_gan("toy-32", *_TOY, 32, None),
        _mlp_gan("toy-128", *_TOY, 128, None),
        _mlp_gan("mnist-256", (64, 256, 256, 784), (784, 256, 256, 1), 100, "sigmoid"),
        _mlp_gan("mnist-1024", (100, 128, 256, 512, 1024, 784), (784, 512, 256, 1), 64, "tanh"),
        _mlp_gan("mnist-1200", *_MNIST_1200, 100, "sigmoid"),
        _mlp_gan("wide-2048", (100, 2048, 2048, 784), (784, 2048, 2048, 1), 512, "sigmoid"),
        replace(
            _mlp_gan("mnist-late", (64, 512, 512, 784), (784, 512, 512, 1), 64, "sigmoid"),
            zero_columns=67,  # as many of MNIST's 784 are the same in all 60,000 rows
            start=5000,
        ),
        Workload(  # without dropout: libraries draw different masks, so results could not be compared
            "original",
            MlpSizes((100, 1200, 1200, 784), "relu", "sigmoid"),
            MlpSizes((784, 240, 240, 1), pieces=5),
            100,
        ),
        Workload(
            "pacgan-ring",
            MlpSizes((2, 400, 400, 400, 400, 2), "relu", batch_norm=True),
            MlpSizes((2, 200, 200, 200, 1), pieces=5),
            100,
        ),
        _mlp_gan("ring-2t", *_TOY, 256, None, threads=2),
        _mlp_gan("digits-2t", (32, 256, 256, 64), (64, 256, 256, 1), 128, "sigmoid", threads=2),
        _mlp_gan("mnist-1200-2t", *_MNIST_1200, 100, "sigmoid", threads=2),
    )
}

# On a GPU: those without thread counts, and some that would take minutes on a CPU.
CUDA_WORKLOADS = {n: workload for n, workload in WORKLOADS.items() if workload.threads == 1 and not workload.start} | {
    f"wide-{width}": _mlp_gan(f"wide-{width}", (128, *(width,) * 3), (*(width,) * 3, 1), 4096, None)
    for width in (1024, 2048, 4096)
}
