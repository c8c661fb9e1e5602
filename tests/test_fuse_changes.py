"""What is done to a model after fuse: it counts as it would have counted before."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fuse_models import wide
from test_nn import TOLERANCE, assert_same, value_and_grads
from torch import Tensor, nn
from torch.nn.utils import prune

import fastgan.nn as fnn
from fastgan import _backend
from fastgan.nn import segments


class Twice(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return 2 * w


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x)


def _replace_weight(m: nn.Sequential) -> None:
    m[3].weight = nn.Parameter(torch.eye(8))


def _weight_data(m: nn.Sequential) -> None:
    m[3].weight.data = torch.eye(8)


def _fix_forward(m: nn.Sequential) -> None:
    m[1].forward = lambda x: x * 3  # type: ignore[method-assign]


def _slope(m: nn.Sequential) -> None:
    m[1].negative_slope = 0.7


def _append(m: nn.Sequential) -> None:
    m.append(nn.Softplus())


def _swap_child(m: nn.Sequential) -> None:
    m[1] = nn.Sigmoid()


def _delete(m: nn.Sequential) -> None:
    del m[2]
    m.insert(0, nn.LayerNorm(6))


def _drop_bias(m: nn.Sequential) -> None:
    m[0].bias = None


CHANGES: dict[str, Callable[[nn.Sequential], object]] = {
    "forward hook": lambda m: m[3].register_forward_hook(lambda module, args, output: output * 3),
    "forward pre-hook": lambda m: m[1].register_forward_pre_hook(lambda module, args: (args[0] + 1,)),
    "backward hook": lambda m: m[3].register_full_backward_hook(lambda module, gin, gout: (gin[0] * 2,)),
    "hook on the whole": lambda m: m.register_forward_hook(lambda module, args, output: output * 3),
    "parametrization": lambda m: nn.utils.parametrize.register_parametrization(m[3], "weight", Twice()),
    "pruning": lambda m: prune.l1_unstructured(m[0], "weight", amount=0.5),
    "weight replaced": _replace_weight,
    "weight data": _weight_data,
    "bias removed": _drop_bias,
    "forward replaced": _fix_forward,
    "slope": _slope,
    "child replaced": _swap_child,
    "child appended": _append,
    "children moved": _delete,
    "frozen": lambda m: m[3].requires_grad_(False),
    "apply": lambda m: m.apply(lambda c: nn.init.constant_(c.weight, 0.1) if isinstance(c, nn.Linear) else None),
    "double": lambda m: m.double(),
    "bfloat16": lambda m: m.bfloat16(),
    "to_empty": lambda m: [nn.init.ones_(p) for p in m.to_empty(device="cpu").parameters()],
    "load_state_dict assign": lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}, assign=True),
    "extended": lambda m: m.extend([nn.Linear(3, 3, bias=False), nn.ReLU()])[6].weight.data.fill_(0.3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_after_fuse_count(change: str) -> None:
    torch.manual_seed(0)
    expected = wide()
    model = fnn.fuse(copy.deepcopy(expected))
    x = torch.randn(5, 6)
    model(x)
    model = copy.deepcopy(model)  # neither may the plan of the call above be copied
    before = model(x).detach()  # the plan of this call must not outlive the change
    CHANGES[change](model)
    CHANGES[change](expected)
    x = x.to(next(model.parameters()).dtype)
    got = value_and_grads(model, x)
    assert_same(got, value_and_grads(expected, x), **(TOLERANCE if change != "bfloat16" else {}))
    assert change in ("frozen", "backward hook", "double", "bfloat16") or not torch.equal(got[0], before)


@pytest.mark.skipif(_backend.native is None, reason="there is no native core")
@pytest.mark.parametrize("change", [*CHANGES, "class"])
def test_both_comparisons_see_the_same_changes(change: str) -> None:
    """The compiled core's, and that in Python where there is none; the model's own hooks are not among its layers'."""
    model = fnn.fuse(wide())
    model(torch.randn(5, 6))
    seen = model.__dict__["_segmentation"].seen
    comparisons = segments._unchanged, _backend.native.unchanged
    assert [same(model._modules, seen) for same in comparisons] == [True, True]
    CHANGES.get(change, lambda m: setattr(m[3], "__class__", Doubled))(model)
    first, second = (same(model._modules, seen) for same in comparisons)
    unseen = ("hook on the whole", "weight data", "frozen", "apply", "double", "bfloat16", "to_empty")
    assert first is second is (change in unseen)


def test_hooks_see_each_call_and_a_removed_hook_restores_the_fused_call(calls: list[int]) -> None:
    model = fnn.fuse(wide())
    seen = []
    handle = model[3].register_forward_hook(lambda module, args, output: seen.append(args[0].shape))
    model(torch.randn(5, 6))
    assert seen == [(5, 8)] and calls == [1]
    handle.remove()
    everywhere = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(type(module)))
    try:
        model(torch.randn(5, 6))
    finally:
        everywhere.remove()
    assert len(seen) == 1 + 7 and calls == [1]
    model(torch.randn(5, 6))
    assert len(seen) == 8 and calls == [1, 3]


def test_lazy_layers_join_once_they_know_their_shape(calls: list[int]) -> None:
    model = fnn.fuse(nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU()))
    x = torch.randn(5, 6)
    first = model(x)
    assert calls == [1] and torch.allclose(model(x), first) and calls == [1, 2]


def test_modes_of_single_children_count() -> None:
    model = fnn.fuse(nn.Sequential(nn.Linear(6, 500), nn.ReLU(), nn.Dropout(0.5), nn.Linear(500, 3)))
    x = torch.randn(5, 6)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    model[2].train()  # Monte Carlo dropout
    assert not torch.equal(model(x), model(x))
    model[2].p = 0.0
    assert torch.equal(model(x), model(x))


def test_dropout_in_a_chain_has_its_distribution_and_replays() -> None:
    model = fnn.fuse(nn.Sequential(nn.Dropout(0.2), nn.Linear(64, 64, bias=False), nn.ReLU(), nn.Dropout(0.5)))
    nn.init.eye_(model[1].weight)
    x = torch.ones(2000, 64, requires_grad=True)
    torch.manual_seed(3)
    y = model(x)
    y.sum().backward()
    assert torch.all((y == 0) | ((y - 2.5).abs() < 1e-6)) and torch.equal(x.grad != 0, y != 0)
    assert abs((y != 0).double().mean() - 0.4) < 4 * math.sqrt(0.24 / y.numel())
    torch.manual_seed(3)
    assert torch.equal(model(x), y)
    inplace = fnn.fuse(nn.Sequential(nn.Dropout(1.0, inplace=True), nn.Linear(3, 2), nn.ReLU()))
    x = torch.ones(4, 3)
    inplace(x)
    assert not x.any(), "an in-place dropout writes to its input, fused or not"


def test_optimisers_made_before_go_on() -> None:
    torch.manual_seed(0)
    expected = wide()
    model = copy.deepcopy(expected)
    results = []
    for net, change in ((model, fnn.fuse), (expected, lambda m: m)):
        optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
        change(net)
        for seed in range(3):
            optimiser.zero_grad()
            x = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
            net(x).square().sum().backward()
            optimiser.step()
        results.append([p.detach() for p in net.parameters()])
    assert_same(*results, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- .data replaced between forward and backward

OTHER_DATA: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda t: t.t().contiguous().t() if t.dim() == 2 else t.clone(),
    "strided": lambda t: torch.stack((t, t), dim=-1)[..., 0],
    "negated": lambda t: torch.complex(t, -t).conj().imag,
    "reversed": lambda t: t.flip(0),
    "a view of the same memory": lambda t: t[..., 1:],
    "narrower": lambda t: t[..., :-1].clone(),
    "smaller": lambda t: t[:1].clone(),
    "larger": lambda t: torch.cat((t, t, t)),
    "flat": lambda t: t.flatten()[: max(1, t.numel() // 3)].clone(),
}


def _chain(p: float = 0.0) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(3)
    layers = [nn.Linear(6, 6), nn.Tanh(), nn.Dropout(p), nn.Linear(6, 6), nn.LeakyReLU(0.2), nn.Linear(6, 2)]
    return fnn.fuse(nn.Sequential(*layers)), torch.randn(5, 6, requires_grad=True)


@pytest.mark.parametrize("kind", (nn.Linear, nn.Tanh))
def test_a_forward_put_into_the_class_of_a_layer_counts(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As extensions do that give all linear layers of a process another forward."""
    plain = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    run = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: 2 * run(self, x))
    fused, x = fnn.fuse(copy.deepcopy(plain)), torch.randn(5, 6)
    assert torch.equal(fused(x), plain(x))


@pytest.mark.parametrize("create_graph", (False, True))
@pytest.mark.parametrize("which", ("0.weight", "3.weight", "3.bias", "x", "all"))
@pytest.mark.parametrize("change", OTHER_DATA.values(), ids=OTHER_DATA)
def test_data_swapped_between_forward_and_backward(
    change: Callable[[Tensor], Tensor], which: str, create_graph: bool
) -> None:
    """The gradient is that of what forward computed, as torch's; nothing is read or written beyond its end."""
    found = []
    for swap in (False, True):
        model, x = _chain()
        tensors = dict(model.named_parameters(), x=x)
        y = model(x)
        if type(y.grad_fn).__name__ != "_MlpBackward":
            pytest.skip("the reference is the backend")
        for name, t in tensors.items():
            if swap and which in (name, "all"):
                t.data = change(t.data)
        found.append(torch.autograd.grad(y.square().sum(), list(tensors.values()), create_graph=create_graph))
    for got, want in zip(*found, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("which", ("0.weight", "3.weight"))
def test_weights_swapped_before_the_second_order(which: str) -> None:
    found = []
    for swap in (False, True):
        model, x = _chain()
        (grad,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        if swap:
            model.get_parameter(which).data = torch.full((9, 1), math.nan)
        found.append(torch.autograd.grad(grad.square().sum(), [model[0].weight, model[3].bias]))
    for got, want in zip(*found, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("create_graph", (False, True))
def test_a_storage_that_gives_its_memory_back_and_takes_other(create_graph: bool) -> None:
    """As FSDP's between forward and backward. One that stays away is refused; its old address is never read."""
    found = []
    for moves in (False, True):
        model, x = _chain()
        y, weight = model(x), model[3].weight
        if type(y.grad_fn).__name__ != "_MlpBackward":
            pytest.skip("the reference is the backend")
        if moves:
            values, storage, kept = weight.detach().clone(), weight.untyped_storage(), []
            size, before = storage.nbytes(), storage.data_ptr()
            storage.resize_(0)
            while len(kept) < 1000 and all(tensor.data_ptr() != before for tensor in kept):  # one takes the old memory
                kept.append(torch.full_like(values, math.nan))
            with pytest.raises(RuntimeError, match="storage of weight 1 must stay as it is until backward, 144 bytes"):
                torch.autograd.grad(y.square().sum(), x, create_graph=create_graph, retain_graph=True)
            storage.resize_(size)
            assert storage.data_ptr() != before
            weight.data.copy_(values)
        found.append(torch.autograd.grad(y.square().sum(), [x, *model.parameters()], create_graph=create_graph))
    for got, want in zip(*found, strict=True):
        assert torch.equal(got, want)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_a_storage_that_moves_beside_a_layer_without_units() -> None:
    widths = ((4, 0), (0, 8), (8, 8), (8, 2))
    model = fnn.fuse(nn.Sequential(*(layer for a, b in widths for layer in (nn.Linear(a, b), nn.Tanh()))))
    x, weight = torch.randn(32, 4), model[4].weight
    y = model(x)
    if type(y.grad_fn).__name__ != "_MlpBackward":
        pytest.skip("the reference is the backend")
    want = torch.autograd.grad(y.sum(), model[2].bias, retain_graph=True)
    values, storage, kept = weight.detach().clone(), weight.untyped_storage(), []
    size, before = storage.nbytes(), storage.data_ptr()
    storage.resize_(0)
    while len(kept) < 1000 and all(tensor.data_ptr() != before for tensor in kept):  # one takes the old memory
        kept.append(torch.full_like(values, math.nan))
    storage.resize_(size)
    assert storage.data_ptr() != before
    weight.data.copy_(values)
    assert torch.equal(*torch.autograd.grad(y.sum(), model[2].bias), *want)


def test_a_converted_model_does_not_hold_its_former_memory() -> None:
    model, x = _chain()
    y = model(x)
    if type(y.grad_fn).__name__ != "_MlpBackward":
        pytest.skip("the reference is the backend")
    (step,) = model.__dict__["_segmentation"].steps
    former = weakref.ref(step.cache.memory)
    model.bfloat16()
    assert former() is not None  # backward reads it
    y.sum().backward()
    del y
    assert former() is None


def test_two_storages_that_take_turns_at_one_address() -> None:
    """What a call remembers of the weights' memory is no use when it has moved, and other weights are where it was."""
    model, x = _chain()
    weight = model[3].weight
    memory = bytearray(weight.untyped_storage().nbytes())

    def there() -> Tensor:
        return torch.frombuffer(memory, dtype=weight.dtype).view(weight.shape)

    weight.data = there().copy_(weight.detach())
    y = model(x)
    if type(y.grad_fn).__name__ != "_MlpBackward":
        pytest.skip("the reference is the backend")
    expected, address = torch.autograd.grad(y.sum(), x)[0], weight.data_ptr()
    weight.untyped_storage().share_memory_()  # moves it
    weight.detach().fill_(math.nan)
    weight.data = there()
    assert weight.data_ptr() == address
    assert torch.equal(torch.autograd.grad(model(x).sum(), x)[0], expected)


def test_weights_changed_in_place_are_refused() -> None:
    model, x = _chain()
    y = model(x)
    (grad,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    with torch.no_grad():
        model[3].weight.mul_(2.0)
    for root in (y, grad):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(root.sum(), model[0].weight)


def test_what_hooks_of_saved_tensors_return_is_checked() -> None:
    model, x = _chain()
    expected = torch.autograd.grad(model(x).sum(), model[0].weight)[0]
    hooks = torch.autograd.graph.saved_tensors_hooks
    if _backend.native is not None:  # which alone reads them by their address
        with hooks(lambda t: t.detach().clone(), lambda t: t.flatten()[: t.numel() // 2]):
            y = model(x)
        with pytest.raises(RuntimeError, match="mlp: the saved activations must come back as forward left them, 640"):
            y.sum().backward()
    with hooks(lambda t: t.half(), lambda t: t.float()):
        y = model(x)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), model[0].weight)[0], expected, rtol=2e-2, atol=2e-2)
