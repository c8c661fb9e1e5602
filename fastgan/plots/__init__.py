"""Every picture: the costs, a training over its iterations, samples beside real rows, and the theory drawn.

Blue is always the real data and what D takes for it, orange what G made. Matplotlib is imported late and used
through its object interface, so no global state of pyplot is touched; files appear complete or not at all.
"""

from .animation import animation
from .costs import loss_table, losses
from .curves import d_curves, equilibrium, loss_curves, population_curves
from .figure1 import figure1, figure1_stages
from .images import image_grid, interpolation, neighbours
from .plane import scatter, verdicts
from .points import line, marginals
from .theory import bilinear, fits, ring_map

__all__ = [
    "animation",
    "bilinear",
    "d_curves",
    "equilibrium",
    "figure1",
    "figure1_stages",
    "fits",
    "image_grid",
    "interpolation",
    "line",
    "loss_curves",
    "loss_table",
    "losses",
    "marginals",
    "neighbours",
    "population_curves",
    "ring_map",
    "scatter",
    "verdicts",
]


def __dir__() -> list[str]:
    return __all__
