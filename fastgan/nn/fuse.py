"""Fuse the layers of an existing model, and undo it."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from fastgan._errors import Invalid
from fastgan.nn.fusible import obstacle
from fastgan.nn.hints import two_lines
from fastgan.nn.segments import Segment, segment
from fastgan.nn.sequential import Sequential

M = TypeVar("M", bound=nn.Module)

_fused_classes: dict[type[nn.Sequential], type[Sequential]] = {nn.Sequential: Sequential}


def fuse(model: M) -> M:
    """Make the model run its chains of `nn.Linear`, `nn.BatchNorm1d`, activation, `nn.Dropout` as one native call each.

    Every `nn.Sequential` in the model that holds such a chain, at any depth, becomes a
    `fastgan.nn.Sequential`, in place: the same objects under the same names, with the same parameters,
    state_dict, hooks and modes, so that an existing optimiser keeps working. `unfuse` undoes it, `explain` lists what
    runs fused, and why the rest does not.

    Not changed, and called as before:
    - an `nn.Linear` that is not in a Sequential, or has no activation, dropout or other linear layer beside
      it;
    - modules with hooks (pruning, weight_norm and spectral_norm among them) or parametrizations, subclasses
      of the layers, quantised, complex, sharded and meta parameters; lazy layers until their first call;
    - dropout between `nn.BatchNorm1d` and an activation that does not commute with it (ReLU and LeakyReLU do);
    - activations other than ReLU, LeakyReLU, Tanh, Sigmoid, ELU(alpha=1), Softplus(beta=1),
      GELU(approximate="none");
    - Sequential subclasses with their own forward, and those of PyTorch itself.

    Where a gradient is needed, a short chain of small layers runs module by module, because that is faster. So does
    one with `nn.BatchNorm1d` on CUDA, in half precision, under `torch.compile`, and for one row in training, which
    PyTorch refuses; a gradient of its gradient is PyTorch's own.

    Two things differ. Dropout inside a chain draws one dropout seed from torch's generator (`torch.manual_seed`
    reproduces it) instead of the mask's numbers: the same distribution, other elements. An input of the wrong width
    raises a ValueError that names the layer.

    Args:
        model: any module.

    Returns:
        The model itself.

    Raises:
        TypeError: model is not an `nn.Module`.
    """
    if not isinstance(model, nn.Module):
        raise Invalid("fuse").type("model", f"must be a torch.nn.Module, got {type(model).__name__}")
    for module in model.modules():
        if _sequential_obstacle(module) is None and (_has_segment(module) or _will_have_run(module)):
            module.__class__ = _fused_class(type(module))
    return model


def unfuse(model: M) -> M:
    """Undo `fuse` in place: every `fastgan.nn.Sequential` becomes the class it was, or `nn.Sequential`.

    Args:
        model: any module.

    Returns:
        The model itself; its modules, parameters and state_dict stay the same.
    """
    for module in model.modules():
        if isinstance(module, Sequential):
            module.__class__ = type(module).__dict__.get("_before_fuse", nn.Sequential)
            module.__dict__.pop("_segmentation", None)  # which copy and pickle would take for a part of the model
    return model


def explain(model: nn.Module) -> list[str]:
    """What runs fused in the model, and why its other linear layers do not.

    The source of `forward` is read, never run: where it applies an activation to a layer that the model holds as an
    attribute, such as `F.relu(self.fc1(x))`, the line says which two lines to write instead.

    Returns:
        One line per chain and per linear layer left alone, such as "net: 0, 1, 2 run as one call".
    """
    lines: list[str] = []
    fused: set[nn.Module] = set()
    parents: dict[nn.Module, nn.Module] = {}
    for path, module in model.named_modules():
        parents.update(dict.fromkeys(module.children(), module))
        if isinstance(module, Sequential):
            for step in _steps(module):
                if isinstance(step, Segment):
                    fused.update(step.modules)
                    own = "" if step.norms is None else "; gradients of gradients are PyTorch's own: BatchNorm1d"
                    lines.append(f"{path or 'model'}: {', '.join(step.names)} run as one call{own}")
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and module not in fused:
            parent = parents.get(module)
            why = obstacle(module) or _alone(parent)
            hint = two_lines(parent, path.rpartition(".")[2], module) if parent and why == _NO_SEQUENTIAL else ""
            lines.append(f"{path or 'model'}: left alone, {why}{hint}")
    return lines


_NO_SEQUENTIAL = "it is not in an nn.Sequential"


def _alone(parent: nn.Module | None) -> str:
    if not isinstance(parent, nn.Sequential):
        return _NO_SEQUENTIAL
    if isinstance(parent, Sequential) or _sequential_obstacle(parent) is None and not _has_segment(parent):
        return "nothing beside it fuses with it"
    return _sequential_obstacle(parent) or "fuse was not called"


def _sequential_obstacle(module: nn.Module) -> str | None:
    """The reason why a module cannot have the fused forward, or None."""
    kind: Any = type(module)
    if not isinstance(module, nn.Sequential) or isinstance(module, Sequential):
        return "it is no plain nn.Sequential"
    if kind.forward is not nn.Sequential.forward or "forward" in module.__dict__:
        return "its Sequential has a forward of its own"
    if kind.__iter__ is not nn.Sequential.__iter__ or "parametrizations" in module._modules:
        return "its Sequential walks its children in its own way"
    if kind is not nn.Sequential and kind.__module__.split(".")[0] == "torch":
        return "its Sequential is one of PyTorch's own kinds"  # torch.ao's fused and quantised blocks go by type
    return None


def _steps(module: Any) -> list[Segment | nn.Module]:
    return segment(module._modules, getattr(module, "impl", "auto"))


def _has_segment(module: nn.Module) -> bool:
    return any(isinstance(step, Segment) for step in _steps(module))


def _will_have_run(module: nn.Module) -> bool:
    """Whether a lazy layer may become part of a chain at its first call."""
    return len(module._modules) > 1 and any(type(child) is nn.LazyLinear for child in module.children())


def _fused_class(kind: type[Any]) -> type[Sequential]:
    """A subclass of Sequential and `kind` with the fused forward; pickled and copied as `kind`."""
    if kind not in _fused_classes:
        body = {"_before_fuse": kind, "__reduce_ex__": _reduce, "__module__": kind.__module__}
        _fused_classes[kind] = type(f"Fused{kind.__name__}", (Sequential, kind), body)
    return _fused_classes[kind]


def _reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
    return _restore, (type(self)._before_fuse,), self.__getstate__()


def _restore(kind: type[nn.Sequential]) -> Sequential:
    fused = _fused_class(kind)
    return fused.__new__(fused)
