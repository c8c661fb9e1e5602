"""GAN: a generator, a discriminator and the prior that joins them; ready-made pairs from the literature."""

from fastgan.models.gan import GAN, join
from fastgan.models.networks import (
    AsImages,
    Deconv2d,
    FromLatent,
    dcgan,
    goodfellow_cifar_generator,
    goodfellow_mnist,
    maxout_discriminator,
    mlp_gan,
)

__all__ = [
    "GAN",
    "AsImages",
    "Deconv2d",
    "FromLatent",
    "dcgan",
    "goodfellow_cifar_generator",
    "goodfellow_mnist",
    "join",
    "maxout_discriminator",
    "mlp_gan",
]
__dir__ = __all__.copy  # what completion shows
