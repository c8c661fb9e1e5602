"""A network for programs without fastgan: as modules of torch.nn alone, as TorchScript, as ONNX."""

from __future__ import annotations

import copy
import importlib.util
import io
import logging
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from fastgan._errors import Invalid, check_choice
from fastgan._files import write_atomically
from fastgan._options import ExportFormat, format_of
from fastgan.nn.activation import activation_module
from fastgan.nn.dropout import Dropout
from fastgan.nn.fusible import hooks
from fastgan.nn.linear import Linear
from fastgan.nn.maxout import Maxout
from fastgan.nn.sequential import Sequential

_TRACED, _TRIED = 3, (5, 1)  # rows for the tracer, and rows to test the result with
_FAR = 1e-3  # of the largest output: rounding is a thousand times smaller, a wrong trace is not


class NotPlain(ValueError):
    """A module without an equivalent in torch.nn."""


def to_torch(network: nn.Module) -> nn.Module:
    """A copy of a network that is made of modules of torch.nn alone, in eval mode.

    Equivalent to `network.eval()`, to rounding. `Linear(activation=...)` becomes two modules, and `Maxout` a linear
    layer with an `nn.MaxPool1d`, which takes inputs (m, features) and (m, n, features).

    Args:
        network: any module; other libraries' modules are copied unchanged.

    Returns:
        The copy, with its own parameters; those of fused layers have other names in its state_dict.

    Raises:
        ValueError: a module is neither fastgan's nor of torch.nn, or has no equivalent in torch.nn.
    """
    return _plain(copy.deepcopy(network), {}, strict=True).eval()


def _plain(module: nn.Module, made: dict[nn.Module, nn.Module], *, strict: bool) -> nn.Module:
    """A copy with torch's layers for fastgan's; strict: refuse a module that is not of torch.nn then.

    made: module -> its copy, so that a shared module stays shared.
    """
    if module not in made:
        made[module] = _replaced(module, made, strict)
    return made[module]


def _replaced(module: nn.Module, made: dict[nn.Module, nn.Module], strict: bool) -> nn.Module:
    kind = type(module)
    own = "forward" in module.__dict__ or any(hooks(module))
    if not own and (equivalent := _equivalent(module, made, strict)) is not None:
        return equivalent
    if strict and own:
        raise NotPlain(f"{kind.__name__} has hooks or a forward of its own")
    if strict and not kind.__module__.startswith("torch.nn."):
        raise NotPlain(f"{kind.__name__} has no equivalent there")
    for name, child in _children(module):
        setattr(module, name, _plain(child, made, strict=strict))
    return module


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children, including repeated ones, which `named_children` omits."""
    return [(name, child) for name, child in module._modules.items() if child is not None]


def _equivalent(module: nn.Module, made: dict[nn.Module, nn.Module], strict: bool) -> nn.Module | None:
    kind = type(module)
    if isinstance(module, Dropout) and kind is Dropout:
        return nn.Dropout(module.p)
    if isinstance(module, Linear) and kind is Linear:
        layer, spec = _linear(module.weight, module.bias), module.spec
        plain = spec.activation == "none"
        return layer if plain else nn.Sequential(layer, activation_module(spec.activation, spec.negative_slope))
    if isinstance(module, Maxout) and kind is Maxout:
        return nn.Sequential(_linear(module.weight, module.bias), nn.MaxPool1d(module.pieces))
    if isinstance(module, Sequential) and kind.forward is Sequential.forward:
        children = {name: _plain(child, made, strict=strict) for name, child in _children(module)}
        return nn.Sequential(OrderedDict(children))
    convert: Callable[[], nn.Module | None] | None = getattr(module, "to_torch", None)
    return convert() if convert is not None and kind.__module__.startswith("fastgan.models.") else None


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def export(
    network: nn.Module, example: Tensor, path: str | os.PathLike[str], format: ExportFormat | None = None
) -> Path:
    """Write a network for programs without fastgan, in eval mode, for the CPU.

    Args:
        network: any module.
        example: inputs (at least 5, features), to trace the network and to compare the result with it.
        path: file to write.
        format: "torch", modules of torch.nn for `torch.load(path, weights_only=False)`; "torchscript", for
            `torch.jit.load`; "onnx", with the input "z" (m, features) and the output "x", for ONNX Runtime and others.
            None: "onnx" where the path ends in .onnx, else "torch".

    Returns:
        Path of the file.

    Raises:
        ValueError: an unknown format; a network that has no equivalent in torch.nn ("torch"), or that cannot be traced.
        ImportError: a package for ONNX is missing. OSError: the file cannot be written.
    """
    format = format_of(path) if format is None else format
    check_choice("export", "format", format, _WRITERS)
    original = copy.deepcopy(network).cpu().eval()
    try:
        model = _plain(copy.deepcopy(original), {}, strict=format == "torch").eval()
    except NotPlain as error:
        got = f"{error}: torchscript and onnx trace any network"
        raise Invalid("export").value(
            "network", f"must consist of modules of torch.nn for 'torch', but {got}"
        ) from None
    z = example.detach().cpu()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracers' warnings of what the comparison below checks
        try:
            written, run = _WRITERS[format](model, z[:_TRACED])
            for rows in _TRIED:
                _check(run(z[:rows]), original(z[:rows]))
        except (ImportError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # tracers raise classes of their own
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise Invalid("export").value("network", f"must be one that {format} can express, got {why}") from error
    path = Path(path)
    write_atomically(path, [written])
    return path


def _check(found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape or not torch.allclose(found, expected, 0.0, _FAR * float(expected.abs().max())):
        raise ValueError("other outputs for another number of rows than that it was traced with")


Runner = Callable[[Tensor], Tensor]


def _torch(model: nn.Module, z: Tensor) -> tuple[bytes, Runner]:
    file = io.BytesIO()
    torch.save(model, file)
    return file.getvalue(), model


def _torchscript(model: nn.Module, z: Tensor) -> tuple[bytes, Runner]:
    traced = torch.jit.trace(model, z)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    return file.getvalue(), traced


def _onnx(model: nn.Module, z: Tensor) -> tuple[bytes, Runner]:
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            rule = "needs the packages onnx and onnxscript: pip install onnx onnxscript"
            raise Invalid("export")(ImportError, "format 'onnx'", rule)
    names = {"input_names": ["z"], "output_names": ["x"], "dynamic_shapes": ({0: torch.export.Dim("rows")},)}
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it logs packages that are not installed
    try:
        program = torch.onnx.export(model, (z,), dynamo=True, verbose=False, **names)  # type: ignore[arg-type]
    finally:
        log.setLevel(level)
    assert program is not None
    written: bytes = program.model_proto.SerializeToString()
    if importlib.util.find_spec("onnxruntime") is None:
        return written, model  # no runtime here to compare with
    import onnxruntime

    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    return written, lambda x: torch.from_numpy(session.run(None, {"z": x.numpy()})[0])


_WRITERS: dict[str, Callable[[nn.Module, Tensor], tuple[bytes, Runner]]] = {
    "torch": _torch,
    "torchscript": _torchscript,
    "onnx": _onnx,
}
