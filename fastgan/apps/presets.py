"""Networks and training numbers for each named data set, and a sensible choice for anyone's own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from fastgan import nn
from fastgan.data import Dataset
from fastgan.models import GAN
from fastgan.nn.activation import NAMES as ACTIVATIONS
from fastgan.options import ActivationName, Impl, PriorName
from fastgan.random import PRIORS
from fastgan.training import Adam, TrainConfig


@dataclass(frozen=True)
class Networks:
    """Two multilayer perceptrons, described by plain numbers so that a file can hold them.

    Args:
        data_dim: features of one sample.
        latent_dim: length of z.
        prior: of z: "normal", "uniform" or "spherical".
        generator_hidden: widths of G's hidden layers.
        discriminator_hidden: widths of D's hidden layers.
        generator_activation: of G's hidden layers.
        discriminator_activation: of D's hidden layers.
        output_activation: of G's output: "sigmoid" for data in [0, 1], "tanh" for [-1, 1], "none" for any.
        dropout: probability of dropping a hidden unit of D.
        classes: of a conditional model, whose networks see the label too; 0: none.

    Raises:
        ValueError: a size below 1, an unknown activation, classes below 0.
    """

    data_dim: int
    latent_dim: int = 64
    prior: PriorName = "normal"
    generator_hidden: tuple[int, ...] = (256, 256)
    discriminator_hidden: tuple[int, ...] = (256, 256)
    generator_activation: ActivationName = "relu"
    discriminator_activation: ActivationName = "leaky_relu"
    output_activation: ActivationName = "none"
    dropout: float = 0.0
    classes: int = 0

    def __post_init__(self) -> None:
        for name in ("data_dim", "latent_dim", "generator_hidden", "discriminator_hidden"):
            value = getattr(self, name)
            if isinstance(value, tuple) != name.endswith("hidden"):
                raise ValueError(f"Networks: {name} must be {'widths' if name[-1] == 'n' else 'a size'}, got {value!r}")
            for size in value if isinstance(value, tuple) else (value,):
                if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                    raise ValueError(f"Networks: {name} must be at least 1, got {size!r}")
        if self.prior not in PRIORS:
            raise ValueError(f"Networks: prior must be one of {', '.join(PRIORS)}, got {self.prior!r}")
        if not isinstance(self.dropout, int | float) or not 0.0 <= self.dropout <= 1.0:
            raise ValueError(f"Networks: dropout must lie in [0, 1], got {self.dropout!r}")
        for name in ("generator_activation", "discriminator_activation", "output_activation"):
            if (value := getattr(self, name)) not in ACTIVATIONS:
                raise ValueError(f"Networks: {name} must be one of {', '.join(ACTIVATIONS)}, got {value!r}")
        if not isinstance(self.classes, int) or isinstance(self.classes, bool) or self.classes < 0:
            raise ValueError(f"Networks: classes must be at least 0, got {self.classes!r}")

    def build(self, *, seed: int = 0, impl: Impl = "auto", pack: int = 1) -> GAN:
        """The pair, its first weights drawn from `seed`; torch's own generator stays as it was.

        D sees `pack` samples side by side, each with its label where there are classes.

        Raises:
            ValueError: an activation, a prior or a probability that breaks its rule.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            generator = nn.MLP(
                [self.latent_dim + self.classes, *self.generator_hidden, self.data_dim],
                activation=self.generator_activation,
                output_activation=None if self.output_activation == "none" else self.output_activation,
                impl=impl,
            )
            discriminator = nn.MLP(
                [(self.data_dim + self.classes) * pack, *self.discriminator_hidden, 1],
                activation=self.discriminator_activation,
                dropout=self.dropout,
                impl=impl,
            )
        return GAN(
            generator,
            discriminator,
            latent_dim=self.latent_dim,
            prior=self.prior,
            data_shape=(self.data_dim,),
            classes=self.classes,
        )


@dataclass(frozen=True)
class Preset:
    """Networks and a training config.

    Args:
        networks: G and D.
        train: Algorithm 1's numbers.
        standardize: whether each column is brought to mean 0 and standard deviation 1 before training, and
            samples back. For columns without known bounds, whose units would else set the learning rate.
    """

    networks: Networks
    train: TrainConfig
    standardize: bool = False


def for_source(source: str, dataset: Dataset) -> Preset:
    """The preset of a named data set, or the general one for a file.

    Args:
        source: "digits", "ring", "grid", ... or a path.
        dataset: what `fastgan.data.load(source)` gave, rows flat.
    """
    dim = dataset.shape[1:].numel()
    if source in _NAMED:
        return _NAMED[source](dim)
    return _general(dataset, dim)


def _digits(dim: int) -> Preset:
    networks = Networks(dim, latent_dim=32, output_activation="sigmoid", dropout=0.3)
    return Preset(
        networks,
        TrainConfig(
            steps=10_000, batch_size=64, optimizer=Adam(1e-3), real_label=0.9, checkpoint_every=1000
        ),
    )


def _mnist(dim: int, rows: int) -> Preset:
    """Images of 28 x 28 pixels: MNIST, Fashion-MNIST and their like.

    The R1 penalty keeps D gentle where the data are; without it G made some digits more than twice as often as others.
    The guide has the table of what was tried.
    """
    networks = Networks(
        dim, generator_hidden=(256, 512), discriminator_hidden=(512, 256), output_activation="sigmoid"
    )
    return Preset(
        networks,
        TrainConfig(
            steps=25_000,
            batch_size=min(64, rows),
            optimizer=Adam(3e-4, betas=(0.5, 0.99)),
            gradient_penalty="r1",
            penalty_weight=1.0,
            ema_decay=0.999,
            checkpoint_every=1000,
        ),
    )


def _modes(dim: int) -> Preset:
    """Many thin modes in the plane.

    Standardised, so that D sees the gaps between them; two D steps an iteration, so that it finds the modes that G
    leaves out; G's weights averaged, because at a constant rate G itself never comes to rest.
    """
    networks = Networks(dim, latent_dim=2, generator_hidden=(128, 128), discriminator_hidden=(128, 128))
    train = TrainConfig(
        steps=10_000, batch_size=256, k=2, optimizer=Adam(1e-3), ema_decay=0.999, checkpoint_every=1000
    )
    return Preset(networks, train, standardize=True)


def _small(dim: int) -> Preset:
    """Distributions in few dimensions without thin modes: a D ahead of G keeps them from circling each other."""
    networks = Networks(dim, latent_dim=max(2, dim), generator_hidden=(64, 64), discriminator_hidden=(128, 128))
    return Preset(
        networks,
        TrainConfig(
            steps=4_000,
            batch_size=256,
            k=2,
            optimizer=Adam(1e-3),
            generator_optimizer=Adam(3e-4),
            checkpoint_every=1000,
        ),
    )


_NAMED = {
    "digits": _digits,
    "ring": _modes,
    "grid": _modes,
    "gaussian": _small,
    "gaussians": _small,
    "ring_map": _small,
}


def _general(dataset: Dataset, dim: int) -> Preset:
    """Widths that grow with the data's; bounded data get a bounded output, other columns are standardised."""
    if dataset.image_shape == (28, 28) and dataset.value_range == (0.0, 1.0) and dim == 784:
        return _mnist(dim, len(dataset))
    hidden = 128 if dim <= 8 else 256 if dim <= 128 else 512
    bounds = dataset.value_range
    output: ActivationName = "none"
    if bounds in ((0.0, 1.0), (-1.0, 1.0)):
        output = "sigmoid" if bounds[0] == 0.0 else "tanh"
    image = dataset.image_shape is not None
    networks = Networks(
        dim,
        latent_dim=min(64, max(8, dim)),
        generator_hidden=(hidden, hidden),
        discriminator_hidden=(hidden, hidden),
        output_activation=output,
        dropout=0.3 if image else 0.0,
    )
    train = _image_training() if image else _table_training()
    train = dataclasses.replace(train, batch_size=min(train.batch_size, len(dataset)))
    return Preset(networks, train, standardize=output == "none")


def _image_training() -> TrainConfig:
    return TrainConfig(
        steps=10_000, batch_size=64, optimizer=Adam(5e-4), real_label=0.9, checkpoint_every=1000
    )


def _table_training() -> TrainConfig:
    """R1 keeps D gentle where a column takes few values; without it G settled on one of two."""
    return TrainConfig(
        steps=5_000,
        batch_size=128,
        k=2,
        optimizer=Adam(1e-3),
        generator_optimizer=Adam(3e-4),
        gradient_penalty="r1",
        penalty_weight=0.1,
        checkpoint_every=1000,
    )
