"""The paper's figure 1 from a real run: two small networks, at the four stages that it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fastgan import data, evaluation, losses, nn, theory
from fastgan.models import GAN
from fastgan.training import Adam, TrainConfig, train

from . import style
from .style import Array

MEAN, STD = 0.5, 0.6  # of the data
_START = -0.6, 0.8  # of G's Gaussian
_AXIS = -2.6, 2.6
_ROWS = 20_000
_ITERATIONS, _ALONE, _EPOCHS = (25, 400), 25, 5  # of each rate, first and last; steps of G alone; of D alone
_RATES = (3e-3, 1e-3, 3e-4, 1e-4)  # of the last iterations


@dataclass(frozen=True)
class Stage:
    """One panel of the figure.

    Args:
        title: what was trained last.
        x: (points,) the x axis.
        p_data, p_g, d: (points,) the densities of the data and of G, and D(x).
        d_star: (points,) the optimal discriminator p_data / (p_data + p_g).
        z, g: (arrows,) noise, evenly spaced, and G(z).
    """

    title: str
    x: Array
    p_data: Array
    p_g: Array
    d: Array
    d_star: Array
    z: Array
    g: Array


def figure1_stages(seed: int = 0) -> list[Stage]:
    """The four stages of the paper's Figure 1, from a run of Algorithm 1 on N(0.5, 0.6^2).

    (a) D is only partly right. (b) D was trained to its optimum, G fixed. (c) G followed D's gradient, D fixed.
    (d) Both were trained in turns until D is 1/2. G is one linear unit of z ~ N(0, 1), so that p_g is known exactly; D
    is a multilayer perceptron.

    Args:
        seed: of the weights, the data and the noise.

    Source: Goodfellow et al. (2014), figure 1.
    """
    rows = data.gaussian(_ROWS, MEAN, STD, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        gan = GAN(nn.Linear(1, 1), nn.MLP([1, 32, 32, 1], activation="tanh"), latent_dim=1)
    for parameter, value in zip(gan.generator.parameters(), reversed(_START), strict=True):
        torch.nn.init.constant_(parameter, value)
    _alternate(gan, rows, (1e-3,), steps=_ITERATIONS[0], k=1, seed=seed)
    stages = [_look(gan, "(a) D is partly right")]
    fakes = gan.sample(_ROWS, seed=seed + 1)
    evaluation.fit_discriminator(gan.discriminator, rows, fakes, epochs=_EPOCHS, learning_rate=3e-3, seed=seed)
    stages.append(_look(gan, "(b) D learns, G waits"))
    _generator_alone(gan, steps=_ALONE, seed=seed)
    stages.append(_look(gan, "(c) G follows D's gradient"))
    _alternate(gan, rows, _RATES, steps=_ITERATIONS[1], k=5, seed=seed)
    return [*stages, _look(gan, "(d) in the end D is 1/2")]


def _alternate(gan: GAN, rows: data.Dataset, rates: tuple[float, ...], *, steps: int, k: int, seed: int) -> None:
    """Algorithm 1 with falling learning rates, so that it converges."""
    for number, rate in enumerate(rates):
        optimizer = Adam(rate, betas=(0.5, 0.9))
        config = TrainConfig(steps=steps, batch_size=512, k=k, optimizer=optimizer, seed=seed + number)
        train(gan, rows, config)


def _generator_alone(gan: GAN, *, steps: int, seed: int) -> None:
    """G descends -log D(G(z)) with D fixed."""
    optimizer = torch.optim.Adam(gan.generator.parameters(), 1e-2)
    for step in range(steps):
        optimizer.zero_grad()
        losses.generator_loss(gan.discriminator(gan(gan.noise(512, seed=seed, step=step)))).backward()
        optimizer.step()


@torch.no_grad()
def _look(gan: GAN, title: str) -> Stage:
    """The current state of both networks."""
    scale, mean = (float(parameter) for parameter in gan.generator.parameters())
    x = torch.linspace(*_AXIS, 521, dtype=torch.float64)
    p_data, p_g = theory.gaussian_density(x, MEAN, STD), theory.gaussian_density(x, mean, abs(scale))
    z = torch.linspace(-2.4, 2.4, 17, dtype=torch.float64)
    d = torch.sigmoid(gan.logits(x[:, None]).double())
    columns = (x, p_data, p_g, d, theory.optimal_discriminator(p_data, p_g), z, mean + scale * z)
    return Stage(title, *(column.numpy() for column in columns))


def figure1(path: style.PathLike | None = None, *, seed: int = 0) -> Any:
    """The picture of `figure1_stages`: densities and D above, the map from z to x = G(z) below."""
    stages = figure1_stages(seed)
    figure = style.figure(14, 4.6)
    tops, maps = figure.subplots(2, 4, sharex=True, sharey="row", height_ratios=(3, 1))
    for stage, top, below in zip(stages, tops, maps, strict=True):
        _densities(top, stage)
        _arrows(below, stage)
    tops[0].set_ylabel("density, and probability", fontsize=11, color=style.INK)
    first = stages[0]
    tops[0].text(_START[0], first.p_g.max() + 0.02, "$p_g$", fontsize=12, color=style.ORANGE, ha="center")
    tops[0].text(MEAN + 0.75, 0.4, "$p_{data}$", fontsize=12, color=style.BLUE)
    tops[0].text(2.5, first.d[-1] - 0.08, "D(x)", fontsize=12, color=style.PURPLE, ha="right")
    tops[1].text(-2.5, 0.8, r"dotted: $\frac{p_{data}}{p_{data}+p_g}$", fontsize=13, color=style.INK)
    last = stages[-1]
    known = abs(last.x - MEAN) < 3 * STD
    furthest = abs(last.d - 0.5)[known].max()
    where = "within $3\\sigma$ of the data's mean"
    text = f"off by at most {furthest:.3f}\n{where}"
    tops[3].text(-2.5, 0.86, text, fontsize=10, color=style.PURPLE)
    begun, ended = _ITERATIONS[0], _ITERATIONS[0] + len(_RATES) * _ITERATIONS[1]
    told = f"(a) iteration {begun}, (b) {_EPOCHS} epochs of D, (c) {_ALONE} steps of G, (d) iteration {ended:,}"
    return style.save(figure, path, f"{_ROWS:,} rows of mean {MEAN} and std {STD}: {told}; seed {seed}")


def _densities(axes: Any, stage: Stage) -> None:
    axes.fill_between(stage.x, stage.p_data, color=style.BLUE, alpha=0.25, lw=0)
    axes.plot(stage.x, stage.p_g, color=style.ORANGE, lw=2.2)
    axes.plot(stage.x, stage.d, color=style.PURPLE, lw=2.2)
    axes.plot(stage.x, stage.d_star, ":", color=style.INK, lw=1.4)
    style.label(axes, stage.title, "", "")
    axes.set(xlim=_AXIS, ylim=(0, 1.05))


def _arrows(axes: Any, stage: Stage) -> None:
    """z on the lower line, x = G(z) on the upper one."""
    look = {"arrowstyle": "-|>", "color": style.ORANGE, "lw": 0.9, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7}
    for z, x in zip(stage.z, stage.g, strict=True):
        axes.annotate("", (x, 1), (z, 0), arrowprops=look, annotation_clip=False)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 1], labels=["z", "x = G(z)"])
    axes.tick_params(labelsize=10, colors=style.INK, length=0)
    for side in ("left", "right"):
        axes.spines[side].set_visible(False)
