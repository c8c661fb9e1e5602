"""Networks described by plain values, for a file: modules of torch.nn and fastgan with their arguments.

No code is stored and none is run but constructors of these two packages: a network of the user's own class is
described by the name of its class alone, and the reader of the file must provide the class.
"""

from __future__ import annotations

import importlib
import inspect
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

# Where classes are looked up, in this order: the first two share names.
_PACKAGES = ("torch.nn", "fastgan.nn", "fastgan.models")
# Arguments that the tensors decide, and those of Hardtanh that torch keeps for old code.
_LEFT_OUT = ("self", "device", "dtype", "min_value", "max_value")


class NotDescribed(ValueError):
    """A module that plain values cannot describe; the message is its class and the reason."""


def describe(module: nn.Module) -> dict[str, Any]:
    """The class and the arguments of a network, ready for JSON; `build` makes one like it, with first weights.

    Returns:
        dict: "type" and "arguments", or "type" and "children" of a Sequential; {"own": class name, "why": reason} where
        the network cannot be described.
    """
    try:
        tensors = [*module.parameters(), *module.buffers()]
        if len([*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]) > len(
            tensors
        ):
            raise NotDescribed(f"{type(module).__name__} has tied parameters")
        described = _describe(module)
        _compare(module, _build_empty(described))
    except NotDescribed as error:
        return {"own": type(module).__name__, "why": str(error)}
    return described


def build(described: dict[str, Any]) -> nn.Module:
    """The network of a description.

    Raises:
        NotDescribed: the network is of a class that is not in torch.nn and fastgan.
        ValueError: this is no description.
    """
    if isinstance(described, dict) and "own" in described:
        raise NotDescribed(str(described.get("why", described["own"])))
    try:
        return _build(described)
    except (KeyError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise ValueError(f"it must describe modules of torch.nn and fastgan, got {_one_line(error)}") from None


def _build_empty(described: dict[str, Any]) -> nn.Module:
    """Without memory for tensors, and without a random number."""
    with torch.device("meta"):
        return build(described)


def load(described: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """The network of a description around these tensors, which are not copied.

    Raises:
        NotDescribed, ValueError: as `build`; or the tensors are of another network.
    """
    module = _build_empty(described)
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            raise ValueError(f"{name} must have shape {expected.get(name)}, got {found.get(name)}")
    if any(buffer.is_meta for name, buffer in module.named_buffers() if name not in tensors):
        with torch.random.fork_rng(devices=[]):  # the constructor alone knows buffers that no file holds
            module = build(described)
    # By name: load_state_dict(assign=True) looks through all names for each module, for hours in a deep network.
    for prefix, part in module.named_modules():
        for name, parameter in part.named_parameters(recurse=False):
            value = tensors[f"{prefix}.{name}" if prefix else name]
            part.register_parameter(name, nn.Parameter(value, requires_grad=parameter.requires_grad))
        for name, _ in part.named_buffers(recurse=False):
            if (buffer := tensors.get(f"{prefix}.{name}" if prefix else name)) is not None:
                part._buffers[name] = buffer
    return module


def _describe(module: nn.Module) -> dict[str, Any]:
    kind = type(module)
    if "forward" in module.__dict__ or any(
        (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    ):
        raise NotDescribed(f"{kind.__name__} has hooks or a forward of its own")
    named: dict[str, Any] = {"type": _public_name(kind)}
    if isinstance(module, nn.Sequential):
        named["children"] = {name: _describe(child) for name, child in module.named_children()}
        if len(named["children"]) != len(module):
            raise NotDescribed(f"{kind.__name__} holds the same module twice")
        return named | ({"arguments": {"impl": module.impl}} if hasattr(module, "impl") else {})
    arguments = {}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if name in _LEFT_OUT or name[0] == "_" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not hasattr(module, name):
            raise NotDescribed(f"{kind.__name__} does not tell its argument {name}")
        value = getattr(module, name)
        arguments[name] = value is not None if name == "bias" else _plain(kind.__name__, name, value)
    return named | {"arguments": arguments}


def _public_name(kind: type) -> str:
    for package in _PACKAGES:
        if getattr(importlib.import_module(package), kind.__name__, None) is kind:
            return f"{package}.{kind.__name__}"
    raise NotDescribed(f"{kind.__name__} is a class of its own")


def _plain(kind: str, name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(kind, name, part) for part in value]
    if isinstance(value, nn.Module):
        return {"module": _describe(value)}
    if isinstance(value, Tensor):
        return {"tensor": list(value.shape)}
    raise NotDescribed(f"{kind} has an argument {name} of type {type(value).__name__}")


def _build(described: dict[str, Any]) -> nn.Module:
    package, _, name = described["type"].rpartition(".")
    kind = getattr(importlib.import_module(package), name) if package in _PACKAGES else None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise TypeError(f"type {described['type']!r}")
    arguments = {key: _argument(value) for key, value in described.get("arguments", {}).items()}
    if "children" not in described:
        module: nn.Module = kind(**arguments)
        return module
    if not issubclass(kind, nn.Sequential):
        raise TypeError(f"children of a {name}")
    # A subclass such as MLP makes its children from other arguments, but consists only of them.
    base: Any = next(c for c in kind.__mro__ if c.__name__ == "Sequential")
    network = kind.__new__(kind)
    base.__init__(
        network, OrderedDict((key, _build(child)) for key, child in described["children"].items()), **arguments
    )
    return network


def _argument(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_argument, value))
    if isinstance(value, dict):
        return _build(value["module"]) if "module" in value else torch.zeros(value["tensor"])
    return value


def _compare(module: nn.Module, again: nn.Module) -> None:
    """Raise unless a network was described whole: by what it says of itself, and by its tensors."""
    for (name, one), (_, other) in zip(module.named_modules(), again.named_modules(), strict=False):
        same = isinstance(one, nn.Sequential) or one.extra_repr() == other.extra_repr()  # which tells its children's
        if type(one) is not type(other) or not same:
            raise NotDescribed(f"{name or type(module).__name__} is not what its arguments make")
    tensors = [{key: tuple(value.shape) for key, value in m.state_dict().items()} for m in (module, again)]
    if tensors[0] != tensors[1]:
        raise NotDescribed(f"{type(module).__name__} has tensors that its arguments do not make")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
