"""fastgan: the GAN of Goodfellow et al. (2014) at the speed of the hardware."""

__version__ = "0.2.0"  # the one place; pyproject.toml and CMake read it

from fastgan import _interrupt

with _interrupt.imports():
    from fastgan._backend import backend_info

from fastgan import _deprecation, data, evaluation, losses, models, nn, random, tabular, theory
from fastgan.data import DataError
from fastgan.losses import (
    blended_generator_loss,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    mixed_batch_loss,
    probability_discriminator_loss,
    probability_generator_loss,
)
from fastgan.models import GAN
from fastgan.nn import fuse
from fastgan.tabular import TableTransformer, TabularGAN
from fastgan.training import (
    SGD,
    Adam,
    AdamW,
    Best,
    Callback,
    CheckpointError,
    CosineDecay,
    ExponentialDecay,
    InferenceResult,
    JSONLines,
    LinearDecay,
    Logger,
    MLflow,
    Momentum,
    Monitor,
    PopulationMember,
    PopulationResult,
    RMSprop,
    StepDecay,
    TensorBoard,
    TrainConfig,
    TrainResult,
    WandB,
    train,
    train_encoder,
    train_population,
)

# Few programs draw: `fastgan.plots` is loaded at its first use.
__getattr__ = _deprecation.names(__name__, {"train_inferer": "train_encoder"}, at_first_use=("plots",))

__all__ = [
    "GAN",
    "SGD",
    "Adam",
    "AdamW",
    "Best",
    "Callback",
    "CheckpointError",
    "CosineDecay",
    "DataError",
    "ExponentialDecay",
    "InferenceResult",
    "JSONLines",
    "LinearDecay",
    "Logger",
    "MLflow",
    "Momentum",
    "Monitor",
    "PopulationMember",
    "PopulationResult",
    "RMSprop",
    "StepDecay",
    "TableTransformer",
    "TabularGAN",
    "TensorBoard",
    "TrainConfig",
    "TrainResult",
    "WandB",
    "backend_info",
    "blended_generator_loss",
    "data",
    "discriminator_loss",
    "evaluation",
    "fuse",
    "generator_loss",
    "gradient_penalty",
    "losses",
    "mixed_batch_loss",
    "models",
    "nn",
    "probability_discriminator_loss",
    "probability_generator_loss",
    "random",
    "tabular",
    "theory",
    "train",
    "train_encoder",
    "train_population",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]  # the public names; other modules are private
