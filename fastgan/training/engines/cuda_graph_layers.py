"""A network of the CUDA-graph engine: its buffers, and the passes over them as products and launches.

All buffers are allocated once, and no code here reads a number from the device: a pass is the same launches each time,
so it can be captured. Matrices are row-major, (rows, features).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fastgan._schema import ACTIVATIONS, DTYPES, FROM_INPUT, PIECEWISE_LINEAR, number
from fastgan.training.engines.plan import NetworkPlan


class KernelLauncher(Protocol):
    """Runs the operations of a pass. All tensors are on one device; `launch` adds the stream to the arguments."""

    device: torch.device
    tensor_cores: bool  # whether it has products of rounded factors

    def launch(self, entry: str, *arguments: object) -> None: ...

    def product(self, out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None) -> None:
        """out = a b, plus the bias of each column; sums are of the type of `out`, whatever that of the factors."""
        if a.dtype != out.dtype:
            torch.mm(a, b, out_dtype=out.dtype, out=out)
            if bias is not None:  # addmm takes no vector along with out_dtype
                out.add_(bias)
        elif bias is None:
            torch.mm(a, b, out=out)
        else:
            torch.addmm(bias, a, b, out=out)

    def add(self, out: Tensor, x: Tensor) -> None:
        """out += x"""
        out.add_(x)

    def copy(self, out: Tensor, x: Tensor) -> None:
        """out = x"""
        out.copy_(x)

    def copy_all(self, outs: list[Tensor], xs: list[Tensor]) -> None:
        """out = x for each pair, in one launch where that can be."""
        torch._foreach_copy_(outs, xs)

    def clip(self, grads: list[Tensor], max_value: float, max_norm: float) -> None:
        """Hold each number within a bound, then the norm of all, as torch.nn.utils does; 0: no bound."""
        if max_value > 0:
            self.hold(grads, max_value)
        if max_norm > 0:
            norm = torch.stack(torch._foreach_norm(grads)).norm()
            torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))

    def hold(self, tensors: list[Tensor], bound: float) -> None:
        """Hold each number within -bound .. bound."""
        torch._foreach_clamp_min_(tensors, -bound)
        torch._foreach_clamp_max_(tensors, bound)

    def size(self, entry: str, *numbers: int) -> int: ...

    def fork(self) -> None: ...

    def join(self) -> None: ...

    def run(self, body: Callable[[], object]) -> None: ...

    def fetch(self, x: Tensor) -> Tensor: ...

    def capture(self, body: Callable[[], None]) -> Callable[[], None]: ...


class Factor(NamedTuple):
    """A factor of matrix products: `exact` as computed, `taken` as products read it (the same tensor, or its rounded
    copy)."""

    exact: Tensor
    taken: Tensor

    @classmethod
    def of(cls, x: Tensor, kind: torch.dtype) -> Factor:
        """A factor in a buffer, for products with factors of this type."""
        return cls(x, x if x.dtype == kind else torch.zeros_like(x, dtype=kind))

    @property
    def rounds(self) -> bool:
        """Whether there is a rounded copy."""
        return self.taken is not self.exact


@dataclass(frozen=True)
class Batch:
    """Rows `first` on of a network's buffers: `sub_batches` of `rows` each, one for each call of the module.

    Args:
        dropout_seeds: int64, of the dropout masks of the first sub-batch; None if there are none.
        stride: from a sub-batch's seeds to the next one's.
        order: the sub-batches as they were called: so batch normalisation moves its running statistics.
    """

    first: int
    rows: int
    sub_batches: int
    dropout_seeds: Tensor | None = None
    stride: int = 0
    order: tuple[int, ...] = (0,)

    @property
    def span(self) -> slice:
        """The rows of all sub-batches."""
        return slice(self.first, self.first + self.sub_batches * self.rows)

    @property
    def number(self) -> int:
        """The number of rows."""
        return self.sub_batches * self.rows

    def sub_batch(self, i: int) -> slice:
        """The rows of sub-batch i."""
        return slice(self.first + i * self.rows, self.first + (i + 1) * self.rows)

    def mask(self, dropout_seed: int, substream: int) -> tuple[object, ...]:
        """The arguments that name a mask."""
        at = None if self.dropout_seeds is None else self.dropout_seeds[dropout_seed : dropout_seed + 1]
        return 0, at, self.rows, self.stride, substream


class LayerBuffers:
    """One layer's buffers: the tensors that forward saves for backward, and the gradients.

    Products read its input, its weight and the gradient of its product (`x`, `w`, `back`), which its network sets up.
    """

    x: Factor
    w: Factor
    back: Factor

    def __init__(
        self,
        spec: dict[str, Any],
        trained: Callable[[Tensor | None], bool],
        rows: int,
        launcher: KernelLauncher,
        sub_batches: int,
    ) -> None:
        self.launcher, self.spec = launcher, spec
        self.units, self.pieces, self.norm = spec["outputs"], spec["pieces"], spec["norm"]
        self.drops, self.inputs, self.concatenates = spec["dropout"] > 0, spec["inputs"], spec["concatenates"]
        self.width = self.units + self.inputs * self.concatenates  # of `given`, which may end in the layer's input
        self.weight = spec["weight"].detach()
        self.bias = None if spec["bias"] is None else spec["bias"].detach()
        self.activation = spec["activation"]
        self.dtype = DTYPES[self.weight.dtype]

        def buffer(columns: int, kind: torch.dtype | None = None) -> Tensor:
            return torch.zeros(rows, columns, dtype=kind or self.weight.dtype, device=launcher.device)

        from_input = self.activation in FROM_INPUT
        self.output = buffer(self.units)
        self.before = buffer(self.units) if from_input else None  # the activation's input
        self.product = buffer(self.columns) if self.pieces > 1 or self.norm is not None else None
        self.winner = buffer(self.units, torch.int32) if self.pieces > 1 else None
        self.given = buffer(self.width) if self.drops or self.concatenates else self.output
        self.grad = buffer(self.width)  # of `given`
        self.e = buffer(self.columns) if self.pieces > 1 or self.concatenates else self.grad  # of `product`
        # Gradients of the parameters that are trained
        self.grads: dict[Tensor, Tensor] = {
            p: torch.zeros_like(p, requires_grad=False)
            for p in (spec["weight"], spec["bias"], *self._norm_parameters())
            if p is not None and trained(p)
        }
        # Fewer rows may be cut into more chunks.
        parts = (rows // n for n in (1, 2, 3, 4, 6, 8))  # up to three penalties have two sub-batches each
        most = max(launcher.size("layer_partials", part, self.columns) for part in parts)
        self.partial = torch.zeros(most, dtype=torch.float64, device=launcher.device)
        if self.norm is not None:
            self.statistics = torch.zeros(sub_batches, 2, self.units, dtype=self.weight.dtype, device=launcher.device)

    @property
    def columns(self) -> int:
        """The columns of the layer's product."""
        return int(self.units * self.pieces)

    @property
    def plain(self) -> bool:
        """Whether the layer is only a product and a bias."""
        return self.activation == "none" and self.pieces == 1 and not self.drops and self.norm is None

    @property
    def saved(self) -> Tensor:
        """Tensor that the activation's backward needs (its output, or its input if saved)."""
        return self.output if self.before is None else self.before

    def _norm_parameters(self) -> tuple[Tensor | None, Tensor | None]:
        return (None, None) if self.norm is None else (self.norm.weight, self.norm.bias)

    def running(self) -> list[Tensor]:
        """The running statistics, which a forward pass updates."""
        norm = self.norm
        return [] if norm is None or norm.running_mean is None else [norm.running_mean, norm.running_var]

    def grad_of(self, parameter: Tensor | None) -> Tensor | None:
        """The gradient's buffer of a parameter; None if it is not trained."""
        return None if parameter is None else self.grads.get(parameter)

    def _head(self, batch: Batch, drops: bool) -> tuple[object, ...]:
        spec, dropout = self.spec, self.spec["dropout"] if drops else 0.0
        activation = ACTIVATIONS[self.activation]
        mask = batch.mask(spec["dropout_seed_index"], spec["dropout_substream"])
        return self.dtype, batch.number, self.units, self.pieces, activation, spec["negative_slope"], dropout, *mask

    def rounded(self, factor: Factor, rows: slice) -> Tensor:
        """Round rows of a factor to `taken`; call it once when they are complete."""
        if factor.rounds:
            self.launcher.copy(factor.taken[rows], factor.exact[rows])
        return factor.taken[rows]

    def drop(self, batch: Batch, x: Tensor, out: Tensor) -> None:
        """Apply the layer's dropout mask to x."""
        spec = self.spec
        mask = batch.mask(spec["dropout_seed_index"], spec["dropout_substream"])
        self.launcher.launch("dropout", self.dtype, x, out, batch.number, self.units, spec["dropout"], *mask)

    def forward(self, batch: Batch) -> None:
        """The forward pass, from the input to `given`."""
        launcher, span = self.launcher, batch.span
        x = self.rounded(self.x, span)
        if self.plain:
            return launcher.product(self.given[span], x, self.w.taken.t(), self.bias)
        source, bias = self.output if self.before is None else self.before, self.bias
        if self.product is not None:
            source = self.product
        launcher.product(source[span], x, self.w.taken.t())
        before = None if self.before is None else self.before[span]
        if self.norm is not None:
            self._normalize(batch)
            if self.activation == "none" and not self.drops:
                return None
            source, bias, before = self.saved, None, None
        drops, winner = self.drops and self.pieces == 1, None if self.winner is None else self.winner[span]
        tail = before, self.output[span], winner, self.given[span] if drops else None
        launcher.launch("layer_forward", *self._head(batch, drops), source[span], bias, *tail)
        if self.drops and not drops:
            self.drop(batch, self.output[span], self.given[span])
        if self.concatenates:
            launcher.copy(self.given[span, : self.units], self.output[span])
            launcher.copy(self.given[span, self.units :], self.x.exact[span])
        return None

    def backward(self, batch: Batch, grad: Tensor, e: Tensor, grad_bias: Tensor | None = None) -> None:
        """The gradients of the product and of the bias, from that of the layer's result; only rows of the batch."""
        launcher, span = self.launcher, batch.span
        if self.drops and self.pieces > 1:
            self.drop(batch, grad, grad)
        of_sum = grad_bias if self.norm is None else None
        winner = None if self.winner is None else self.winner[span]
        if not self.plain or of_sum is not None:
            changed = None if self.plain else e
            tail = grad, self.saved[span], winner, changed, of_sum, self.partial, None, None
            launcher.launch("layer_backward", *self._head(batch, self.drops and self.pieces == 1), *tail)
        if self.norm is not None:
            self._normalize_backward(batch, e)
            if grad_bias is not None:
                self.sum_rows(e, grad_bias)

    def sum_rows(self, x: Tensor, out: Tensor) -> None:
        """The sum of the rows of (rows, columns)."""
        rows, columns = x.shape
        nothing = 1, 0, 0.0, 0.0, 0, None, 0, 0, 0
        tail = x, None, None, None, out, self.partial, None, None
        self.launcher.launch("layer_backward", self.dtype, rows, columns, *nothing, *tail)

    def _norm_head(self, batch: Batch, sub_batch: int, moves: bool) -> tuple[object, ...]:
        norm = self.norm
        scale, shift = (None if p is None else p.detach() for p in self._norm_parameters())
        running: list[object] = [*self.running(), norm.num_batches_tracked] if moves and self.running() else [None] * 3
        sizes = self.dtype, batch.rows, self.units, norm.eps, norm.momentum
        return *sizes, self.bias, scale, shift, *running, *self.statistics[sub_batch]

    def _normalize(self, batch: Batch) -> None:
        assert self.product is not None
        for i in batch.order:
            rows, head = batch.sub_batch(i), self._norm_head(batch, i, True)
            self.launcher.launch("norm_forward", *head, self.product[rows], self.saved[rows])

    def _normalize_backward(self, batch: Batch, e: Tensor) -> None:
        assert self.product is not None
        grads = [self.grad_of(p) for p in self._norm_parameters()]
        for i in range(batch.sub_batches):
            rows, head = batch.sub_batch(i), self._norm_head(batch, i, False)
            own = e[i * batch.rows : (i + 1) * batch.rows]
            self.launcher.launch("norm_backward", *head, self.product[rows], own, *grads, i > 0)


class OutputHeads:
    """The heads of a network, behind its last layer.

    Args:
        chain: of the plan, which has heads.
        dtype: the number of the network's type.
        launcher: runs the passes.
    """

    def __init__(self, chain: NetworkPlan, dtype: int, launcher: KernelLauncher) -> None:
        assert chain.heads is not None
        self.launcher, self.dtype, self.seed_index = launcher, dtype, chain.heads_seed_index
        self.width, self.temperature = chain.heads.width, chain.heads.tau
        groups = [(number("Head", kind), first, width) for kind, first, width in chain.groups]  # as HeadPlan has them
        self.groups = torch.tensor(groups, dtype=torch.int64, device=launcher.device)

    def _head(self, batch: Batch) -> tuple[object, ...]:
        *seed, _ = batch.mask(self.seed_index, 0)
        return self.dtype, batch.number, self.width, self.groups, len(self.groups), self.temperature, *seed

    def forward(self, batch: Batch, x: Tensor, out: Tensor) -> None:
        """out = heads(x), of the rows of the batch."""
        self.launcher.launch("heads_forward", *self._head(batch), x, out)

    def backward(self, batch: Batch, out: Tensor, grad: Tensor) -> None:
        """In place: from the gradient of the outputs to that of the last layer's result."""
        self.launcher.launch("heads_backward", *self._head(batch), out, grad)


class NetworkBuffers:
    """A player's network on a batch of up to `rows` rows.

    Args:
        chain: of the plan.
        trained: whether a parameter is.
        rows: of all sub-batches together.
        machine: runs the passes.
        factors: type of the factors of products, its own or one that they are rounded to.
        result: buffer of the network's output, instead of its own; likewise its gradient.
    """

    def __init__(
        self,
        chain: NetworkPlan,
        trained: Callable[[Tensor | None], bool],
        rows: int,
        launcher: KernelLauncher,
        factors: torch.dtype,
        sub_batches: int = 1,
        result: Tensor | None = None,
        grad_result: Tensor | None = None,
    ) -> None:
        self.launcher, self.dropout_seeds, self.input_dropout = launcher, chain.dropout_seeds, chain.input_dropout
        self.layers = [LayerBuffers(spec, trained, rows, launcher, sub_batches) for spec in chain.layers]
        first, last = self.layers[0], self.layers[-1]
        self.dtype, self.inputs, self.units = first.dtype, first.inputs, last.width
        self.input = torch.zeros(rows, self.inputs, dtype=first.weight.dtype, device=launcher.device)
        self.dropped_input = torch.zeros_like(self.input) if self.input_dropout else self.input
        self.grad_input = torch.zeros_like(self.input)
        self.heads = None if chain.heads is None else OutputHeads(chain, self.dtype, launcher)
        if self.heads is not None:
            self.output = torch.zeros_like(last.given) if result is None else result
        elif result is not None:
            last.output = result if last.output is last.given else last.output
            last.given = result
        if grad_result is not None:
            last.e = grad_result if last.e is last.grad else last.e
            last.grad = grad_result
        x = self.dropped_input
        for layer in self.layers:
            layer.x, layer.w, layer.back = (Factor.of(t, factors) for t in (x, layer.weight, layer.e))
            x = layer.given
        if self.heads is None:
            self.output = last.given  # (rows, units)

    @property
    def grad_output(self) -> Tensor:
        """(rows, units); overwritten by the backward pass."""
        return self.layers[-1].grad

    @property
    def has_second_derivative(self) -> bool:
        """Whether an activation has a second derivative."""
        return any(layer.activation not in PIECEWISE_LINEAR for layer in self.layers)

    @property
    def grads(self) -> dict[Tensor, Tensor]:
        """The trained parameters and their gradients."""
        return {p: grad for layer in self.layers for p, grad in layer.grads.items()}

    def drop_input(self, batch: Batch, x: Tensor, out: Tensor) -> None:
        """Apply the dropout mask of the input."""
        numbers = batch.number, self.inputs, self.input_dropout
        self.launcher.launch("dropout", self.dtype, x, out, *numbers, *batch.mask(0, 0))

    def forward(self, batch: Batch) -> None:
        """The forward pass, from `input` to `output`."""
        if self.input_dropout:
            self.drop_input(batch, self.input[batch.span], self.dropped_input[batch.span])
        for layer in self.layers:
            layer.forward(batch)
        if self.heads is not None:
            self.heads.forward(batch, self.layers[-1].given[batch.span], self.output[batch.span])

    def backward_heads(self, batch: Batch) -> None:
        """From the gradient of `output` to that of the last layer's result, in `grad_output`."""
        if self.heads is not None:
            self.heads.backward(batch, self.output[batch.span], self.grad_output[batch.span])

    def backward(self, batch: Batch, *, to_input: bool, of_vectors: bool) -> None:
        """The backward pass, from `grad_output` to each product and `grad_input`, with the gradients of biases."""
        span = batch.span
        for i, layer in reversed(list(enumerate(self.layers))):
            grad_bias = layer.grad_of(layer.spec["bias"]) if of_vectors else None
            grad = layer.grad[span]
            if layer.concatenates:
                self.launcher.copy(layer.e[span], grad[:, : layer.units])
                grad = layer.e[span]
            layer.backward(batch, grad, layer.e[span], grad_bias)
            e = layer.rounded(layer.back, span)
            if i > 0 or to_input:
                below = self.layers[i - 1].grad if i > 0 else self.grad_input
                self.launcher.product(below[span], e, layer.w.taken)
                if layer.concatenates:
                    self.launcher.add(below[span], layer.grad[span, layer.units :])
        if to_input and self.input_dropout:
            self.drop_input(batch, self.grad_input[span], self.grad_input[span])

    def weight_gradients(self, rows: int) -> None:
        """After the backward pass: e^T x over the first rows."""
        for layer in self.layers:
            grad = layer.grad_of(layer.spec["weight"])
            if grad is not None:
                self.launcher.product(grad, layer.back.taken[:rows].t(), layer.x.taken[:rows])


class PenaltyPass:
    """The explicit second-order pass of a gradient penalty; formulas and letters (e, s, t, q) in csrc/cpu/penalty.h.

    Args:
        network: D, with buffers for two more sub-batches a penalty: e and t go to `tangent`.
        where: the rows where the penalty is evaluated, after forward and backward passes down to the input.
        tangent: first row of the other sub-batch.
        values: of the penalty, row by row.
    """

    def __init__(self, network: NetworkBuffers, where: int, tangent: int, values: Tensor) -> None:
        self.network, self.values, rows = network, values, len(values)
        self.rows = rows
        self.where, self.tangent = slice(where, where + rows), slice(tangent, tangent + rows)
        widest = max(max(layer.columns, layer.inputs) for layer in network.layers)
        self.scratch = [network.input.new_zeros(rows * widest) for _ in range(2)]
        self.sums = [layer.weight.new_zeros(layer.columns) for layer in network.layers]

    def _scratch(self, which: int, columns: int) -> Tensor:
        return self.scratch[which][: self.rows * columns].view(self.rows, columns)

    def run(self, batch: Batch, kind: int, weight: float) -> None:
        """Write e and t to the tangent's rows, and q over e; add to the gradients of biases."""
        network, launcher, tangent = self.network, self.network.launcher, self.tangent
        g, t = network.grad_input[self.where], network.dropped_input[tangent]
        shape = self.rows, network.inputs
        launcher.launch("penalty_grad", network.dtype, g, t, self.values, *shape, kind, weight)
        if network.input_dropout:
            network.drop_input(batch, t, t)
        for layer in network.layers:
            s = self._scratch(0, layer.columns)
            launcher.product(s, layer.rounded(layer.x, tangent), layer.w.taken.t())
            winner = None if layer.winner is None else layer.winner[self.where]
            numbers = (
                layer.pieces,
                ACTIVATIONS[layer.activation],
                layer.spec["negative_slope"],
                network.has_second_derivative,
            )
            tail = s, winner, layer.e[self.where], layer.e[tangent], layer.given[tangent]
            launcher.launch(
                "second_order", network.dtype, self.rows * layer.units, *numbers, layer.saved[self.where], *tail
            )
            layer.rounded(layer.back, tangent)
            if layer.drops:
                layer.drop(batch, layer.given[tangent], layer.given[tangent])
        if network.has_second_derivative:
            self._second_order_backward(batch)

    def _second_order_backward(self, batch: Batch) -> None:
        """Propagates q from each layer to the one below, and adds its sums to the bias gradients."""
        layers: Sequence[LayerBuffers] = self.network.layers
        for i, (layer, sums) in reversed(list(enumerate(zip(layers, self.sums, strict=True)))):
            grad_bias = layer.grad_of(layer.spec["bias"])
            if grad_bias is not None:
                layer.sum_rows(layer.e[self.where], sums)
                layer.launcher.add(grad_bias, sums)
            e = layer.rounded(layer.back, self.where)
            if i == 0:
                break
            below = layers[i - 1]
            grad, q = self._scratch(0, below.units), self._scratch(1, below.columns)
            layer.launcher.product(grad, e, layer.w.taken)
            below.backward(batch, grad, q)
            added = grad if below.plain else q
            layer.launcher.add(below.e[self.where], added)
