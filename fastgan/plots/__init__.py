"""Pictures: losses, curves of a training, samples beside real rows, and illustrations of the theory.

Real data are blue, samples of G orange. Matplotlib is imported at the first picture; pyplot is not used. Files are
written atomically.
"""

from .animation import animation
from .costs import loss_table, losses
from .curves import d_curves, equilibrium, loss_curves, population_curves
from .figure1 import figure1, figure1_stages
from .images import image_grid, interpolation, neighbours
from .learning import codes, collapse, convergence, density_ratio, nce, nce_fit, trained_ratio
from .modes import modes_over_time
from .plane import scatter, verdicts
from .points import line, marginals
from .probability import coins, joint
from .style import source
from .subplots import compare_histograms, compare_images, compare_points
from .tables import Marginal, table_marginals
from .theory import bilinear, fits, ring_map

__all__ = [
    "Marginal",
    "animation",
    "bilinear",
    "codes",
    "coins",
    "collapse",
    "compare_histograms",
    "compare_images",
    "compare_points",
    "convergence",
    "d_curves",
    "density_ratio",
    "equilibrium",
    "figure1",
    "figure1_stages",
    "fits",
    "image_grid",
    "interpolation",
    "joint",
    "line",
    "loss_curves",
    "loss_table",
    "losses",
    "marginals",
    "modes_over_time",
    "nce",
    "nce_fit",
    "neighbours",
    "population_curves",
    "ring_map",
    "scatter",
    "source",
    "table_marginals",
    "trained_ratio",
    "verdicts",
]
__dir__ = __all__.copy  # what completion shows
