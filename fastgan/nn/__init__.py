"""Layers: each a thin shell over one call of `fastgan.ops.mlp`; `fuse` gives them to existing models."""

from fastgan.nn import init
from fastgan.nn.activation import activation_module
from fastgan.nn.adversarial import AdversarialLoss
from fastgan.nn.autoencoder import VAE, AutoEncoder
from fastgan.nn.classes import ClassDiscriminator
from fastgan.nn.dropout import Dropout
from fastgan.nn.export import export, to_torch
from fastgan.nn.fuse import explain, fuse, unfuse
from fastgan.nn.heads import Heads
from fastgan.nn.linear import Linear
from fastgan.nn.maxout import Maxout
from fastgan.nn.minibatch import MinibatchDiscrimination
from fastgan.nn.mlp import MLP
from fastgan.nn.residual import Residual
from fastgan.nn.sequential import Sequential
from fastgan.nn.virtual import ReferenceBatch, VirtualBatchNorm

__all__ = [
    "MLP",
    "VAE",
    "AdversarialLoss",
    "AutoEncoder",
    "ClassDiscriminator",
    "Dropout",
    "Heads",
    "Linear",
    "Maxout",
    "MinibatchDiscrimination",
    "ReferenceBatch",
    "Residual",
    "Sequential",
    "VirtualBatchNorm",
    "activation_module",
    "explain",
    "export",
    "fuse",
    "init",
    "to_torch",
    "unfuse",
]
__dir__ = __all__.copy  # what completion shows
