"""The theory of the game: exact expectations over tables and grids, in float64.

Functions take numpy arrays or torch tensors and return the same kind.
"""

from .densities import gaussian_density
from .discriminator import (
    generator_gradient,
    js_from_value,
    optimal_discriminator,
    sample_value,
    training_criterion,
    value,
)
from .divergences import (
    cross_entropy,
    entropy,
    hellinger_divergence,
    js_divergence,
    kl_divergence,
    pearson_divergence,
    reverse_kl_divergence,
)
from .estimation import nce_loss, nce_objective
from .fits import GaussianFit, fit_gaussian
from .games import FunctionalGame, GaussianGame, bilinear_game, functional_game, gaussian_game
from .objectives import f_discriminator_loss, f_divergence, f_generator_loss, f_value
from .tables import JointTable, bayes

__all__ = [
    "FunctionalGame",
    "GaussianFit",
    "GaussianGame",
    "JointTable",
    "bayes",
    "bilinear_game",
    "cross_entropy",
    "entropy",
    "f_discriminator_loss",
    "f_divergence",
    "f_generator_loss",
    "f_value",
    "fit_gaussian",
    "functional_game",
    "gaussian_density",
    "gaussian_game",
    "generator_gradient",
    "hellinger_divergence",
    "js_divergence",
    "js_from_value",
    "kl_divergence",
    "nce_loss",
    "nce_objective",
    "optimal_discriminator",
    "pearson_divergence",
    "reverse_kl_divergence",
    "sample_value",
    "training_criterion",
    "value",
]
__dir__ = __all__.copy  # what completion shows
