"""Training: Algorithm 1, its optimisers, metrics, callbacks and checkpoints."""

from fastgan import deprecation
from fastgan.training.callbacks import Callback, Run
from fastgan.training.checkpoint import CheckpointError
from fastgan.training.config import TrainConfig
from fastgan.training.inference import InferenceResult, train_encoder
from fastgan.training.loggers import Best, JSONLines, Logger, MLflow, TensorBoard, WandB
from fastgan.training.monitor import Monitor
from fastgan.training.optimizers import Adam, Momentum
from fastgan.training.population import PopulationMember, PopulationResult, train_population
from fastgan.training.result import TrainResult
from fastgan.training.train import train

__getattr__ = deprecation.names(__name__, {"train_inferer": "train_encoder"})

__all__ = [
    "Adam",
    "Best",
    "Callback",
    "CheckpointError",
    "InferenceResult",
    "JSONLines",
    "Logger",
    "MLflow",
    "Momentum",
    "Monitor",
    "PopulationMember",
    "PopulationResult",
    "Run",
    "TensorBoard",
    "TrainConfig",
    "TrainResult",
    "WandB",
    "train",
    "train_encoder",
    "train_population",
]


def __dir__() -> list[str]:
    return __all__
