"""Illustrations of learning: convergence, D as a density ratio, NCE, auto-encoders, mode collapse."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan import data, evaluation, nn, random, theory
from fastgan._errors import Invalid
from fastgan._torch_settings import torch_threads
from fastgan.models import mlp_gan
from fastgan.random import Purpose
from fastgan.training import Adam, TrainConfig, train

from . import style
from .images import mosaic
from .plane import frame, set_limits
from .probability import COUNTS

_SHOWN = (0, 10, 30, 100)  # updates at which p_g in function space is drawn
_OUTER = (0, 5, 15, 40)  # steps of G at which its Gaussian is drawn
_SAMPLES, _EPOCHS = 100_000, 4  # of each density, and of D's training, for a ratio
_CODES, _BATCH = 5000, 128  # of auto-encoders: codes drawn; rows of a step
_SIDE, _MOST = 10, 20  # images side by side; classes that colours tell apart
_FITTED = 20_000  # rows, and samples of the noise, for noise-contrastive estimation


@torch_threads(1)  # small steps are faster on one thread
def convergence(path: style.PathLike | None = None, *, steps: int = 200) -> Any:
    """The game with the optimal D at every step: in function space, and for a Gaussian G.

    Args:
        path: of the picture; None: the figure is returned, which a notebook shows.
        steps: of both games.

    Source: Goodfellow et al. (2014), proposition 2.
    """
    p = np.array(COUNTS, np.float64).ravel() / np.sum(COUNTS)
    start = np.linspace(1.0, 3.0, len(p))
    game = theory.functional_game(p, start / start.sum(), steps)
    gaussian = theory.gaussian_game(2.5, steps=steps, learning_rate=0.5)
    figure = style.figure(12.5, 7.2)
    (table, js), (outer, value) = figure.subplots(2, 2, width_ratios=(3, 2))
    at = np.arange(len(p))
    table.bar(at, p, 0.9, color=style.BLUE, alpha=0.25, label="$p_{data}$")
    shades = np.linspace(0.25, 1.0, len(_SHOWN))
    for shade, t in zip(shades, _SHOWN, strict=True):
        look = {"color": style.ORANGE, "alpha": shade, "lw": 1.8, "label": f"$p_g$ after {t}"}
        table.stairs(game.p_g[t], np.arange(len(p) + 1) - 0.5, baseline=None, **look)
    style.label(table, "$p_g$ moves down the gradient of log(1 - D*)", "outcome", "probability")
    table.legend(frameon=False, fontsize=9, ncols=2)
    js.semilogy(np.maximum(game.js, 1e-16), color=style.GREEN, lw=2)
    style.label(js, "and the divergence falls at every step", "update", "JSD, nats")
    x = np.linspace(-4.0, 6.5, 800)
    density = theory.gaussian_density(x)
    outer.fill_between(x, density, color=style.BLUE, alpha=0.25, lw=0, label="$p_{data}$")
    for shade, t in zip(shades, _OUTER, strict=True):
        q = theory.gaussian_density(x, float(gaussian.mean[t]))
        outer.plot(x, q, color=style.ORANGE, alpha=shade, lw=1.8, label=f"$G_{{{t}}}$")
        best = theory.optimal_discriminator(density, q)
        outer.plot(x, best, ":", color=style.PURPLE, alpha=shade, lw=1.6, label=f"$D^*_{{{t}}}$")
    outer.set(xlim=(x[0], x[-1]), ylim=(0, 1.02))
    style.label(outer, "$G_0$, find $D_0^*$, step to $G_1$, find $D_1^*$, ...", "x", "density; D*")
    outer.legend(frameon=False, fontsize=9, ncols=2, loc="upper right")
    value.plot(gaussian.value, color=style.PURPLE, lw=2)
    style.reference(value, -math.log(4.0), "-log 4", style.GREY)
    style.label(value, "$V(G_t, D_t^*)$ falls to -log 4", "step of G", "nats")
    value.legend(frameon=False, fontsize=10)
    return style.save(figure, path, f"computed, no samples: {steps} steps each")


@torch_threads(1)  # small steps are faster on one thread
def trained_ratio(*, n: int = _SAMPLES, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A density ratio learned by a classifier: D / (1 - D) of N(0, 1) and N(1, 1).

    Args:
        n: samples of each.
        seed: of samples and weights.

    Returns:
        x, the ratio p / q of the trained D, and the exact ratio; each (401,) float64.
    """
    real, fake = data.gaussian(n, seed=seed), data.gaussian(n, 1.0, seed=seed + 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.MLP([1, 32, 32, 1], activation="tanh")
    evaluation.fit_discriminator(network, real, fake, epochs=_EPOCHS, batch_size=512, learning_rate=5e-3, seed=seed)
    x = torch.linspace(-3.0, 4.0, 401, dtype=torch.float64)
    with torch.no_grad():
        learned = network(x[:, None].float()).flatten().double().exp()  # the logit is the ratio's logarithm
    exact = theory.gaussian_density(x) / theory.gaussian_density(x, 1.0)
    return x, learned, exact


def density_ratio(path: style.PathLike | None = None, *, seed: int = 0) -> Any:
    """The picture of `trained_ratio`: supervised learning estimates p(x) / q(x) from samples."""
    x, learned, exact = trained_ratio(seed=seed)
    figure = style.figure(11, 4.4)
    left, right = figure.subplots(1, 2)
    for mean, colour, name in ((0.0, style.BLUE, "p, real"), (1.0, style.ORANGE, "q, made")):
        left.plot(x, theory.gaussian_density(x, mean), color=colour, lw=2, label=name)
    left.plot(x, learned / (1 + learned), color=style.PURPLE, lw=2, label="D(x), trained")
    left.plot(x, exact / (1 + exact), ":", color=style.INK, lw=1.4, label="p / (p + q)")
    style.label(left, "D learns to tell samples of p from samples of q", "x", "density, and probability")
    right.semilogy(x, learned, color=style.PURPLE, lw=2, label="D / (1 - D)")
    right.semilogy(x, exact, ":", color=style.INK, lw=1.6, label="p / q")
    inside = (x >= -2) & (x <= 3)
    off = float((learned / exact - 1).abs()[inside].max())
    style.label(right, f"its odds are their ratio: off by at most {100 * off:.0f}% in [-2, 3]", "x", "ratio")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=10)
    return style.save(figure, path, f"{_SAMPLES:,} samples of each, {_EPOCHS} epochs, seed {seed}")


@torch_threads(1)  # small steps are faster on one thread
def nce_fit(*, n: int = _FITTED, steps: int = 300, seed: int = 0) -> list[tuple[float, float, float]]:
    """A Gaussian fitted by noise-contrastive estimation: mean, standard deviation and log Z are learned together.

    The model is exp(-(x - mean)^2 / (2 std^2)) / Z with a free Z; maximum likelihood could not leave Z free. The data
    are N(1, 0.7^2), the noise N(0, 2^2).

    Args:
        n: rows of the data, and samples of the noise.
        steps: of Adam on all rows.
        seed: of both.

    Returns:
        (mean, std, Z) after each step, the start first.
    """
    real = data.gaussian(n, 1.0, 0.7, seed=seed).tensor().double().flatten()
    noise = 2.0 * random.normal(n, seed=seed, purpose=Purpose.DATA, step=1, dtype=torch.float64)
    theta = torch.tensor([0.0, math.log(2.0), 0.0], dtype=torch.float64, requires_grad=True)  # mean, log std, log Z
    optimizer, trajectory = torch.optim.Adam([theta], 0.05), []

    def log_model(x: Tensor) -> Tensor:
        return -((x - theta[0]) ** 2) * torch.exp(-2 * theta[1]) / 2 - theta[2]

    def log_noise(x: Tensor) -> Tensor:
        return -(x**2) / 8 - math.log(2 * math.sqrt(2 * math.pi))

    for _ in range(steps + 1):
        mean, log_std, log_z = theta.tolist()
        trajectory.append((mean, math.exp(log_std), math.exp(log_z)))
        optimizer.zero_grad()
        theory.nce_loss(log_model(real), log_noise(real), log_model(noise), log_noise(noise)).backward()
        optimizer.step()
    return trajectory


def nce(path: style.PathLike | None = None, *, seed: int = 0) -> Any:
    """The picture of `nce_fit`: the model beside data and noise, and its three numbers over the steps."""
    trajectory = np.array(nce_fit(seed=seed))
    x = np.linspace(-6.0, 6.0, 800)
    figure = style.figure(11, 4.4)
    left, right = figure.subplots(1, 2)
    left.fill_between(x, theory.gaussian_density(x, 1.0, 0.7), color=style.BLUE, alpha=0.25, lw=0, label="data")
    left.plot(x, theory.gaussian_density(x, 0.0, 2.0), color=style.GREY, lw=1.6, ls="--", label="noise")
    for shade, t in ((0.3, 0), (0.6, 20), (1.0, len(trajectory) - 1)):
        mean, std, z = trajectory[t]
        model = np.exp(-((x - mean) ** 2) / (2 * std**2)) / z
        left.plot(x, model, color=style.ORANGE, alpha=shade, lw=2, label=f"model after {t} steps")
    left.set_ylim(0, 1.05)
    style.label(left, "A model learned by telling data from noise", "x", "density")
    true = (1.0, 0.7, 0.7 * math.sqrt(2 * math.pi))
    names = ("mean", "standard deviation", "normaliser Z, free")
    for column, name, goal, colour in zip(trajectory.T, names, true, style.PALETTE, strict=False):
        right.plot(column, color=colour, lw=2, label=f"{name}: {column[-1]:.3f}, true {goal:.3f}")
        right.axhline(goal, color=colour, lw=1, ls=":")
    style.label(right, "Its parameters", "step", "")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=9)
    return style.save(figure, path, f"{_FITTED:,} rows, as many of the noise, {len(trajectory) - 1} steps, seed {seed}")


@torch_threads(1)  # small steps are faster on one thread
def codes(
    path: style.PathLike | None = None, *, dataset: data.Dataset | None = None, steps: int = 2000, seed: int = 0
) -> Any:
    """An auto-encoder and a variational one of images with labels: codes, reconstructions, decoded noise.

    Args:
        path: of the picture; None: the figure is returned, which a notebook shows.
        dataset: images of at most 20 labels, such as `data.mnist()`; None: the 8x8 digits.
        steps: of training for each.
        seed: of weights, order and noise.

    Raises:
        ImportError: scikit-learn, which has the digits, is missing.
        ValueError: the rows are no images, or have no labels or more than 20.
    """
    ink = dataset is None
    dataset = data.digits() if dataset is None else dataset
    shape, all_labels = _labelled_images(dataset)
    known = (all_labels >= 0).nonzero().flatten()
    classes = all_labels[known].unique()
    low, high = dataset.value_range or (float(dataset.data.min()), float(dataset.data.max()))

    def scaled(index: Tensor) -> Tensor:
        return (dataset.rows(index).flatten(1).float() - low) / (high - low)

    models = _auto_encoders(scaled, dataset, steps, seed)
    count = min(_CODES, len(known))
    index = known[torch.arange(count) * len(known) // count]  # spread evenly over the data, which may be sorted
    rows, labels = scaled(index), all_labels[index]
    first = torch.stack([(labels == label).nonzero()[0, 0] for label in classes[:_SIDE] if (labels == label).any()])
    figure = style.figure(12.5, 7.4)
    axes = figure.subplots(2, 2, height_ratios=(3, 2))
    colour = torch.searchsorted(classes, labels)
    many = len(classes) > 10
    look = {"cmap": "tab20" if many else "tab10", "vmin": -0.5, "vmax": 19.5 if many else 9.5, "s": 8, "lw": 0}
    for j, (name, (encode, decode)) in enumerate(models.items()):
        with torch.no_grad():
            code = encode(rows)
            noise = random.normal((len(first), 2), seed=seed, purpose=Purpose.SAMPLE)
            drawn = noise if j else code.std(0) * noise + code.mean(0)  # only the variational codes are N(0, I)
            whole, made = decode(code), decode(drawn)
        cloud = axes[0, j].scatter(*code.T.numpy(), c=colour.numpy(), **look)
        style.label(axes[0, j], f"{name}: codes of {count:,} rows", "code 1", "code 2" if j == 0 else "")
        shown = torch.cat([rows[first], whole[first], made])
        grid = mosaic(shown, (3, len(first)), shape, (0.0, 1.0), ink)
        axes[1, j].imshow(grid, interpolation="nearest", aspect="equal")
        axes[1, j].set_axis_off()
        error = float((whole - rows).square().mean())
        text = f"rows, their reconstructions (mean squared error {error:.4f}), decoded noise"
        axes[1, j].set_title(text, fontsize=10, loc="left", color=style.INK)
    handles, _ = cloud.legend_elements(num=None)
    names = [str(label) for label in classes[colour.unique()].tolist()]
    legend = {"loc": "outside right upper", "title": "label", "frameon": False, "fontsize": 10, "markerscale": 1.4}
    figure.legend(handles, names, **legend)
    return style.save(figure, path, f"{dataset.name}, {steps:,} steps of {_BATCH} rows each, seed {seed}")


def _labelled_images(dataset: data.Dataset) -> tuple[tuple[int, int], Tensor]:
    """Height and width of the images, and their labels."""
    invalid = Invalid("codes")
    if dataset.image_shape is None or dataset.labels is None:
        raise invalid.value("dataset", f"must be images with labels, got {dataset.name}")
    if len(dataset) < _BATCH:
        raise invalid.value("dataset", f"must have at least {_BATCH} images, got {len(dataset)}")
    count = len(dataset.labels[dataset.labels >= 0].unique())
    if not 0 < count <= _MOST:
        raise invalid.value("dataset", f"must have 1 to {_MOST} different labels, got {count}")
    return dataset.image_shape, dataset.labels


def _auto_encoders(
    rows: Callable[[Tensor], Tensor], dataset: data.Dataset, steps: int, seed: int
) -> dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]:
    """Both models trained: (encoder, decoder) by name, with two numbers between them."""
    sizes = [dataset.shape[1:].numel(), 256, 64, 2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        plain = nn.AutoEncoder(sizes, output_activation="sigmoid")
        variational = nn.VAE(sizes, output_activation="sigmoid")
    torch.nn.init.constant_(variational.log_sigma, math.log(0.2))
    for model in (plain, variational):
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for step in range(steps):
            epoch, number = divmod(step, len(dataset) // _BATCH)
            batch = rows(random.permutation(len(dataset), seed=seed, epoch=epoch, start=_BATCH * number, count=_BATCH))
            noise = random.normal((_BATCH, 2), seed=seed, purpose=Purpose.NOISE_G, step=step)
            optimizer.zero_grad()
            (plain.loss(batch) if model is plain else variational.loss(batch, noise)).backward()
            optimizer.step()
    return {
        "auto-encoder": (plain.encoder, plain.decoder),
        "variational auto-encoder": (lambda x: variational.encoder(x)[:, :2], variational.decoder),
    }


@torch_threads(1)  # small steps are faster on one thread
def collapse(path: style.PathLike | None = None, *, seed: int = 0) -> Any:
    """A collapsed run, with 20 steps of G for each of D, beside a good one, with 2 steps of D for each of G.

    Args:
        path: of the picture; None: the figure is returned, which a notebook shows.
        seed: of weights, order and noise.

    Source: Goodfellow et al. (2014), section 6, "the Helvetica scenario".
    """
    ring = data.ring(20_000, std=0.05, seed=seed)
    assert ring.centres is not None and ring.std is not None
    runs = (
        ("G far ahead: 20 steps to each one of D", {"steps": 150, "generator_steps": 20}),
        ("D ahead: 2 steps to each one of G", {"steps": 3000, "k": 2}),
    )
    centre, half = frame(ring.centres.double().numpy())
    figure = style.figure(11, 5.9)
    figure.get_layout_engine().set(h_pad=0.15)
    for axes, (title, options) in zip(figure.subplots(1, 2, sharey=True), runs, strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            gan = mlp_gan(2, latent_dim=2, hidden=(64, 64))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the warning of a collapse, which is intended
            config = TrainConfig(batch_size=128, optimizer=Adam(1e-3), seed=seed, **options)  # type: ignore[arg-type]
        train(gan, ring, config)
        samples = gan.sample(2500, seed=1)
        found = evaluation.mode_coverage(samples, ring.centres, ring.std)
        axes.scatter(*ring.tensor()[:1500].T.numpy(), s=14, color=style.BLUE, alpha=0.25, lw=0, label="real")
        axes.scatter(*samples[:1500].T.numpy(), s=6, color=style.ORANGE, alpha=0.7, lw=0, label="generated")
        set_limits(axes, centre, half)
        measured = f"{found.covered} of {found.modes} modes, {100 * found.high_quality:.0f}% of samples near one"
        style.label(axes, f"{title}\n{measured}", "$x_1$", "$x_2$")
        axes.set_title(axes.get_title("left"), fontsize=11, loc="left")
        axes.legend(loc="center", frameon=False, fontsize=10, markerscale=2)
    told = " and ".join(f"iteration {options['steps']:,}" for _, options in runs)
    return style.save(figure, path, f"ring of 8 Gaussians, {len(ring):,} rows; {told}; seed {seed}")
