"""What would make a layer fuse that is held as an attribute and called in `forward`: read from the source, not run."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import Counter

from torch import nn

_MODULES = {
    "relu": "nn.ReLU",
    "leaky_relu": "nn.LeakyReLU",
    "tanh": "nn.Tanh",
    "sigmoid": "nn.Sigmoid",
    "elu": "nn.ELU",
    "softplus": "nn.Softplus",
    "gelu": "nn.GELU",
}


class _Reader(ast.NodeVisitor):
    """Follows a forward method: which layer's output an activation gets.

    Args:
        own: the name of the method's first argument, such as self.
    """

    def __init__(self, own: str) -> None:
        self.own = own
        self.output_of: dict[str, str] = {}  # local variable -> the attribute that was called for its value
        self.found: dict[str, list[str]] = {}  # attribute -> for each activation of its output, the module that is one
        self.calls: Counter[str] = Counter()  # of attributes
        self.reads: Counter[str] = Counter()  # of variables that hold an attribute's output

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        layer = self._layer(node.value)
        for target in node.targets:
            self.visit(target)
        if layer is not None and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            self.output_of[node.targets[0].id] = layer

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.reads.update([self.output_of.get(node.id, "")])
        else:  # it now holds something else
            self.output_of.pop(node.id, None)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        function = node.func
        self.calls.update([self._layer(node) or ""])
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name not in _MODULES:
            return
        method = isinstance(function, ast.Attribute) and self._layer(function.value) is not None
        values = [function.value, *node.args] if method else list(node.args)  # type: ignore[attr-defined]
        layer = self._layer(values[0]) if values else None
        if layer is not None:
            settings = [ast.unparse(x) for x in values[1:]]
            settings += [f"{k.arg}={ast.unparse(k.value)}" for k in node.keywords if k.arg != "inplace"]
            self.found.setdefault(layer, []).append(f"{_MODULES[name]}({', '.join(settings)})")

    def always(self) -> dict[str, str]:
        """The attributes whose output goes to one activation at every call, and nowhere else."""
        return {
            layer: applied[0]
            for layer, applied in self.found.items()
            if len(set(applied)) == 1 and self.calls[layer] == len(applied) >= self.reads[layer]
        }

    def _layer(self, node: ast.expr) -> str | None:
        """The attribute of the module whose call gives this value."""
        if isinstance(node, ast.Name):
            return self.output_of.get(node.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == self.own:
                return node.func.attr
        return None


def activations(module: nn.Module) -> dict[str, str]:
    """The layers that `forward` calls as attributes and then gives to one activation: name -> its module.

    Empty if there is no source to read, as in an interpreter, or if the source has another form.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(type(module).forward)))
    except (OSError, TypeError, SyntaxError):
        return {}
    method = tree.body[0]
    if not isinstance(method, ast.FunctionDef) or not method.args.args:
        return {}
    reader = _Reader(method.args.args[0].arg)
    reader.visit(method)
    return reader.always()


def two_lines(module: nn.Module, name: str, layer: nn.Linear) -> str:
    """The change that would fuse a linear layer held as an attribute with its activation; empty if there is none."""
    activation = activations(module).get(name)
    if activation is None:
        return ""
    bias = "" if layer.bias is not None else ", bias=False"
    linear = f"nn.Linear({layer.in_features}, {layer.out_features}{bias})"
    return (
        f"; in __init__ write self.{name} = nn.Sequential({linear}, {activation}), "
        f"in forward self.{name}(...) without the activation, and it fuses"
    )
