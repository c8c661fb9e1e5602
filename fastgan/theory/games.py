"""Games that can be solved exactly: in function space, between two Gaussians, and the bilinear one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fastgan import _options
from fastgan._errors import Invalid, check_choice
from fastgan._options import TheoryGeneratorKind, UpdateMode
from fastgan._results import Result

from .arrays import Array, check_positive, take, take_distributions
from .densities import gaussian_density
from .discriminator import generator_gradient, training_criterion
from .divergences import js_terms


@dataclass(frozen=True, eq=False, repr=False)
class FunctionalGame(Result):
    """The trajectory of `functional_game`; row t is after t updates.

    Args:
        p_g: (steps + 1, outcomes) the generator's distribution.
        js: (steps + 1,) JSD(p_data||p_g) in nats; the game's value is 2 js - log 4.
    """

    p_g: Any
    js: Any


def functional_game(p_data: Array, p_g0: Array, steps: int, *, step_size: float = 0.1) -> FunctionalGame:
    """The game in function space: D is optimal at each step, and p_g descends its gradient log(1 - D*).

    The update is mirror descent on the simplex, p_g <- p_g exp(-step_size log(1 - D*)) / Z. As 1 - D* = p_g / (p_data +
    p_g), it equals p_g^(1-step_size) (p_data + p_g)^step_size / Z. The criterion is convex in p_g, and its second
    derivative is at most that of the negative entropy, so it never rises for step sizes up to 1.

    Args:
        p_data: (outcomes,) probabilities.
        p_g0: (outcomes,) G's distribution at the start; positive wherever p_data is, because a zero stays zero.
        steps: number of updates.
        step_size: in (0, 1]; at 1 each update goes half the way to p_data.

    Returns:
        FunctionalGame, with arrays of the kind of the arguments.

    Raises:
        ValueError: no distributions, a p_g0 that lacks outcomes of p_data, steps or step_size out of range.

    Source: Goodfellow et al. (2014), proposition 2.
    """
    caller = "functional_game"
    Invalid(caller).check_integer("steps", steps, 1)
    Invalid(caller).check_number("step_size", step_size)
    if not 0 < step_size <= 1:
        raise Invalid(caller).value("step_size", f"must lie in (0, 1], got {step_size}")
    (p, q), _, back = take_distributions(caller, None, p_data=p_data, p_g0=p_g0)
    if p.ndim != 1 or q.ndim != 1:
        raise Invalid(caller).value(
            "p_data and p_g0", f"must be (outcomes,), got {tuple(p.shape)} and {tuple(q.shape)}"
        )
    if bool(((q == 0) & (p > 0)).any()):
        raise Invalid(caller).value("p_g0", "must be positive wherever p_data is, got 0")
    trajectory = [q / q.sum()]
    for _ in range(steps):
        moved = trajectory[-1].pow(1 - step_size) * (p + trajectory[-1]).pow(step_size)
        trajectory.append(moved / moved.sum())
    p_g = torch.stack(trajectory)
    return FunctionalGame(back(p_g), back(js_terms(p, p_g).sum(-1)))


@dataclass(frozen=True, eq=False, repr=False)
class GaussianGame(Result):
    """The trajectory of `gaussian_game`; entry t is after t steps of G.

    Args:
        mean: (steps + 1,) the mean of G's Gaussian; the data's is 0.
        value: (steps + 1,) V(G, D*) in nats.
    """

    mean: Any
    value: Any


def gaussian_game(
    mean: float = 3.0, *, steps: int = 200, learning_rate: float = 0.07, kind: TheoryGeneratorKind = "minimax"
) -> GaussianGame:
    """Alternate between the optimal D* and a step of G, for G's N(mean, 1) and the data N(0, 1).

    G has one parameter, its mean. D* is exact, and the expectations are sums over a fine grid.

    Args:
        mean: G's mean at the start, from -20 to 20.
        steps: steps of G.
        learning_rate: of gradient descent on G's objective.
        kind: "minimax", "non_saturating" or "mle", as in `fastgan.generator_loss`.

    Returns:
        GaussianGame of numpy arrays.

    Raises:
        ValueError: an argument out of range, or a step that left the grid.

    Source: Goodfellow et al. (2014), theorem 1 and section 4.2.
    """
    caller = "gaussian_game"
    Invalid(caller).check_integer("steps", steps, 1)
    check_positive(caller, "learning_rate", learning_rate)
    Invalid(caller).check_number("mean", mean)
    x = torch.linspace(-30.0, 30.0, 6001, dtype=torch.float64)
    dx = float(x[1] - x[0])
    p = gaussian_density(x)
    means, values = [float(mean)], []
    for t in range(steps + 1):
        theta = means[-1]
        if not abs(theta) <= 20:
            raise Invalid(caller).value("G's mean", f"must stay within 20 of the data's, got {theta} after {t} steps")
        q = gaussian_density(x, theta)
        values.append(float(training_criterion(p, q, dx=dx)))
        grad = float(generator_gradient(p, q, (x - theta) * q, kind=kind, dx=dx))
        means.append(theta - learning_rate * grad)
    (trajectory, value), back = take(caller, mean=means[:-1], value=values)
    return GaussianGame(back(trajectory), back(value))


def bilinear_game(eta: float, mode: UpdateMode, *, steps: int = 100, start: tuple[float, float] = (1.0, 0.0)) -> Any:
    """Gradient descent of x and ascent of y on V(x, y) = x y, whose only equilibrium is (0, 0).

    Simultaneous steps x - eta y, y + eta x multiply the distance from it by sqrt(1 + eta^2), so they diverge at any
    rate. Alternating steps, in which y uses the new x, keep x^2 + y^2 - eta x y constant, and circle if eta < 2.

    Args:
        eta: step size of both players.
        mode: "simultaneous" or "alternating".
        steps: number of steps.
        start: (x, y).

    Returns:
        float64 array (steps + 1, 2) of the points (x, y).

    Raises:
        ValueError: an unknown mode, eta or steps out of range.

    Source: Goodfellow (2016), NIPS tutorial, exercise 7.2.
    """
    caller = "bilinear_game"
    check_choice(caller, "mode", mode, _options.names(UpdateMode))
    check_positive(caller, "eta", eta)
    Invalid(caller).check_integer("steps", steps, 1)
    x, y = (float(v) for v in start)
    trajectory = [(x, y)]
    for _ in range(steps):
        before = x
        x -= eta * y
        y += eta * (before if mode == "simultaneous" else x)
        trajectory.append((x, y))
    (points,), back = take(caller, trajectory=trajectory)
    return back(points)
