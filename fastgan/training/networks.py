"""Checks of a user's networks: plain modules, and a discriminator that ends in logits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastgan._errors import Invalid
from fastgan.models import GAN
from fastgan.nn import ClassDiscriminator, Linear

# By name: torch imports the sharded ones only where they are used.
_WRAPPERS = {
    "DistributedDataParallel",
    "DataParallel",
    "FullyShardedDataParallel",
    "FSDPModule",
    "DTensor",
}
_SHAPES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout)  # change no number, or only the scale of it
_FACTORS = (1.0, 1e2, -1e2, 1e4, -1e4)  # of samples: a logit leaves [0, 1] on the way, a probability does not


def check_unwrapped(gan: GAN) -> None:
    """Refuse networks that are wrapped for several processes or devices.

    `DistributedDataParallel` exchanges gradients where `Tensor.backward` is called on what its own forward gave; the
    two-player game asks for gradients otherwise, so that every rank would train another model. `train` averages them
    itself.

    Raises:
        ValueError: a wrapper of torch for several processes or devices, or a sharded parameter.
    """
    for name in ("generator", "discriminator"):
        network = getattr(gan, name)
        for part in (*network.modules(), *network.parameters()):
            if (found := _wrapper(type(part))) is not None:
                hint = ": give its .module, train averages gradients itself" if "DataParallel" in found else ""
                raise Invalid("train").value(f"gan.{name}", f"must be a plain module on one device, got {found}{hint}")


def _wrapper(kind: type) -> str | None:
    for base in kind.__mro__:
        if base.__name__ in _WRAPPERS and base.__module__.partition(".")[0] == "torch":
            return base.__name__
    return None


def why_no_logits(gan: GAN, loss: object, logits: Tensor, *inputs: Tensor) -> str | None:
    """Why the discriminator's outputs look like probabilities although the losses take logits; None if they do not.

    A loss of a logit in [0, 1] is nearly flat: D can call nothing fake, and G learns a few modes or none.

    Args:
        loss: the generator's. "least_squares" alone has its targets, 0 and 1, where a sigmoid's outputs are; those of
            one's own may have.
        logits: the first ones, of real samples.
        inputs: of D, real and generated.
    """
    if loss == "least_squares" or not isinstance(loss, str):
        return None
    *outer, last = _ends(gan.discriminator)
    if isinstance(last, nn.Sigmoid) or _activation(last) == "sigmoid":
        return "gan.discriminator ends in a sigmoid"
    own = any(type(module).__module__.partition(".")[0] not in ("torch", "fastgan") for module in outer)
    if (type(last) is nn.Linear or _activation(last) == "none") and not own:
        return None  # with maxout and small weights, the outputs may lie in [0, 1] for all the inputs below
    d_inputs = [logits]
    for factor, x in itertools.product(_FACTORS, inputs):
        if not _in_unit_interval(d_inputs[-1]):
            return None
        d_inputs.append(gan.discriminator(x * factor))
    outputs = torch.cat([output.flatten() for output in d_inputs])
    if not _in_unit_interval(outputs) or bool((outputs == outputs[0]).all()):  # a dead network: no evidence
        return None
    return "all outputs of gan.discriminator lie in [0, 1], far from the data too"


def advice(why: str) -> str:
    """The warning of what `why_no_logits` has found."""
    return f"{why}, but the losses take logits: leave the sigmoid out, or G learns little"


def _in_unit_interval(logits: Tensor) -> bool:
    return not logits.is_meta and bool(((logits >= 0) & (logits <= 1)).all())


def _ends(network: nn.Module) -> Iterator[nn.Module]:
    """The network, the last module in it that changes numbers, the last one in that, and so on."""
    yield network
    if isinstance(network, ClassDiscriminator):
        yield from _ends(network.head)
    elif isinstance(network, nn.Sequential):
        children = [child for child in network.children() if not isinstance(child, _SHAPES)]
        yield from _ends(children[-1]) if children else ()
    elif isinstance(compiled := getattr(network, "_orig_mod", None), nn.Module):  # of torch.compile
        yield from _ends(compiled)


def _activation(layer: nn.Module) -> str | None:
    return layer.spec.activation if isinstance(layer, Linear) else None
