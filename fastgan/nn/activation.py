"""The activations a fused layer can apply: their names, and the torch modules that mean the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fastgan._errors import Invalid, check_choice
from fastgan._options import ActivationName

Activation = ActivationName | nn.Module | type[nn.Module] | None

# exact type -> (name, is this instance the formula of that name?, the attributes that decide it)
_MODULES: dict[type[nn.Module], tuple[str, Callable[[Any], bool], tuple[str, ...]]] = {
    nn.Identity: ("none", lambda m: True, ()),
    nn.ReLU: ("relu", lambda m: True, ()),
    # with a positive slope the output has the input's sign, which is all that backward keeps
    nn.LeakyReLU: ("leaky_relu", lambda m: m.negative_slope > 0, ("negative_slope",)),
    nn.Tanh: ("tanh", lambda m: True, ()),
    nn.Sigmoid: ("sigmoid", lambda m: True, ()),
    nn.ELU: ("elu", lambda m: m.alpha == 1, ("alpha",)),
    # torch returns x itself above its threshold of 20, where the formula is larger by at most 2.1e-9: below
    # half an ULP of float32, so the two count as the same
    nn.Softplus: ("softplus", lambda m: m.beta == 1 and m.threshold >= 20, ("beta", "threshold")),
    nn.GELU: ("gelu", lambda m: m.approximate == "none", ("approximate",)),
}

SETTINGS = {kind: settings for kind, (_, _, settings) in _MODULES.items()}
NAMES = tuple(name for name, _, _ in _MODULES.values())


def of_module(module: nn.Module) -> tuple[str, float] | None:
    """(name, negative slope) of an activation module; None if no fused layer computes just that."""
    name, same, _ = _MODULES.get(type(module), ("", None, ()))
    if same is None or not same(module):
        return None
    return name, module.__dict__["negative_slope"] if name == "leaky_relu" else 0.2


def resolve(owner: str, argument: str, activation: Activation, negative_slope: float) -> tuple[str, float]:
    """(name, negative slope) of what a caller passed as an activation: a name, None, a torch module or its
    class."""
    Invalid(owner).check_number("negative_slope", negative_slope)
    if activation is None:
        return "none", negative_slope
    if isinstance(activation, str) and activation in NAMES:
        if activation == "leaky_relu" and not negative_slope > 0:
            raise Invalid(owner).value("negative_slope", f"must be positive, got {negative_slope}")
        return activation, negative_slope
    if activation is nn.LeakyReLU:  # the class alone leaves open whether torch's slope 0.01 or fastgan's is meant
        raise Invalid(owner).value(argument, "must be 'leaky_relu' or an nn.LeakyReLU(slope), got the class")
    instance = activation() if isinstance(activation, type) and activation in _MODULES else activation
    known = of_module(instance) if isinstance(instance, nn.Module) else None
    if known is None:
        raise Invalid(owner).value(
            argument,
            f"must be None, one of {', '.join(NAMES)}, or a torch.nn module that equals one of them, "
            f"got {activation!r}",
        )
    return known


def activation_module(name: str, negative_slope: float = 0.2) -> nn.Module:
    """The module of torch for an activation's name, for an `nn.Sequential`.

    Args:
        name: as in `nn.MLP`.
        negative_slope: of "leaky_relu".

    Returns:
        Module of `torch.nn`.

    Raises:
        ValueError: an unknown name.
    """
    check_choice("activation_module", "name", name, NAMES)
    kind = next(kind for kind, (known, _, _) in _MODULES.items() if known == name)
    return nn.LeakyReLU(negative_slope) if kind is nn.LeakyReLU else kind()
