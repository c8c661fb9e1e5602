"""Noise-contrastive and self-contrastive estimation of models with a density."""

from __future__ import annotations

from typing import Any

from fastgan._errors import Invalid

from .arrays import Array, take, take_distributions
from .discriminator import sample_value
from .objectives import f_terms


def nce_loss(real_log_model: Array, real_log_noise: Array, fake_log_model: Array, fake_log_noise: Array) -> Any:
    """The loss of noise-contrastive estimation: D's logit is log p_model(x) - log p_noise(x).

    Equivalent to `fastgan.discriminator_loss(real_log_model - real_log_noise, fake_log_model - fake_log_noise)`. In a
    GAN, D is free and the generator learns; here the noise is fixed and D contains the model.

    Args:
        real_log_model, real_log_noise: log-densities of the data under the model and under the noise, any one shape.
        fake_log_model, fake_log_noise: those of samples of the noise; their number may differ.

    Returns:
        Scalar of the kind of the arguments, in nats; differentiable with respect to the model.

    Raises:
        ValueError: shapes that do not fit, or no samples.

    Source: Gutmann and Hyvarinen (2010); Goodfellow (2014), arXiv 1412.6515.
    """
    (a, b, c, d), back = take("nce_loss", a=real_log_model, b=real_log_noise, c=fake_log_model, d=fake_log_noise)
    for name, model, noise in (("real", a, b), ("fake", c, d)):
        if model.shape != noise.shape:
            raise Invalid("nce_loss").value(
                f"{name}_log_model and {name}_log_noise",
                f"must have one shape, got {tuple(model.shape)} and {tuple(noise.shape)}",
            )
    return back(-sample_value(a - b, c - d))


def nce_objective(p_data: Array, log_model: Array, noise: Array | None = None, *, dx: Array | None = None) -> Any:
    """The expectation of `nce_loss` over p_data and the noise; without noise, that of self-contrastive estimation.

    In self-contrastive estimation the noise is a copy of the model, renewed at every step. D is then 1/2 everywhere and
    the loss is log 4, but the gradient is half that of the expected negative log-likelihood. A GAN's generator has no
    such gradient: there the noise learns, and the model does not.

    Args:
        p_data: (outcomes,) probabilities, or densities on a grid.
        log_model: (outcomes,) log-probabilities of the model; a torch tensor to be differentiated.
        noise: (outcomes,) probabilities of the noise; None: the model's, held fixed.
        dx: None, or the widths of the grid's cells.

    Returns:
        Scalar of the kind of the arguments, in nats.

    Raises:
        ValueError: p_data or noise is no distribution.

    Source: Goodfellow (2014), "On distinguishability criteria for estimating generative models", arXiv 1412.6515.
    """
    caller = "nce_objective"
    (p,), weight, _ = take_distributions(caller, dx, p_data=p_data)
    (_, model), back = take(caller, p_data=p_data, log_model=log_model)
    if noise is None:
        q = model.detach().exp()
    else:
        ((q,), _, _) = take_distributions(caller, dx, noise=noise)
    if not p.shape == model.shape == q.shape:
        shapes = f"{tuple(p.shape)}, {tuple(model.shape)} and {tuple(q.shape)}"
        raise Invalid(caller).value("p_data, log_model and noise", f"must have one shape, got {shapes}")
    return back(-(f_terms(p, q, model - q.log(), "gan") * weight).sum(-1))
