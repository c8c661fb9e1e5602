"""The objectives of the two players as functions of logits, computed by `fastgan.ops`.

A discriminator here returns the logit l; the probability of the paper is D = sigmoid(l). Losses are written through
softplus(x) = log(1 + exp(x)) and are accurate to 2 units in the last place for every logit, infinities included.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from torch import Tensor

from fastgan import _kernels, _options, ops, random, reference
from fastgan._errors import Invalid, check_choice
from fastgan._options import DiscriminatorKind, GeneratorKind, Impl, PenaltyKind, Reduction

__all__ = [
    "adversarial_loss",
    "blended_generator_loss",
    "discriminator_loss",
    "feature_matching_loss",
    "generator_loss",
    "gradient_penalty",
    "mixed_batch_loss",
    "probability_discriminator_loss",
    "probability_generator_loss",
]
__dir__ = __all__.copy  # what completion shows

# kind -> formulas of the real and of the fake term of the discriminator's loss
DISCRIMINATOR: dict[DiscriminatorKind, tuple[str, str]] = {
    "gan": ("non_saturating", "fake"),
    "hinge": ("hinge_real", "hinge_fake"),
    "least_squares": ("least_squares", "least_squares"),
    "wasserstein": ("wasserstein_real", "wasserstein_fake"),
    "relativistic": ("non_saturating", "non_saturating"),
}
# kind of the generator's loss -> (its formula, target, kind of the discriminator's loss it is played against)
GENERATOR: dict[GeneratorKind, tuple[str, float, DiscriminatorKind]] = {
    "non_saturating": ("non_saturating", 0.0, "gan"),
    "minimax": ("minimax", 0.0, "gan"),
    "mle": ("mle", 0.0, "gan"),
    "hinge": ("wasserstein_real", 0.0, "hinge"),
    "least_squares": ("least_squares", 1.0, "least_squares"),
    "wasserstein": ("wasserstein_real", 0.0, "wasserstein"),
    "relativistic": ("non_saturating", 0.0, "relativistic"),
}
REDUCTIONS = _options.names(Reduction)


def _paired_difference(caller: str, real: Tensor, fake: Tensor) -> Tensor:
    for name, x in (("real_logits", real), ("fake_logits", fake)):
        ops.check_tensor(caller, name, x)
    ops.check_same(caller, "real_logits", real, "fake_logits", fake)
    if real.shape != fake.shape:
        why = "the relativistic loss pairs real_logits with fake_logits, so their shapes"
        raise Invalid(caller).value(why, f"must be equal, got {tuple(real.shape)} and {tuple(fake.shape)}")
    wide = _kernels.ACCUMULATORS[real.dtype]  # a difference of halves may overflow
    return real.to(wide) - fake.to(wide)


def _of_one_batch(
    caller: str, name: str, x: Tensor, formula: str, target: float, reduction: Reduction, impl: Impl
) -> Tensor:
    """A formula of every element of x, the argument `name`, reduced."""
    if reduction == "none":
        return ops.pointwise(x, formula, target, impl=impl, caller=caller)
    formulas, targets, mean = (formula, formula), (target, target), reduction == "mean"
    return ops.pair_loss(x, None, formulas, targets, mean=mean, impl=impl, caller=caller, names=(name, name))


def _discriminator_terms(
    caller: str, kind: DiscriminatorKind, real_label: float, fake_label: float
) -> tuple[tuple[str, str], tuple[float, float]]:
    check_choice(caller, "kind", kind, DISCRIMINATOR)
    formulas = DISCRIMINATOR[kind]
    if kind == "gan":
        for name, label in (("real_label", real_label), ("fake_label", fake_label)):
            if isinstance(label, bool) or not 0.0 <= label <= 1.0:
                raise Invalid(caller).value(name, f"must lie in [0, 1], got {label}")
        if real_label != 1.0:
            formulas = ("soft_target", formulas[1])
        if fake_label != 0.0:
            formulas = (formulas[0], "soft_target")
    elif kind != "least_squares" and (real_label, fake_label) != (1.0, 0.0):
        raise Invalid(caller).value(
            "real_label and fake_label",
            f"are for kind 'gan' and 'least_squares', got kind {kind!r} with {real_label} and {fake_label}",
        )
    return formulas, (real_label, fake_label)


@overload
def discriminator_loss(
    real_logits: Tensor,
    fake_logits: Tensor,
    *,
    kind: DiscriminatorKind = ...,
    real_label: float = ...,
    fake_label: float = ...,
    reduction: Literal["mean", "sum"] = ...,
    impl: Impl = ...,
) -> Tensor: ...
@overload
def discriminator_loss(
    real_logits: Tensor,
    fake_logits: Tensor,
    *,
    kind: DiscriminatorKind = ...,
    real_label: float = ...,
    fake_label: float = ...,
    reduction: Literal["none"],
    impl: Impl = ...,
) -> tuple[Tensor, Tensor]: ...
def discriminator_loss(
    real_logits: Tensor,
    fake_logits: Tensor,
    *,
    kind: DiscriminatorKind = "gan",
    real_label: float = 1.0,
    fake_label: float = 0.0,
    reduction: Reduction = "mean",
    impl: Impl = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The discriminator's loss: descending it ascends log D(x) + log(1 - D(G(z))), D = sigmoid of the logit.

    Equivalent to `F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()`: the SUM of the two means, as in
    the paper; multiply by 0.5 to compare with a library that halves it. One pass computes value and gradient.

    Args:
        real_logits: logits of m real examples, any shape; float32, float64, float16 or bfloat16.
        fake_logits: logits of n generated examples, same dtype and device; m and n may differ.
        kind: "gan", "hinge" (max(0, 1-l) and max(0, 1+l)), "least_squares" ((l - label)^2 / 2), "wasserstein"
            (-l and l) or "relativistic" (softplus(-(real - fake)), paired, counted once).
        real_label: target of the real term ("gan": 0.9 is one-sided label smoothing).
        fake_label: target of the fake term; rarely smoothed (Goodfellow 2016, 4.2).
        reduction: "mean", "sum" or "none", which gives the pair of unreduced terms.
        impl: "auto", "native" or "reference".

    Returns:
        Scalar Tensor, float64 for float64 logits and float32 otherwise (a float16 sum would overflow); for
        reduction="none" a pair of Tensors shaped and typed like the logits.

    Raises:
        TypeError: logits that are no floating-point tensors, or of different dtypes.
        ValueError: different devices, labels outside [0, 1], an unknown kind or reduction, an empty batch under "mean".

    Source: Goodfellow et al. (2014), eq. 1 and Algorithm 1; Mao et al. (2017) for least squares, Lim and Ye (2017) for
    hinge, Arjovsky et al. (2017) for Wasserstein, Jolicoeur-Martineau (2019) for relativistic pairing.
    """
    caller = "discriminator_loss"
    formulas, targets = _discriminator_terms(caller, kind, real_label, fake_label)
    check_choice(caller, "reduction", reduction, REDUCTIONS)
    if fake_logits is None:  # which to ops.pair_loss would mean a loss of one batch
        raise Invalid(caller).type("fake_logits", "must be a torch.Tensor, got NoneType")
    if kind == "relativistic":
        difference = _paired_difference(caller, real_logits, fake_logits)
        loss = _of_one_batch(caller, "real_logits", difference, formulas[0], 0.0, reduction, impl)
        return (loss.to(real_logits.dtype), torch.zeros_like(real_logits)) if reduction == "none" else loss
    if reduction == "none":
        return (
            ops.pointwise(real_logits, formulas[0], targets[0], impl=impl, caller=caller),
            ops.pointwise(fake_logits, formulas[1], targets[1], impl=impl, caller=caller),
        )
    mean = reduction == "mean"
    return ops.pair_loss(real_logits, fake_logits, formulas, targets, mean=mean, impl=impl, caller=caller)


def generator_loss(
    fake_logits: Tensor,
    *,
    kind: GeneratorKind = "non_saturating",
    real_logits: Tensor | None = None,
    reduction: Reduction = "mean",
    impl: Impl = "auto",
) -> Tensor:
    """The generator's loss: "non_saturating" -log D(G(z)), or the minimax game's own log(1 - D(G(z))).

    Equivalent to `F.softplus(-fake_logits).mean()` (non_saturating) or `-F.softplus(fake_logits).mean()` (minimax).

    Args:
        fake_logits: logits of n generated examples, any shape; float32, float64, float16 or bfloat16.
        kind: "non_saturating"; "minimax"; "mle", -exp(l) / 2, whose expected gradient at the optimal discriminator is
            half that of maximum likelihood (logits are clamped to 88, in float64 to 709, so that value and gradient
            stay finite); "hinge" and "wasserstein", -l; "least_squares", (l - 1)^2 / 2; "relativistic",
            softplus(-(fake - real)).
        real_logits: for "relativistic" only, as many as fake_logits.
        reduction, impl: as in `discriminator_loss`.

    Returns:
        Scalar Tensor, float64 for float64 logits and float32 otherwise; for "none" a Tensor like the logits.

    Raises:
        TypeError, ValueError: as `discriminator_loss`; real_logits given where the kind takes none, or missing.

    Source: Goodfellow et al. (2014), section 3 and Algorithm 1; Goodfellow (2016), section 3.2.
    """
    caller = "generator_loss"
    check_choice(caller, "kind", kind, GENERATOR)
    check_choice(caller, "reduction", reduction, REDUCTIONS)
    if (real_logits is not None) != (kind == "relativistic"):
        rule = "needs real_logits" if kind == "relativistic" else "takes no real_logits"
        raise Invalid(caller).value("kind", f"{kind!r} {rule}, got {'none' if real_logits is None else 'some'}")
    formula, target, _ = GENERATOR[kind]
    x = fake_logits if real_logits is None else -_paired_difference(caller, real_logits, fake_logits)
    loss = _of_one_batch(caller, "fake_logits", x, formula, target, reduction, impl)
    return loss.to(fake_logits.dtype) if reduction == "none" else loss


def feature_matching_loss(real_features: Tensor, fake_features: Tensor) -> Tensor:
    """The squared distance between the mean features of real and of generated examples, for the generator.

    Equivalent to `(real_features.mean(0) - fake_features.mean(0)).square().sum()`.

    Args:
        real_features, fake_features: (m, ...) and (n, ...), of a hidden layer of D.

    Raises:
        ValueError: features of different shapes, or an empty batch.

    Source: Salimans et al. (2016), section 3.1.
    """
    if real_features.shape[1:] != fake_features.shape[1:] or not len(real_features) or not len(fake_features):
        got = f"{tuple(real_features.shape)} and {tuple(fake_features.shape)}"
        raise Invalid("feature_matching_loss").value(
            "real_features and fake_features", f"must be of one shape, got {got}"
        )
    return (real_features.mean(0) - fake_features.mean(0)).square().sum()


def adversarial_loss(
    logits: Tensor,
    is_real: bool = True,
    *,
    label: float | None = None,
    reduction: Reduction = "mean",
    impl: Impl = "auto",
) -> Tensor:
    """The loss of one batch of real examples alone, or of fake ones alone, as in most training loops.

    Equivalent to `F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))`. D descends
    `adversarial_loss(D(x)) + adversarial_loss(D(G(z)), False)`, often halved; G descends `adversarial_loss(D(G(z)))`.

    Args:
        logits: any shape; float32, float64, float16 or bfloat16.
        is_real: whether the target is 1; else it is 0.
        label: a target in [0, 1] instead of 1 or 0 (label smoothing).
        reduction, impl: as in `discriminator_loss`.

    Returns:
        Scalar Tensor, float64 for float64 logits and float32 otherwise; for "none" a Tensor like the logits.

    Raises:
        TypeError: logits that are not a floating-point tensor, is_real that is not a bool.
        ValueError: a label outside [0, 1], an unknown reduction, an empty batch under "mean".

    Source: Goodfellow et al. (2014), eq. 1 and section 3.
    """
    caller = "adversarial_loss"
    check_choice(caller, "reduction", reduction, REDUCTIONS)
    if not isinstance(is_real, bool):
        raise Invalid(caller).type("is_real", f"must be a bool, got {type(is_real).__name__}")
    target = float(is_real) if label is None else ops.check_probability(caller, "label", label)
    formula = {1.0: "non_saturating", 0.0: "fake"}.get(target, "soft_target")
    return _of_one_batch(caller, "logits", logits, formula, target, reduction, impl)


def blended_generator_loss(
    fake_logits: Tensor,
    *,
    non_saturating_weight: float,
    minimax_weight: float,
    reduction: Reduction = "mean",
    impl: Impl = "auto",
) -> Tensor:
    """The original code's blend of both generator losses, weighted and divided by the sum of the weights.

    Equivalent to `(a * generator_loss(l) + b * generator_loss(l, kind="minimax")) / (a + b)`.

    Args:
        fake_logits: as in `generator_loss`.
        non_saturating_weight: a >= 0.
        minimax_weight: b >= 0, not both 0.
        reduction, impl: as in `generator_loss`.

    Source: the scaled cost of the code published with Goodfellow et al. (2014).
    """
    a, b = non_saturating_weight, minimax_weight
    for name, value in (("non_saturating_weight", a), ("minimax_weight", b)):
        Invalid("blended_generator_loss").check_number(name, value)
    if a < 0 or b < 0 or not 0 < a + b < math.inf:
        raise Invalid("blended_generator_loss").value(
            "weights", f"must be non-negative, their sum positive and finite, got {a} and {b}"
        )
    weights: dict[GeneratorKind, float] = {"non_saturating": a, "minimax": b}
    parts = [
        weight / (a + b) * generator_loss(fake_logits, kind=kind, reduction=reduction, impl=impl)
        for kind, weight in weights.items()
        if weight
    ]
    return sum(parts[1:], parts[0])


def mixed_batch_loss(logits: Tensor, is_real: Tensor, *, reduction: Reduction = "mean", impl: Impl = "auto") -> Tensor:
    """The discriminator's loss of one batch of real and fake examples, which a mask tells apart.

    Equivalent to `discriminator_loss(logits[is_real], logits[~is_real])`, without its synchronisation on a GPU; a batch
    of one kind alone gives that kind's term.

    Args:
        logits: any shape.
        is_real: bool, same shape and device; the numbers of real and fake examples may differ.
        reduction, impl: as in `discriminator_loss`; "mean" is of each kind, then summed.

    Returns:
        Scalar Tensor, or for "none" the terms, shaped like logits.

    Raises:
        TypeError: is_real is not a bool tensor. ValueError: shapes or devices differ.

    Source: the indicator form of the discriminator's risk; Goodfellow et al. (2014), Algorithm 1.
    """
    caller = "mixed_batch_loss"
    check_choice(caller, "reduction", reduction, REDUCTIONS)
    ops.check_tensor(caller, "logits", logits)
    if not isinstance(is_real, Tensor) or is_real.dtype != torch.bool:
        raise Invalid(caller).type("is_real", f"must be a bool tensor, got {getattr(is_real, 'dtype', type(is_real))}")
    if is_real.shape != logits.shape or is_real.device != logits.device:
        got = f"{tuple(is_real.shape)} on {is_real.device} for {tuple(logits.shape)} on {logits.device}"
        raise Invalid(caller).value("is_real", f"must match logits, got {got}")
    # log D(x) of a real example is log(1 - D) of the negated logit: one formula computes both.
    signed = torch.where(is_real, -logits, logits)
    if reduction != "mean":
        return _of_one_batch(caller, "logits", signed, "fake", 0.0, reduction, impl)
    if logits.numel() == 0:
        raise Invalid(caller).value("logits", f"must not be empty under 'mean', got shape {tuple(logits.shape)}")
    wide = signed if signed.dtype == torch.float64 else signed.float()
    terms = ops.pointwise(wide, "fake", impl=impl, caller=caller)
    real = is_real.sum(dtype=torch.float64)
    weight = torch.where(is_real, 1.0 / real, 1.0 / (is_real.numel() - real)).to(terms.dtype)
    return (terms * weight).sum()


def _check_probabilities(caller: str, *named: tuple[str, Tensor]) -> None:
    for name, p in named:
        ops.check_tensor(caller, name, p)
        if p.device.type != "cpu" or not ops.can_look(p):
            continue
        outside = (p < 0) | (p > 1)
        if bool(outside.any()):
            raise Invalid(caller).value(name, f"must be probabilities in [0, 1], got {p[outside][0].item()}")


def _least_probability(p: Tensor, clamp: bool) -> float:
    return torch.finfo(_kernels.ACCUMULATORS[p.dtype]).tiny if clamp else 0.0


def probability_discriminator_loss(
    real_probabilities: Tensor,
    fake_probabilities: Tensor,
    *,
    clamp: bool = True,
    reduction: Literal["mean", "sum"] = "mean",
    impl: Impl = "auto",
) -> Tensor:
    """The discriminator's loss for a network that ends in a sigmoid: -log D(x) - log(1 - D(G(z))).

    Equivalent to `F.binary_cross_entropy(real, ones) + F.binary_cross_entropy(fake, zeros)`. Less accurate than
    `discriminator_loss`: a probability rounds to 0 or 1 (in float32 to 1 above a logit of 17).

    Args:
        real_probabilities, fake_probabilities: D(x) and D(G(z)) in [0, 1], any shape.
        clamp: bound probabilities below by the smallest normal number, so that the loss of D = 0 or 1 stays finite
            (87.3 in float32, 708.4 in float64); False gives infinity.
        reduction, impl: as in `discriminator_loss`, without "none".

    Raises:
        ValueError: a probability outside [0, 1], on the CPU; on a GPU it gives NaN, because a check would synchronise.

    Source: Goodfellow et al. (2014), eq. 1.
    """
    caller = "probability_discriminator_loss"
    check_choice(caller, "reduction", reduction, ("mean", "sum"))
    names = "real_probabilities", "fake_probabilities"
    _check_probabilities(caller, (names[0], real_probabilities), (names[1], fake_probabilities))
    least = _least_probability(real_probabilities, clamp)
    return ops.pair_loss(
        real_probabilities,
        fake_probabilities,
        ("probability_real", "probability_fake"),
        (least, least),
        mean=reduction == "mean",
        impl=impl,
        caller=caller,
        names=names,
    )


def probability_generator_loss(
    fake_probabilities: Tensor,
    *,
    clamp: bool = True,
    reduction: Literal["mean", "sum"] = "mean",
    impl: Impl = "auto",
) -> Tensor:
    """The non-saturating generator's loss for a network that ends in a sigmoid: -log D(G(z)).

    Equivalent to `F.binary_cross_entropy(fake_probabilities, ones)`; arguments as `probability_discriminator_loss`.
    """
    caller = "probability_generator_loss"
    check_choice(caller, "reduction", reduction, ("mean", "sum"))
    _check_probabilities(caller, ("fake_probabilities", fake_probabilities))
    least = _least_probability(fake_probabilities, clamp)
    return _of_one_batch(caller, "fake_probabilities", fake_probabilities, "probability_real", least, reduction, impl)


PENALTIES = _options.names(PenaltyKind)


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    *,
    kind: PenaltyKind = "wgan-gp",
    weight: float = 10.0,
    seed: int | None = None,
    step: int = 0,
    offset: int = 0,
    impl: Impl = "auto",
) -> Tensor:
    """A penalty on the gradient of the discriminator's logit with respect to its input.

    Equivalent to `weight * ((g.norm(2, dim=1) - 1) ** 2).mean()` with g the gradient at random points between real and
    fake (wgan-gp), or `weight / 2 * g.square().sum(1).mean()` with g at the real (r1) or the fake examples (r2).

    Args:
        discriminator: maps (batch, ...) to logits; must be twice differentiable, as fastgan's layers are.
        real: (batch, ...) examples.
        fake: (batch, ...) generated examples; for wgan-gp as many as real.
        kind: "wgan-gp", "r1" or "r2".
        weight: of the penalty: lambda of WGAN-GP (10 in the paper), gamma of R1 and R2.
        seed, step: of the mixing numbers of wgan-gp (counter-based); seed=None draws them from torch's generator.
        offset: number of this process's first example among those of the step.
        impl: of the mixing numbers: "auto", "native" or "reference"; D's layers carry their own.

    Returns:
        Scalar Tensor, differentiable with respect to the discriminator's parameters except under `torch.no_grad`;
        float64 for float64 examples and float32 otherwise (in float16 the square of a norm of 300 would overflow). The
        gradient of the norm of a zero gradient is zero, not NaN.

    Source: Gulrajani et al. (2017), eq. 3; Mescheder, Geiger, Nowozin (2018), eq. 9 and 10.
    """
    caller = "gradient_penalty"
    check_choice(caller, "kind", kind, PENALTIES)
    Invalid(caller).check_number("weight", weight)
    for name, x in (("real", real), ("fake", fake)):
        ops.check_tensor(caller, name, x)
    ops.check_same(caller, "real", real, "fake", fake)
    if real.dim() < 2 or real.shape[1:] != fake.shape[1:]:
        raise Invalid(caller).value(
            "real and fake",
            f"must be batches (batch, ...) of examples of one shape, got {tuple(real.shape)} and {tuple(fake.shape)}",
        )
    if kind == "wgan-gp":
        if real.shape != fake.shape:
            why = "wgan-gp pairs real with fake, so their shapes"
            raise Invalid(caller).value(why, f"must be equal, got {tuple(real.shape)} and {tuple(fake.shape)}")
        size = (real.shape[0], *(1 for _ in real.shape[1:]))
        like: dict[str, Any] = {"dtype": real.dtype, "device": real.device}
        if seed is None:
            mix = torch.rand(size, **like)
        else:
            stream: dict[str, Any] = {"seed": seed, "purpose": random.Purpose.PENALTY, "step": step, "offset": offset}
            mix = random.uniform(size, **stream, **like, impl=impl)
        where = mix * real.detach() + (1 - mix) * fake.detach()
    else:
        where = (real if kind == "r1" else fake).detach()
    if where.shape[0] == 0:
        raise Invalid(caller).value("the batch", f"must not be empty, got shape {tuple(where.shape)}")
    chain = getattr(discriminator, "as_one_chain", lambda: None)()
    if chain is not None:
        penalty: Tensor | None = chain.gradient_penalty(where, kind, weight)
        if penalty is not None:
            return penalty
    graph = torch.is_grad_enabled()
    outside = torch.inference_mode(False) if torch.is_inference_mode_enabled() else contextlib.nullcontext()
    with outside, torch.enable_grad():
        where = where.clone().requires_grad_()
        logits = discriminator(where)
        ops.check_tensor(caller, "what discriminator gives", logits)
        if not logits.requires_grad:
            raise Invalid(caller)(RuntimeError, "what discriminator gives", "must be differentiable, got no graph")
        (grad,) = torch.autograd.grad(logits.sum(), where, create_graph=graph)
        return reference.gradient_penalty(grad, kind, weight)
