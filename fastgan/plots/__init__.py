"""Every picture: the costs, the course of a training, samples beside real rows, and the theory drawn.

Blue is always the real data and what D takes for it, orange what G made. Matplotlib is imported late and used
through its object interface, so no global state of pyplot is touched; files appear complete or not at all.
"""

from .costs import loss_table, losses
from .curves import d_curves, equilibrium, loss_curves, population_curves
from .images import image_grid
from .points import line, marginals, scatter

__all__ = [
    "d_curves",
    "equilibrium",
    "image_grid",
    "line",
    "loss_curves",
    "loss_table",
    "losses",
    "marginals",
    "population_curves",
    "scatter",
]
