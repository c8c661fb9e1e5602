"""Training: Algorithm 1, its optimisers, metrics, callbacks and checkpoints."""

from fastgan import _deprecation
from fastgan.training.callbacks import Callback, Run
from fastgan.training.checkpoint import Checkpoint, CheckpointError
from fastgan.training.checkpoint import load as load_checkpoint
from fastgan.training.config import TrainConfig
from fastgan.training.display import progress
from fastgan.training.history import read_history
from fastgan.training.inference import InferenceResult, train_encoder
from fastgan.training.loggers import Best, JSONLines, Logger, MLflow, TensorBoard, WandB
from fastgan.training.monitor import Monitor
from fastgan.training.optimizers import SGD, Adam, AdamW, Momentum, RMSprop
from fastgan.training.population import PopulationMember, PopulationResult, mean_and_error, train_population
from fastgan.training.result import TrainResult
from fastgan.training.schedules import CosineDecay, ExponentialDecay, LinearDecay, StepDecay
from fastgan.training.train import train

__getattr__ = _deprecation.names(__name__, {"train_inferer": "train_encoder"})

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Best",
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "CosineDecay",
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
    "Run",
    "StepDecay",
    "TensorBoard",
    "TrainConfig",
    "TrainResult",
    "WandB",
    "load_checkpoint",
    "mean_and_error",
    "progress",
    "read_history",
    "train",
    "train_encoder",
    "train_population",
]
__dir__ = __all__.copy  # what completion shows
