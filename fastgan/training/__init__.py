"""Training: Algorithm 1, its optimisers, metrics, callbacks and checkpoints."""

from fastgan.training.callbacks import Callback, Run
from fastgan.training.checkpoint import CheckpointError
from fastgan.training.config import TrainConfig
from fastgan.training.optimizers import Adam, Momentum
from fastgan.training.population import PopulationMember, PopulationResult, train_population
from fastgan.training.run import TrainResult, train

__all__ = [
    "Adam",
    "Callback",
    "CheckpointError",
    "Momentum",
    "PopulationMember",
    "PopulationResult",
    "Run",
    "TrainConfig",
    "TrainResult",
    "train",
    "train_population",
]
