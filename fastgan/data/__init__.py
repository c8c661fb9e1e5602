"""Training data: synthetic distributions, bundled digits, and the user's own files."""

from . import files
from .bundled import digits
from .dataset import DataError, Dataset, DataWarning
from .files import read
from .mnist_files import fashion_mnist, mnist
from .sources import as_dataset, load
from .standardize import Standardizer
from .synthetic import (
    gaussian,
    gaussians,
    grid,
    map_to_ring,
    mixture1200d,
    ring,
    ring_map,
)

__all__ = [
    "DataError",
    "DataWarning",
    "Dataset",
    "Standardizer",
    "as_dataset",
    "digits",
    "fashion_mnist",
    "files",
    "gaussian",
    "gaussians",
    "grid",
    "load",
    "map_to_ring",
    "mixture1200d",
    "mnist",
    "read",
    "ring",
    "ring_map",
]


def __dir__() -> list[str]:
    return __all__
