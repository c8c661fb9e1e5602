"""The named options of public functions: what a type checker accepts is what runs."""

from __future__ import annotations

import os
from typing import Any, Literal, get_args

Impl = Literal["auto", "native", "reference"]
Reduction = Literal["mean", "sum", "none"]
DiscriminatorKind = Literal["gan", "hinge", "least_squares", "wasserstein", "relativistic"]
GeneratorKind = Literal["non_saturating", "minimax", "mle", "hinge", "least_squares", "wasserstein", "relativistic"]
# the last is a loss of D's features, not of its logits
TrainLoss = Literal[GeneratorKind, "feature_matching"]
PenaltyKind = Literal["wgan-gp", "r1", "r2"]
GeneratorNorm = Literal["none", "batch", "virtual"]
NetworkName = Literal["mlp", "dcgan"]
PriorName = Literal["normal", "uniform", "spherical"]
ActivationName = Literal["none", "relu", "leaky_relu", "tanh", "sigmoid", "elu", "softplus", "gelu"]
HeadName = Literal["none", "tanh", "softmax", "gumbel_softmax"]
UpdateMode = Literal["alternating", "simultaneous"]
InnerLoop = Literal["steps", "optimum"]
EngineName = Literal["auto", "eager", "fused", "cpu", "cuda-graph", "cuda-persistent"]
Precision = Literal["fp32", "ieee", "tf32", "bf16"]
Nonfinite = Literal["raise", "skip", "log"]
MomentumConvention = Literal["torch", "pylearn2"]
DivergenceKind = Literal["gan", "js", "kl", "reverse_kl", "pearson", "hellinger"]
FitKind = Literal["kl", "reverse_kl", "js"]
TheoryGeneratorKind = Literal["minimax", "non_saturating", "mle"]
ModeConvention = Literal["radius", "box"]
ExportFormat = Literal["torch", "torchscript", "onnx"]


def format_of(path: str | os.PathLike[str]) -> ExportFormat:
    """The format of an export to this file where none is given."""
    return "onnx" if os.fspath(path).lower().endswith(".onnx") else "torch"


def names(option: object) -> tuple[Any, ...]:
    """The values of one of the types above."""
    return get_args(option)
