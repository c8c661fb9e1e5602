"""Ready-made networks: pairs of perceptrons, the original code's, DCGAN's."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fastgan import nn
from fastgan._errors import Invalid, check_choice
from fastgan._options import ActivationName, Impl, PriorName
from fastgan.models.gan import GAN, join


def mlp_gan(
    data_dim: int,
    *,
    latent_dim: int = 64,
    hidden: Sequence[int] = (128, 128),
    generator_activation: ActivationName = "relu",
    discriminator_activation: ActivationName = "leaky_relu",
    output_activation: ActivationName | None = None,
    discriminator_dropout: float = 0.0,
    prior: PriorName = "normal",
    classes: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    impl: Impl = "auto",
) -> GAN:
    """A pair of multilayer perceptrons with the same hidden sizes, G's reversed in D.

    Args:
        data_dim: features of one sample.
        latent_dim: length of z.
        hidden: sizes of G's hidden layers, from z on; D has them in the opposite order.
        generator_activation, discriminator_activation: of the hidden layers.
        output_activation: of G's output: "sigmoid" for data in [0, 1], "tanh" for [-1, 1], None for any.
        discriminator_dropout: probability of dropping a hidden unit of D.
        classes: of a conditional model, whose networks see the label too; 0: none.
        prior, device, dtype, impl: as in `GAN` and `nn.MLP`.

    Raises:
        ValueError: a size below 1.
    """
    for name, value, least in (("data_dim", data_dim, 1), ("latent_dim", latent_dim, 1), ("classes", classes, 0)):
        Invalid("mlp_gan").check_integer(name, value, least)
    generator = nn.MLP(
        [latent_dim + classes, *hidden, data_dim],
        activation=generator_activation,
        output_activation=output_activation,
        device=device,
        dtype=dtype,
        impl=impl,
    )
    discriminator = nn.MLP(
        [data_dim + classes, *reversed(hidden), 1],
        activation=discriminator_activation,
        dropout=discriminator_dropout,
        device=device,
        dtype=dtype,
        impl=impl,
    )
    return GAN(generator, discriminator, latent_dim=latent_dim, prior=prior, data_shape=(data_dim,), classes=classes)


def maxout_discriminator(data_dim: int, units: int = 240) -> nn.Sequential:
    """D of the original code: two maxout layers of `units` x 5, a fifth of the inputs and half of the units dropped.

    Weights U(-0.005, 0.005), biases 0. The MNIST net has 240 units, the Toronto faces' 1200, CIFAR-10's 1600.

    Source: Goodfellow et al. (2014), section 5, and the configuration files of its code.
    """
    network = nn.Sequential(
        nn.Dropout(0.2),
        nn.Maxout(data_dim, units, 5),
        nn.Dropout(0.5),
        nn.Maxout(units, units, 5),
        nn.Dropout(0.5),
        nn.Linear(units, 1),
    )
    return nn.init.uniform_(network, 0.005)


def goodfellow_mnist(data: Tensor | None = None, *, data_dim: int = 784, hidden: int = 1200, units: int = 240) -> GAN:
    """MNIST networks of the original code: two ReLU layers of 1200 in G, two maxout layers of 240 x 5 in D.

    It was trained with `TrainConfig(steps=..., batch_size=100, mode="simultaneous", optimizer=Momentum(0.1,
    momentum=0.5, convention="pylearn2", lr_decay=1.000004, min_lr=1e-6, momentum_final=0.7,
    saturate_epochs=250))`.

    Args:
        data: (n, data_dim) in [0, 1]: sets G's output bias so that an untrained G starts at the marginals.
            None: zeros.
        data_dim: features of one sample, 784 in the original.
        hidden: width of G's hidden layers, 1200 in the original.
        units: maxout units of each of D's layers, 240 in the original.

    Returns:
        GAN with 2,503,984 parameters in G and 1,231,441 in D, uniform prior on [-sqrt 3, sqrt 3].

    Source: Goodfellow et al. (2014), section 5, and the configuration file of its code.
    """
    generator = nn.MLP([100, hidden, hidden, data_dim], activation="relu", output_activation="sigmoid")
    nn.init.uniform_(generator, 0.05)
    if data is not None:
        nn.init.output_bias_from_data(generator, data)
    discriminator = maxout_discriminator(data_dim, units)
    return GAN(generator, discriminator, latent_dim=100, prior="uniform", data_shape=(data_dim,))


class FromLatent(torch.nn.Module):
    """z (m, latent_dim) seen as m images of one pixel, the input of a transposed convolution."""

    def forward(self, z: Tensor) -> Tensor:
        return z[:, :, None, None]

    def to_torch(self) -> torch.nn.Module:
        """The module of torch.nn that does the same."""
        return torch.nn.Unflatten(1, (-1, 1, 1))


class Deconv2d(torch.nn.ConvTranspose2d):
    """The original code's 'Deconv' layer: a transposed convolution whose bias may differ from pixel to pixel.

    Equivalent to `torch.nn.ConvTranspose2d`, plus a bias of shape (channels, height, width) where it is
    untied. Output size: stride * (size - 1) - 2 * padding + kernel_size, as 3 * (10 - 1) + 5 = 32 in the
    paper's CIFAR-10 net.

    Args:
        in_channels, out_channels, kernel_size, stride, padding: as in `torch.nn.ConvTranspose2d`.
        untied_size: (height, width) of the output for an untied bias; None for one bias a channel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        untied_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=untied_size is None)
        shape = None if untied_size is None else (out_channels, *untied_size)
        self.pixel_bias = None if shape is None else torch.nn.Parameter(torch.zeros(shape))
        self.untied_size = untied_size

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        out = super().forward(x, output_size)
        return out if self.pixel_bias is None else out + self.pixel_bias

    def to_torch(self) -> torch.nn.Module | None:
        """The module of torch.nn that does the same; None with a bias a pixel, which none there has."""
        if self.pixel_bias is not None:
            return None
        plain = copy.deepcopy(self)
        plain.__class__ = torch.nn.ConvTranspose2d  # type: ignore[assignment]
        del plain.pixel_bias, plain.untied_size
        return plain


def goodfellow_cifar_generator(*, hidden: int = 8000, channels: int = 80) -> torch.nn.Module:
    """The paper's 'deconv' CIFAR-10 generator: two dense layers, then a transposed convolution.

    Sizes: 100 - 8000 (ReLU) - 8000 (sigmoid), seen as 80 x 10 x 10 - 3 x 32 x 32.

    Args:
        hidden: units of the first hidden layer, 8000 in the original.
        channels: of the 10 x 10 image that the second hidden layer forms, 80 in the original.

    Returns:
        Module from z (m, 100) to images (m, 3, 32, 32): kernel 5, stride 3, one bias a pixel.
    """
    network = nn.Sequential(
        nn.Linear(100, hidden, activation="relu"),
        nn.Linear(hidden, channels * 100, activation="sigmoid"),
        torch.nn.Unflatten(1, (channels, 10, 10)),
        Deconv2d(channels, 3, 5, 3, untied_size=(32, 32)),
    )
    nn.init.uniform_(network, 0.05)
    return network


class AsImages(torch.nn.Module):
    """Flat rows (m, channels * size * size + classes) as images (m, channels + classes, size, size).

    A label, of one number a class after the pixels, becomes maps of one value each.
    """

    def __init__(self, channels: int, size: int, classes: int = 0) -> None:
        super().__init__()
        for name, value, least in (("channels", channels, 1), ("size", size, 1), ("classes", classes, 0)):
            Invalid("AsImages").check_integer(name, value, least)
        self.channels, self.size, self.classes = channels, size, classes

    def forward(self, x: Tensor) -> Tensor:
        pixels, labels = x.split([x.shape[1] - self.classes, self.classes], 1)
        images = pixels.reshape(-1, self.channels, self.size, self.size)
        return join(images, labels) if self.classes else images

    def extra_repr(self) -> str:
        return f"channels={self.channels}, size={self.size}, classes={self.classes}"


def dcgan(
    *,
    image_size: int = 32,
    channels: int = 3,
    latent_dim: int = 100,
    width: int = 64,
    prior: PriorName = "normal",
    classes: int = 0,
    output_activation: Literal["tanh", "sigmoid", "none"] = "tanh",
    pack: int = 1,
    flat: bool = False,
) -> GAN:
    """The networks of DCGAN: transposed convolutions in G, strided ones in D, batch normalisation between.

    Their weights are in torch's channels-last memory format, in which convolutions on a CPU, and those of tensor cores,
    take less time. Training runs in the eager engine.

    Args:
        image_size: height and width: 4 to 7 times a power of two of at least 2, as 8, 28, 32, 48, 64.
        channels: of the image.
        latent_dim: length of z.
        width: feature maps next to the image; doubled at each halving of the resolution.
        prior, classes: as in `GAN`. D sees a label as maps of zeros and one map of ones beside the image's channels.
        output_activation: of G: "tanh" for images in [-1, 1], "sigmoid" for [0, 1], "none" for any.
        pack: as in `TrainConfig`: images that D sees as the channels of one.
        flat: samples are rows (m, channels * image_size^2), as `fastgan train` has them, not (m, channels, h, w).

    Raises:
        ValueError: an image_size that cannot be halved down to 4 to 7 pixels, another output_activation.

    Source: Radford, Metz, Chintala (2016), section 3; weights N(0, 0.02).
    """
    counts = (("image_size", image_size, 0), ("channels", channels, 1), ("latent_dim", latent_dim, 1))
    for name, value, least in (*counts, ("width", width, 1), ("classes", classes, 0), ("pack", pack, 1)):
        Invalid("dcgan").check_integer(name, value, least)
    halvings = image_size.bit_length() - 3  # from image_size to 4 to 7 pixels
    if halvings < 1 or image_size % (1 << halvings):
        rule = "4 to 7 times a power of two of at least 2"
        raise Invalid("dcgan").value("image_size", f"must be {rule}, as 28, 32 or 64, got {image_size}")
    outputs: dict[str, list[torch.nn.Module]] = {"tanh": [torch.nn.Tanh()], "sigmoid": [torch.nn.Sigmoid()], "none": []}
    check_choice("dcgan", "output_activation", output_activation, outputs)
    smallest, maps = image_size >> halvings, [width << level for level in range(halvings)]
    down: list[torch.nn.Module] = [AsImages(channels * pack, image_size, classes * pack)] if flat else []
    for level, (before, after) in enumerate(zip([(channels + classes) * pack, *maps], maps, strict=False)):
        normalised = [torch.nn.BatchNorm2d(after)] if level else []
        down += [
            torch.nn.Conv2d(before, after, 4, 2, 1, bias=not level),
            *normalised,
            torch.nn.LeakyReLU(0.2),
        ]
    down += [torch.nn.Conv2d(maps[-1], 1, smallest), torch.nn.Flatten()]
    first = torch.nn.ConvTranspose2d(latent_dim + classes, maps[-1], smallest, bias=False)
    up: list[torch.nn.Module] = [FromLatent(), first]
    for before, after in zip(reversed(maps), [*reversed(maps[:-1]), channels], strict=True):
        up += [torch.nn.BatchNorm2d(before), torch.nn.ReLU()]
        up += [torch.nn.ConvTranspose2d(before, after, 4, 2, 1, bias=after == channels)]
    up += [*outputs[output_activation], *([torch.nn.Flatten()] if flat else [])]
    generator, discriminator = torch.nn.Sequential(*up), torch.nn.Sequential(*down)
    for module in (*generator.modules(), *discriminator.modules()):
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1.0, 0.02)
    shape = (channels * image_size**2,) if flat else (channels, image_size, image_size)
    gan = GAN(generator, discriminator, latent_dim=latent_dim, prior=prior, data_shape=shape, classes=classes)
    return gan.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
