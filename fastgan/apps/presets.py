"""Networks and training numbers for each named data set, and a sensible choice for anyone's own."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastgan import _options, nn, random
from fastgan._errors import Invalid, check_choice, is_number
from fastgan._options import ActivationName, GeneratorNorm, Impl, NetworkName, PriorName
from fastgan.data import Dataset
from fastgan.models import GAN, dcgan, join
from fastgan.random import Purpose
from fastgan.training import Adam, TrainConfig

invalid = Invalid("Networks")

_REFERENCE = 64  # rows of noise whose statistics virtual batch normalisation uses


@dataclass(frozen=True)
class Networks:
    """Two networks, described by plain numbers so that a file can hold them.

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
        generator_norm: after each hidden layer of G's "mlp": "none"; "batch" normalisation; "virtual" batch
            normalisation, by a fixed batch of noise (Salimans et al. 2016; eager engine).
        minibatch_features: of D's "mlp": features that tell how close the rows of a batch are (minibatch
            discrimination, Salimans et al. 2016; eager engine); 0: none.
        network: "mlp", multilayer perceptrons, or "dcgan", convolutions of `fastgan.models.dcgan`, for images.
        feature_maps: of "dcgan", next to the image; doubled at each halving.
        image_size: of "dcgan", height and width of an image; 0 of others.

    Raises:
        ValueError: a size below 1, an unknown activation, classes below 0, an image_size that does not fit.
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
    generator_norm: GeneratorNorm = "none"
    minibatch_features: int = 0
    network: NetworkName = "mlp"
    feature_maps: int = 32
    image_size: int = 0

    def __post_init__(self) -> None:
        for name in ("data_dim", "latent_dim", "generator_hidden", "discriminator_hidden"):
            value = getattr(self, name)
            if isinstance(value, tuple) != name.endswith("hidden"):
                raise invalid.value(name, f"must be {'widths' if name[-1] == 'n' else 'a size'}, got {value!r}")
            for size in value if isinstance(value, tuple) else (value,):
                if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                    raise invalid.value(name, f"must be at least 1, got {size!r}")
        check_choice(invalid.operation, "prior", self.prior, _options.names(PriorName))
        if not is_number(self.dropout) or not 0.0 <= self.dropout <= 1.0:
            raise invalid.value("dropout", f"must lie in [0, 1], got {self.dropout!r}")
        for name in ("generator_activation", "discriminator_activation", "output_activation"):
            check_choice(invalid.operation, name, getattr(self, name), _options.names(ActivationName))
        for name, least in (("classes", 0), ("minibatch_features", 0), ("feature_maps", 1), ("image_size", 0)):
            size = getattr(self, name)
            if not isinstance(size, int) or isinstance(size, bool) or size < least:
                raise invalid.value(name, f"must be at least {least}, got {size!r}")
        for name, choice in (("network", NetworkName), ("generator_norm", GeneratorNorm)):
            check_choice(invalid.operation, name, getattr(self, name), _options.names(choice))
        if self.network == "dcgan" and (self.image_size < 1 or self.data_dim % self.image_size**2):
            raise invalid.value("image_size", f"must fit {self.data_dim} features, got {self.image_size}")

    def build(self, *, seed: int = 0, impl: Impl = "auto", pack: int = 1) -> GAN:
        """The pair, its first weights drawn from `seed`; torch's own generator stays as it was.

        D sees `pack` samples side by side, each with its label if there are classes.

        Raises:
            ValueError: an unknown activation or prior, or a probability outside [0, 1].
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.network == "dcgan":
                return self._dcgan(pack)
            generator = self._generator(seed, impl)
            discriminator = self._discriminator(pack, impl)
        return GAN(
            generator,
            discriminator,
            latent_dim=self.latent_dim,
            prior=self.prior,
            data_shape=(self.data_dim,),
            classes=self.classes,
        )

    def _generator(self, seed: int, impl: Impl) -> torch.nn.Module:
        sizes = [self.latent_dim + self.classes, *self.generator_hidden, self.data_dim]
        hidden = self.generator_activation
        output = None if self.output_activation == "none" else self.output_activation
        if self.generator_norm == "none":
            return nn.MLP(sizes, activation=hidden, output_activation=output, impl=impl)
        normalise = torch.nn.BatchNorm1d if self.generator_norm == "batch" else nn.VirtualBatchNorm
        layers: list[torch.nn.Module] = []
        for before, after in itertools.pairwise(sizes[:-1]):
            layers += [torch.nn.Linear(before, after, bias=False), normalise(after), nn.activation_module(hidden)]
        network = nn.Sequential(*layers, *nn.MLP(sizes[-2:], output_activation=output), impl=impl)
        if self.generator_norm == "batch":
            return network
        z = random.prior(self.prior, (_REFERENCE, self.latent_dim), seed=seed, purpose=Purpose.SAMPLE, step=1)
        labels = torch.arange(_REFERENCE) % max(self.classes, 1)
        one_hot = torch.nn.functional.one_hot(labels, self.classes) if self.classes else None
        return nn.ReferenceBatch(network, join(z, one_hot))

    def _discriminator(self, pack: int, impl: Impl) -> torch.nn.Module:
        sizes = [(self.data_dim + self.classes) * pack, *self.discriminator_hidden]
        hidden = self.discriminator_activation
        if not self.minibatch_features:
            return nn.MLP([*sizes, 1], activation=hidden, dropout=self.dropout, impl=impl)
        layers = nn.MLP(sizes, activation=hidden, output_activation=hidden, dropout=self.dropout)
        drop = [nn.Dropout(self.dropout)] if self.dropout else []
        features = nn.MinibatchDiscrimination(sizes[-1], self.minibatch_features)
        last = torch.nn.Linear(sizes[-1] + self.minibatch_features, 1)
        return nn.Sequential(*layers, *drop, features, last, impl=impl)

    def _dcgan(self, pack: int) -> GAN:
        return dcgan(
            image_size=self.image_size,
            channels=self.data_dim // self.image_size**2,
            latent_dim=self.latent_dim,
            width=self.feature_maps,
            prior=self.prior,
            classes=self.classes,
            output_activation=self.output_activation,  # type: ignore[arg-type]  # `dcgan` checks it
            pack=pack,
            flat=True,
        )


@dataclass(frozen=True)
class Preset:
    """Networks and a training config.

    Args:
        networks: G and D.
        train: Algorithm 1's numbers.
        standardize: whether each column is brought to mean 0 and standard deviation 1 before training, and
            samples are converted back. For columns without known bounds: their units must not set the learning rate.
    """

    networks: Networks
    train: TrainConfig
    standardize: bool = False


# Losses and rules by the name of a paper; they replace the preset's.
RECIPES: dict[str, dict[str, Any]] = {
    # Huang et al. (2024), "The GAN is dead; long live the GAN!": the relativistic pairing loss with R1 and R2, no
    # momentum in Adam, an average of G.
    "r3gan": {
        "loss": "relativistic",
        "gradient_penalty": ("r1", "r2"),
        "penalty_weight": 1.0,
        "real_label": 1.0,
        "optimizer": Adam(2e-4, betas=(0.0, 0.99)),
        "generator_optimizer": None,
        "discriminator_optimizer": None,
        "ema_decay": 0.999,
    },
}


def with_recipe(preset: Preset, recipe: str) -> Preset:
    """The preset with the losses and rules of a recipe, and D without dropout, because the penalties differentiate D.

    Raises:
        ValueError: an unknown recipe.
    """
    check_choice("presets", "recipe", recipe, RECIPES)
    networks = dataclasses.replace(preset.networks, dropout=0.0)
    return dataclasses.replace(preset, networks=networks, train=dataclasses.replace(preset.train, **RECIPES[recipe]))


def for_length(preset: Preset, steps: int) -> Preset:
    """The preset for a training of this many iterations."""
    decay = dataclasses.replace(preset.train, steps=steps).with_ema_for_its_length().ema_decay
    return dataclasses.replace(preset, train=dataclasses.replace(preset.train, ema_decay=decay))


def for_source(source: str, dataset: Dataset, network: NetworkName = "mlp") -> Preset:
    """The preset of a named data set, or the general one for a file.

    Args:
        source: "digits", "ring", "grid", ... or a path.
        dataset: what `fastgan.data.load(source)` gave, rows flat.
        network: as in `Networks`.

    Raises:
        ValueError: "dcgan" for rows that are no images of a size it can make.
    """
    dim = dataset.shape[1:].numel()
    if network == "dcgan":
        return _convolutional(source, dataset, dim)
    if source in _NAMED:
        return _NAMED[source](dim)
    return _general(dataset, dim)


def _digits(dim: int) -> Preset:
    networks = Networks(dim, latent_dim=32, output_activation="sigmoid", dropout=0.3)
    return Preset(
        networks,
        TrainConfig(steps=10_000, batch_size=64, optimizer=Adam(1e-3), real_label=0.9, checkpoint_every=1000),
    )


def _mnist(dim: int, rows: int) -> Preset:
    """Images of 28 x 28 pixels: MNIST, Fashion-MNIST and their like.

    The R1 penalty bounds D's gradient at the data; without it G made some digits more than twice as often as others.
    The guide has a table of the alternatives.
    """
    networks = Networks(dim, generator_hidden=(256, 512), discriminator_hidden=(512, 256), output_activation="sigmoid")
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


def _convolutional(source: str, dataset: Dataset, dim: int) -> Preset:
    """Radford et al.'s networks and rates, half as wide, with a moving average of G."""
    shape = dataset.image_shape
    side = 0 if shape is None or shape[0] != shape[1] else shape[0]
    if side < 16 or side % (1 << side.bit_length() - 3):
        got = f"rows of {dim} numbers" if shape is None else "x".join(map(str, shape))
        raise invalid.value(
            "network",
            "must be 'mlp' where rows are not square images of 16 pixels or more a side that can be "
            f"halved down to 4 to 7, as 28, 32 or 64: got 'dcgan' for {got} of {Path(source).name}",
        )
    bounds = {(0.0, 1.0): "sigmoid", (-1.0, 1.0): "tanh"}
    networks = Networks(
        dim,
        output_activation=bounds.get(dataset.value_range or (0.0, 0.0), "none"),  # type: ignore[arg-type]
        network="dcgan",
        image_size=side,
    )
    train = TrainConfig(
        steps=6_000,
        batch_size=min(64, len(dataset)),
        optimizer=Adam(2e-4, betas=(0.5, 0.999)),
        ema_decay=0.999,
        checkpoint_every=500,
    )
    return Preset(networks, train, standardize=networks.output_activation == "none")


def _modes(dim: int) -> Preset:
    """Many thin modes in the plane.

    Standardised, so that D sees the gaps between the modes; two D steps an iteration, so that D finds the modes that G
    misses; a moving average of G, because at a constant learning rate G itself does not converge.
    """
    networks = Networks(dim, latent_dim=2, generator_hidden=(128, 128), discriminator_hidden=(128, 128))
    train = TrainConfig(steps=10_000, batch_size=256, k=2, optimizer=Adam(1e-3), ema_decay=0.999, checkpoint_every=1000)
    return Preset(networks, train, standardize=True)


def _small(dim: int) -> Preset:
    """Distributions in few dimensions without thin modes: D learns faster than G, so that the two do not oscillate."""
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
    return TrainConfig(steps=10_000, batch_size=64, optimizer=Adam(5e-4), real_label=0.9, checkpoint_every=1000)


def _table_training() -> TrainConfig:
    """R1 bounds D's gradient where a column has few values; without it G produced only one of two."""
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
