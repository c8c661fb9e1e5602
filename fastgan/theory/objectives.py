"""f-divergences as games: the optimum of the objective is KL, Pearson, ... instead of JSD.

Any f-divergence is the supremum over functions T of E_p T(x) - E_q f*(T(x)), reached at T = f'(p/q) (Nguyen et al.,
2010). Here T is a function of the logit l, T = f'(exp l), so that the optimal logit is log p(x) - log q(x) for every
divergence. Objectives with exp(l) overflow for float32 logits above 88 (Pearson: 44). All are plain PyTorch, twice
differentiable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgan._errors import Invalid, check_choice
from fastgan._options import DivergenceKind
from fastgan.reference import softplus

from .arrays import Array, take, take_distributions
from .discriminator import LOG4
from .divergences import (
    LOG2,
    hellinger_divergence,
    js_divergence,
    kl_divergence,
    pearson_divergence,
    reverse_kl_divergence,
)


class FDivergence(NamedTuple):
    """One divergence D_f(p||q) = sum q f(p/q) and its game, as functions of the logit l."""

    divergence: Callable[..., Any]
    real_term: Callable[[Tensor], Tensor]  # T = f'(exp l): D's gain on data
    fake_term: Callable[[Tensor], Tensor]  # f*(T): D's cost on samples


def _gan_divergence(p: Array, q: Array, *, dx: Array | None = None) -> Any:
    return 2 * js_divergence(p, q, dx=dx) - LOG4


F_DIVERGENCES = {
    # f(u) = u log u - (u + 1) log(u + 1)
    "gan": FDivergence(_gan_divergence, lambda v: -softplus(-v), softplus),
    # f(u) = (u log u - (u + 1) log((u + 1) / 2)) / 2
    "js": FDivergence(js_divergence, lambda v: (LOG2 - softplus(-v)) / 2, lambda v: (softplus(v) - LOG2) / 2),
    # f(u) = u log u
    "kl": FDivergence(kl_divergence, lambda v: 1 + v, torch.exp),
    # f(u) = -log u
    "reverse_kl": FDivergence(reverse_kl_divergence, lambda v: -torch.exp(-v), lambda v: v - 1),
    # f(u) = (u - 1)^2
    "pearson": FDivergence(pearson_divergence, lambda v: 2 * torch.expm1(v), lambda v: torch.expm1(2 * v)),
    # f(u) = (sqrt u - 1)^2
    "hellinger": FDivergence(hellinger_divergence, lambda v: -torch.expm1(-v / 2), lambda v: torch.expm1(v / 2)),
}


def f_terms(p: Tensor, q: Tensor, logits: Tensor, kind: DivergenceKind) -> Tensor:
    """p T - q f*(T) of each outcome; 0 for an outcome without mass, even if T is infinite."""
    game = F_DIVERGENCES[kind]
    gain = torch.where(p == 0, 0.0, p * game.real_term(logits))
    return gain - torch.where(q == 0, 0.0, q * game.fake_term(logits))


def f_divergence(p: Array, q: Array, *, kind: DivergenceKind, dx: Array | None = None) -> Any:
    """The divergence D_f(p||q) that G minimises in the game of this kind, in nats where it has a unit.

    Args:
        p, q: (..., outcomes) probabilities, or densities on a grid.
        kind: "gan" (2 JSD - log 4), "js", "kl", "reverse_kl", "pearson" or "hellinger".
        dx: None, or the widths of the grid's cells.

    Returns:
        (...) of the kind of p and q.

    Source: Nowozin, Cseke, Tomioka (2016), f-GAN, table 1; "js" is half of theirs.
    """
    check_choice("f_divergence", "kind", kind, tuple(F_DIVERGENCES))
    return F_DIVERGENCES[kind].divergence(p, q, dx=dx)


def f_value(p: Array, q: Array, logits: Array, *, kind: DivergenceKind, dx: Array | None = None) -> Any:
    """The discriminator's expected objective E_p T - E_q f*(T): at most D_f(p||q), reached at logits log p - log q.

    Args:
        p, q: (..., outcomes) p_data and p_g: probabilities, or densities on a grid.
        logits: (..., outcomes) of D.
        kind, dx: as for `f_divergence`.

    Returns:
        (...) of the kind of the arguments; differentiable.

    Raises:
        ValueError: p or q is no distribution, an unknown kind.

    Source: Nowozin, Cseke, Tomioka (2016), eq. 4.
    """
    check_choice("f_value", "kind", kind, tuple(F_DIVERGENCES))
    (p_, q_), weight, _ = take_distributions("f_value", dx, p=p, q=q)
    (_, _, l_), back = take("f_value", p=p, q=q, logits=logits)
    if l_.shape[-1:] != p_.shape[-1:]:
        raise Invalid("f_value").value(
            "logits", f"must be one for each of {p_.shape[-1]} outcomes, got {tuple(l_.shape)}"
        )
    return back((f_terms(p_, q_, l_, kind) * weight).sum(-1))


def f_discriminator_loss(real_logits: Tensor, fake_logits: Tensor, *, kind: DivergenceKind) -> Tensor:
    """The discriminator's loss of the f-GAN: minus the estimate mean T(x) - mean f*(T(G(z))).

    For "gan" it is `fastgan.discriminator_loss`.

    Args:
        real_logits, fake_logits: of the data and of G's samples, any shape.
        kind: as for `f_divergence`.

    Returns:
        Scalar Tensor.

    Source: Nowozin, Cseke, Tomioka (2016), eq. 6.
    """
    check_choice("f_discriminator_loss", "kind", kind, tuple(F_DIVERGENCES))
    game = F_DIVERGENCES[kind]
    return game.fake_term(fake_logits).mean() - game.real_term(real_logits).mean()


def f_generator_loss(fake_logits: Tensor, *, kind: DivergenceKind, saturating: bool = False) -> Tensor:
    """The generator's loss of the f-GAN: -mean T(G(z)), the analogue of -log D, or -mean f*(T(G(z))).

    For "gan" these are the kinds "non_saturating" and "minimax" of `fastgan.generator_loss`.

    Args:
        fake_logits: of G's samples, any shape.
        kind: as for `f_divergence`.
        saturating: use the second, the term of the game itself.

    Returns:
        Scalar Tensor.

    Source: Nowozin, Cseke, Tomioka (2016), eq. 6 and section 3.2.
    """
    check_choice("f_generator_loss", "kind", kind, tuple(F_DIVERGENCES))
    game = F_DIVERGENCES[kind]
    return -(game.fake_term if saturating else game.real_term)(fake_logits).mean()
