"""Models with a density that a GAN is compared with: Gaussian mixture, kernel density, variational auto-encoder."""

from __future__ import annotations

import importlib
import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan import evaluation, nn, random
from fastgan._errors import Invalid
from fastgan._extras import need
from fastgan._options import ActivationName
from fastgan.random import Purpose

_MIXTURE_ROWS = 10_000
_KERNEL_ROWS = 10_000
_COMPONENTS = (1, 2, 4, 8, 16, 25, 32)
_LEAST_VARIANCES = (1e-6, 1e-4, 1e-2)  # of the variances, in those of the data


@dataclass(frozen=True)
class Baseline:
    """A fitted model.

    Args:
        name: of the model.
        about: what was chosen, as "8 components".
        sample: from n and a seed to (n, features) float32.
        log_density: from rows (m, features) to their log-densities (m,) in nats.
        bound: whether that is a lower bound.
    """

    name: str
    about: str
    sample: Callable[[int, int], Tensor]
    log_density: Callable[[Tensor], Tensor]
    bound: bool = False


def gaussian_mixture(
    train: Tensor, validation: Tensor, *, components: Sequence[int] = _COMPONENTS, seed: int = 0
) -> Baseline:
    """Maximum likelihood of a mixture of Gaussians by expectation maximisation, which scikit-learn does.

    The number of components, and the lower bound of the variances, are those of the highest validation likelihood.

    Args:
        train: (n, features); the first 10,000 are used.
        validation: (m, features).
        components: numbers to choose from; those above a tenth of the rows are left out.
        seed: of the first means.

    Raises:
        ImportError: scikit-learn is not installed. ValueError: no number of components is left.
    """
    mixture = need("sklearn.mixture", what="fastgan.apps.baselines.gaussian_mixture", package="scikit-learn")
    # k-means, which places the first means, waits at barriers of its threads longer than it computes.
    limits = importlib.import_module("threadpoolctl").threadpool_limits
    rows, held_out = _arrays(train[:_MIXTURE_ROWS], validation)
    usable = [k for k in components if 1 <= k <= max(1, len(rows) // 10)]
    if not usable:
        raise Invalid("gaussian_mixture").value("components", f"must fit {len(rows)} rows, got {list(components)}")
    scale = float(rows.var(0).mean()) or 1.0
    best, score = None, -math.inf
    for least in _LEAST_VARIANCES:
        for k in usable:
            model = mixture.GaussianMixture(k, reg_covar=least * scale, random_state=seed, max_iter=200)
            with warnings.catch_warnings(), limits(1):
                warnings.simplefilter("ignore")  # that it has not converged shows in its likelihood
                found = model.fit(rows).score(held_out)
            if found > score:
                best, score = model, found

    def sample(n: int, seed: int) -> Tensor:
        best.set_params(random_state=seed)  # type: ignore[union-attr]
        drawn = best.sample(n)[0]  # type: ignore[union-attr]
        return torch.from_numpy(np.random.default_rng(seed).permutation(drawn).astype(np.float32))

    plural = "s" if best.n_components > 1 else ""  # type: ignore[union-attr]
    return Baseline("GMM", f"{best.n_components} component{plural}", sample, _scored(best))  # type: ignore[union-attr]


def kernel_density(
    train: Tensor, validation: Tensor, *, sigmas: Sequence[float] = evaluation.PARZEN_SIGMAS
) -> Baseline:
    """A Gaussian about every training row, of the width under which the validation rows are likeliest.

    Args:
        train: (n, features); the first 10,000 are used.
        validation: (m, features); the first 1,000 are used.
        sigmas: widths to choose from.

    Raises:
        ImportError: scikit-learn is not installed. TypeError, ValueError: as `evaluation.parzen_sigma`.
    """
    neighbors = need("sklearn.neighbors", what="fastgan.apps.baselines.kernel_density", package="scikit-learn")
    rows = train[:_KERNEL_ROWS]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="parzen_sigma")
        sigma = evaluation.parzen_sigma(rows, validation, sigmas)
    model = neighbors.KernelDensity(bandwidth=sigma).fit(_arrays(rows)[0])

    def sample(n: int, seed: int) -> Tensor:
        return torch.from_numpy(model.sample(n, random_state=seed).astype(np.float32))

    return Baseline("KDE", f"width {sigma:.3g}", sample, _scored(model))


def variational_autoencoder(
    train: Tensor,
    *,
    hidden: Sequence[int] = (128, 128),
    code: int = 2,
    output_activation: ActivationName | None = None,
    steps: int = 5000,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> Baseline:
    """A VAE of the same perceptrons as a GAN's; its samples are the decoder's means.

    Args:
        train: (n, features).
        hidden: widths of the encoder's hidden layers, the decoder's reversed.
        code: length of z.
        output_activation: of the decoder, as for G.
        steps: of Adam, whose rate falls to 0 along a cosine.
        batch_size, learning_rate: of the steps.
        seed: of weights, order and noise.

    Raises:
        ValueError: a number that breaks its rule.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.VAE([train.shape[1], *hidden, code], output_activation=output_activation)
    # From a wide sigma it would find the code not worth its price, and leave it out.
    torch.nn.init.constant_(model.log_sigma, math.log(0.1 * float(train.std(0).mean()) or 1.0))

    def loss(batch: Tensor, step: int) -> Tensor:
        return model.loss(batch, _noise(len(batch), code, seed, Purpose.NOISE_G, step))

    minimise(model, loss, train, steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed)

    @torch.no_grad()
    def sample(n: int, seed: int) -> Tensor:
        drawn: Tensor = model.decoder(_noise(n, code, seed, Purpose.SAMPLE))
        return drawn

    @torch.no_grad()
    def bound(x: Tensor) -> Tensor:
        draws = [model(x.float(), _noise(len(x), code, seed, Purpose.NOISE_D, draw)) for draw in range(16)]
        return torch.stack(draws).double().mean(0)

    about = f"code of {code}, sigma {model.log_sigma.exp().item():.3g}"
    return Baseline("VAE", about, sample, bound, bound=True)


def minimise(
    model: torch.nn.Module,
    loss: Callable[[Tensor, int], Tensor],
    rows: Tensor,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> None:
    """Adam on minibatches without replacement, its rate falling to 0 along a cosine.

    Args:
        model: whose parameters move.
        loss: of a batch (m, features), at the step of that number.
        rows: (n, features).
        steps, batch_size, learning_rate, seed: how long, how many rows, how fast, in which order.

    Raises:
        ValueError: a number that breaks its rule.
    """
    for name, value, most in (("steps", steps, math.inf), ("batch_size", batch_size, len(rows))):
        if not 1 <= value <= most:
            raise Invalid("minimise").value(name, f"must be from 1 to {most:g}, got {value}")
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batches = (
        batch
        for epoch in itertools.count()
        for batch in random.permutation(len(rows), seed=seed, epoch=epoch).split(batch_size)
        if len(batch) == batch_size
    )
    for step, batch in zip(range(steps), batches, strict=False):
        optimizer.zero_grad()
        loss(rows[batch], step).backward()
        optimizer.step()
        schedule.step()


def _noise(n: int, code: int, seed: int, purpose: Purpose, step: int = 0) -> Tensor:
    return random.normal((n, code), seed=seed, purpose=purpose, step=step)


def _arrays(*rows: Tensor) -> list[Any]:
    return [part.double().numpy() for part in rows]


def _scored(model: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.from_numpy(model.score_samples(_arrays(x)[0]))
