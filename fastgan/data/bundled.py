"""Real data that comes with a package: nothing is downloaded."""

from __future__ import annotations

import numpy as np
import torch

from fastgan._extras import need

from .dataset import Dataset


def digits() -> Dataset:
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn bundles, values k/16 in [0, 1].

    Equivalent to `sklearn.datasets.load_digits().data / 16`.

    Returns: rows (1797, 64) float32, labels 0 to 9. The test set of UCI's Optical Recognition of Handwritten
    Digits.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    datasets = need("sklearn.datasets", what="fastgan.data.digits", package="scikit-learn")
    pixels, labels = datasets.load_digits(return_X_y=True)
    return Dataset(
        torch.from_numpy((pixels / 16).astype(np.float32)),
        name="digits",
        image_shape=(8, 8),
        value_range=(0.0, 1.0),
        labels=torch.from_numpy(labels.astype(np.int64)),
    )
