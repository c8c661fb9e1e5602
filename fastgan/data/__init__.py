"""Training data: synthetic distributions, bundled digits, and the user's own files."""

from .bundled import digits
from .dataset import DataError, Dataset, DataWarning, NotANumberError
from .files import FORMATS, read
from .frames import read_frame
from .mnist_files import fashion_mnist, locate, mnist
from .sources import NAMES, SYNTHETIC, USERS_OWN, as_dataset, load
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
    "FORMATS",
    "NAMES",
    "SYNTHETIC",
    "USERS_OWN",
    "DataError",
    "DataWarning",
    "Dataset",
    "NotANumberError",
    "Standardizer",
    "as_dataset",
    "digits",
    "fashion_mnist",
    "gaussian",
    "gaussians",
    "grid",
    "load",
    "locate",
    "map_to_ring",
    "mixture1200d",
    "mnist",
    "read",
    "read_frame",
    "ring",
    "ring_map",
]
__dir__ = __all__.copy  # what completion shows
