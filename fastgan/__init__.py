"""fastgan: the GAN of Goodfellow et al. (2014) at the speed of the hardware."""

__version__ = "0.1.0"

from fastgan import losses, random
from fastgan.backend import backend_info
from fastgan.losses import (
    blended_generator_loss,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    mixed_batch_loss,
    probability_discriminator_loss,
    probability_generator_loss,
)

__all__ = [
    "backend_info",
    "blended_generator_loss",
    "discriminator_loss",
    "generator_loss",
    "gradient_penalty",
    "losses",
    "mixed_batch_loss",
    "probability_discriminator_loss",
    "probability_generator_loss",
    "random",
]
