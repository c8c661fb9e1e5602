"""How good a generator is: likelihood, modes, classes, neighbours, precision and recall, what its discriminator sees.

Rows go in as tensors, arrays or Datasets; what comes out row by row is of their kind. All of it is computed in float64.
"""

from .classes import ClassBalance, class_balance
from .correlation import correlation_error
from .discriminator import DiscriminatorGap, discriminator_gap, fit_discriminator
from .manifold import PrecisionRecall, precision_recall
from .modes import ModeCoverage, mode_coverage
from .nearest import Neighbours, nearest_neighbours
from .parzen import PARZEN_SIGMAS, ParzenLogLikelihood, parzen_log_likelihood, parzen_sigma

__all__ = [
    "PARZEN_SIGMAS",
    "ClassBalance",
    "DiscriminatorGap",
    "ModeCoverage",
    "Neighbours",
    "ParzenLogLikelihood",
    "PrecisionRecall",
    "class_balance",
    "correlation_error",
    "discriminator_gap",
    "fit_discriminator",
    "mode_coverage",
    "nearest_neighbours",
    "parzen_log_likelihood",
    "parzen_sigma",
    "precision_recall",
]
__dir__ = __all__.copy  # what completion shows
