"""The value of the game, the optimal discriminator, and the generator's criterion.

Proposition 1 and theorem 1 of Goodfellow et al. (2014), as functions of p = p_data and q = p_g.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastgan import _options, reference
from fastgan._errors import Invalid, check_choice
from fastgan._options import TheoryGeneratorKind

from .arrays import Array, check_non_negative, precision, take, take_distributions
from .divergences import LOG2, js_terms

LOG4 = math.log(4.0)
GENERATOR_KINDS = _options.names(TheoryGeneratorKind)


def optimal_discriminator(p: Array, q: Array, *, real_label: float = 1.0, fake_label: float = 0.0) -> Any:
    """The discriminator that maximises V(G, D) for a fixed G: D*(x) = p(x) / (p(x) + q(x)).

    Equivalent to `(real_label * p + fake_label * q) / (p + q)`. Where p = q = 0, V does not depend on D, and D* is
    NaN.

    Args:
        p, q: probabilities or densities of the data and of G's samples at the same points, any shape.
        real_label, fake_label: targets of D in [0, 1]; 0.9 and 0 is one-sided smoothing.

    Returns:
        Array like p and q.

    Raises:
        ValueError: negative or infinite p or q, different shapes, labels outside [0, 1].

    Source: Goodfellow et al. (2014), proposition 1.
    """
    caller = "optimal_discriminator"
    for name, label in (("real_label", real_label), ("fake_label", fake_label)):
        Invalid(caller).check_number(name, label)
        if not 0.0 <= label <= 1.0:
            raise Invalid(caller).value(name, f"must lie in [0, 1], got {label}")
    (p_, q_), back = take(caller, p=p, q=q)
    check_non_negative(caller, "p", p_)
    check_non_negative(caller, "q", q_)
    if p_.shape != q_.shape:
        raise Invalid(caller).value("p and q", f"must have one shape, got {tuple(p_.shape)} and {tuple(q_.shape)}")
    largest = torch.maximum(p_, q_).detach()  # their sum may overflow, and quotients of subnormal numbers are rough
    p_, q_ = p_ / largest, q_ / largest
    return back((real_label * p_ + fake_label * q_) / (p_ + q_))


def value(p: Array, q: Array, d: Array, *, clamp: bool = False, dx: Array | None = None) -> Any:
    """The value of the two-player game V(G, D) = E_p log D(x) + E_q log(1 - D(x)).

    0 log 0 is 0. V is -inf where D is 0 or 1 and wrong. Where q is too small to change p + q, D* is rounded to 1; there
    log(1 - D) is computed for D half a unit in the last place below 1. Likewise for D = 0.

    Args:
        p: (..., outcomes) p_data: probabilities, or densities on a grid.
        q: (..., outcomes) p_g, likewise.
        d: (..., outcomes) D(x) in [0, 1]; ignored where p = q = 0.
        clamp: replace D = 1 by half a unit in the last place below 1, and D = 0 by the smallest normal number, at all
            outcomes, so that V is finite.
        dx: None, or the widths of the grid's cells: one number or (outcomes,).

    Returns:
        (...) of the kind of the arguments, in nats.

    Raises:
        ValueError: p or q is no distribution, or d lies outside [0, 1].

    Source: Goodfellow et al. (2014), eq. 1.
    """
    caller = "value"
    (p_, q_), weight, _ = take_distributions(caller, dx, p=p, q=q)
    (_, _, d_), back = take(caller, p=p, q=q, d=d)
    if d_.shape[-1:] != p_.shape[-1:]:
        raise Invalid(caller).value(
            "d", f"must have one number for each of {p_.shape[-1]} outcomes, got {tuple(d_.shape)}"
        )
    nowhere = (p_ == 0) & (q_ == 0)
    d_ = torch.where(nowhere, 0.5, d_.to(p_.device))
    outside = ~((d_ >= 0) & (d_ <= 1))
    if bool(outside.any()):
        raise Invalid(caller).value("d", f"must be probabilities in [0, 1], got {d_[outside][0].item()}")
    info = torch.finfo(precision(d))
    unseen_p, unseen_q = p_ <= info.tiny * q_, q_ <= info.eps / 2 * p_
    real = torch.maximum(d_, (unseen_p | clamp).double() * info.tiny)
    fake = torch.maximum(1 - d_, (unseen_q | clamp).double() * (info.eps / 4))
    terms = torch.special.xlogy(p_, real) + torch.special.xlogy(q_, fake)
    return back((terms * weight).sum(-1))


def sample_value(real_logits: Array, fake_logits: Array) -> Any:
    """V(G, D) estimated from samples: mean log D(x) + mean log(1 - D(G(z))), D = sigmoid of the logit.

    Equivalent to `-fastgan.discriminator_loss(real_logits, fake_logits)`.

    Args:
        real_logits, fake_logits: logits of the data and of G's samples, any shape and number.

    Returns:
        Scalar of the kind of the arguments, in nats.

    Raises:
        ValueError: no logits.
    """
    (real, fake), back = take("sample_value", real_logits=real_logits, fake_logits=fake_logits)
    for name, logits in (("real_logits", real), ("fake_logits", fake)):
        if logits.numel() == 0:
            raise Invalid("sample_value").value(name, f"must not be empty, got shape {tuple(logits.shape)}")
    return back(-reference.pair_loss(real, fake, "non_saturating", "fake", 0.0, 0.0, mean=True))


def training_criterion(p: Array, q: Array, *, dx: Array | None = None) -> Any:
    """The virtual training criterion C(G) = max over D of V(G, D) = -log 4 + 2 JSD(p||q).

    Equivalent to `value(p, q, optimal_discriminator(p, q))`. Its minimum -log 4 is reached only where q = p.

    Args:
        p, q: (..., outcomes) p_data and p_g: probabilities, or densities on a grid.
        dx: as for `value`.

    Returns:
        (...) of the kind of p and q, in nats.

    Source: Goodfellow et al. (2014), theorem 1 and eq. 6.
    """
    (p_, q_), weight, back = take_distributions("training_criterion", dx, p=p, q=q)
    return back(2 * (js_terms(p_, q_) * weight).sum(-1).clamp(0.0, LOG2) - LOG4)


def js_from_value(v: Array) -> Any:
    """The Jensen-Shannon divergence from the value of the game at the optimal D: (V + log 4) / 2.

    For any other D it is a lower bound. On the rows that D was fitted to it is too large.
    """
    (v_,), back = take("js_from_value", v=v)
    return back((v_ + LOG4) / 2)


def generator_gradient(p: Array, q: Array, grad_q: Array, *, kind: TheoryGeneratorKind, dx: Array | None = None) -> Any:
    """The expected gradient of a generator's objective with D fixed at its optimum.

    Equivalent to the derivative of `sum q_theta * loss(l)` at fixed logits l = log p - log q of D*. It is the gradient
    of 2 JSD(p||q) for "minimax", of KL(q||p) - 2 JSD(p||q) for "non_saturating" and of KL(p||q) / 2 for "mle".

    Args:
        p, q: (outcomes,) p_data and p_g: probabilities, or densities on a grid.
        grad_q: (..., outcomes) derivative of q with respect to each parameter.
        kind: of the objective, as in `fastgan.generator_loss`: "minimax", "non_saturating" or "mle".
        dx: as for `value`.

    Returns:
        (...) of the kind of the arguments.

    Raises:
        ValueError: p or q is no distribution, an unknown kind.

    Source: Goodfellow et al. (2014), theorem 1; Arjovsky and Bottou (2017), theorem 2.5; Goodfellow (2016), 3.2.3.
    """
    caller = "generator_gradient"
    check_choice(caller, "kind", kind, GENERATOR_KINDS)
    (p_, q_), weight, _ = take_distributions(caller, dx, p=p, q=q)
    (_, _, grad), back = take(caller, p=p, q=q, grad_q=grad_q)
    if grad.shape[-1:] != q_.shape[-1:]:
        raise Invalid(caller).value("grad_q", f"must have {q_.shape[-1]} outcomes, got shape {tuple(grad.shape)}")
    loss = reference.pointwise(_log_ratio(p_, q_), kind)
    # Where q and its derivative underflow, the loss may be infinite; the product is then 0.
    return back((torch.where(grad == 0, 0.0, loss * grad) * weight).sum(-1))


def _log_ratio(p: Tensor, q: Tensor) -> Tensor:
    """The logit of D*; 0 where neither has mass."""
    return torch.where((p == 0) & (q == 0), 0.0, p.log() - q.log())
