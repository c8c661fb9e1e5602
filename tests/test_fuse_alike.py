"""Calls like an earlier one skip the checks; a call that is unlike it in one thing counts as it would have counted."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import need
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import fastgan
import fastgan.nn as fnn
from fastgan import ops
from fastgan.ops import networks


def made(dropout: float = 0.0) -> tuple[nn.Sequential, nn.Sequential]:
    """A plain model, and one that fuse has changed and that was called until it knows its calls."""
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Dropout(dropout), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)]
    plain = nn.Sequential(*layers)
    fused = fnn.fuse(copy.deepcopy(plain))
    for _ in range(3):
        fused(torch.randn(5, 6)), fused(torch.randn(5, 6, requires_grad=True))
    return plain, fused


def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Counts the calls that look at every tensor from Python."""
    seen: list[str] = []
    look = networks.is_common
    monkeypatch.setattr(networks, "is_common", lambda *a: seen.append("looked") or look(*a))
    return seen


def test_calls_of_both_kinds_and_any_number_of_rows_skip_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    need("native", "mlp")
    plain, fused = made()
    batches = [torch.randn(rows, 6, requires_grad=grad) for rows in (1, 5, 0, 70) for grad in (False, True)]

    def run() -> None:
        for x in batches:
            torch.testing.assert_close(fused(x), plain(x))
            with torch.no_grad():
                torch.testing.assert_close(fused(x), plain(x))

    run()  # whether native calls pay is found out for each number of rows
    seen = looks(monkeypatch)
    run()
    assert not seen


def test_frozen_parameters_are_a_kind_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    need("native", "mlp")
    _, fused = made()
    x = torch.randn(5, 6)
    for _ in range(2):
        fused.requires_grad_(False)
        assert not fused(x).requires_grad and not fused(x).requires_grad
        fused.requires_grad_(True)
        assert fused(x).requires_grad
    seen = looks(monkeypatch)
    for wanted in (False, True):
        assert fused.requires_grad_(wanted)(x).requires_grad is wanted
    fused[0].bias.requires_grad_(False)
    fused(x).sum().backward()
    assert fused[0].bias.grad is None and fused[0].weight.grad is not None
    assert seen == ["looked"]


@pytest.mark.parametrize("inside", (False, True))
def test_tensors_of_inference_mode_are_a_kind_of_their_own(inside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation under inference mode between training steps; `inside`: x is made there, else before."""
    need("native", "mlp")
    plain, fused = made()
    outside = torch.randn(5, 6)

    def run() -> None:
        with torch.inference_mode():
            x = outside + 1 if inside else outside
            torch.testing.assert_close(fused(x), plain(x))
        with torch.no_grad():  # x still is a tensor of inference mode
            torch.testing.assert_close(fused(x), plain(x))
        assert fused(outside).requires_grad

    run(), run()
    seen = looks(monkeypatch)
    run(), run()
    assert not seen


def test_one_cache_serves_calls_with_and_without_dropout() -> None:
    """A description without dropout, found by shapes alone, would leave it out of the next call."""
    need("native", "mlp")
    cache, layers, x = ops.CallCache(), (ops.LayerSpec("relu", dropout=0.5),), torch.ones(64, 8)
    arguments = x, [torch.ones(16, 8)], [torch.ones(16)], layers
    for seed in (None, torch.tensor(3)) * 3:
        y = ops.mlp(*arguments, dropout_seed=seed, cache=cache)
        assert bool((y == 0).any()) is (seed is not None)
        assert torch.equal(y, ops.mlp(*arguments, dropout_seed=seed))


def test_another_dtype_of_the_same_shape_is_seen() -> None:
    """Whether a chain runs module by module is found out for each type: half precision always does."""
    need("native", "mlp")
    plain, fused = made()
    x = torch.randn(5, 6)
    fused(x)
    (chain,) = fused.__dict__["_segmentation"].steps
    for dtype, leaves in (
        (torch.bfloat16, True),
        (torch.float64, False),
        (torch.float16, True),
        (torch.float32, False),
    ):
        for model in (plain, fused):
            model.to(dtype)
        torch.testing.assert_close(fused(x.to(dtype)), plain(x.to(dtype)))
        (now,) = fused.__dict__["_segmentation"].steps
        assert now is chain  # whose layers are the same objects
        assert chain.leaves_at[True][x.shape, dtype] is leaves
    with pytest.raises(TypeError, match="x and weights"):
        fused(x.double())


def other_memory(m: nn.Sequential) -> None:
    m[3].weight.data = torch.randn(8, 8, generator=torch.Generator().manual_seed(1)).t()


CHANGES: dict[str, Callable[[nn.Sequential], object]] = {
    "double": lambda m: m.double(),
    "strides": other_memory,
    "frozen": lambda m: m[3].weight.requires_grad_(False),
}
INPUTS: dict[str, Callable[[], Any]] = {
    "columns": lambda: torch.randn(6, 5).t(),
    "a row of a wider matrix": lambda: torch.randn(5, 100)[:1, :6],
    "three dimensions": lambda: torch.randn(2, 3, 6),
    "negated": lambda: torch._neg_view(torch.randn(5, 6)),
    "zeros without memory": lambda: torch._efficientzerotensor(5, 6),
    "a parameter": lambda: nn.Parameter(torch.randn(5, 6)),
    "expanded": lambda: torch.randn(1, 6).expand(5, 6),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_parameters_is_seen(change: str) -> None:
    plain, fused = made()
    for model in (plain, fused):
        CHANGES[change](model)
    x = torch.randn(5, 6, dtype=plain[0].weight.dtype)
    found, want = ([y := m(x), *torch.autograd.grad(y.sum(), [m[0].weight, m[5].bias])] for m in (fused, plain))
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", INPUTS)
def test_another_kind_of_input_is_seen(kind: str) -> None:
    plain, fused = made()
    x = INPUTS[kind]()
    for model in (fused, plain):
        model.zero_grad()
    torch.testing.assert_close(fused(x), plain(x))
    torch.testing.assert_close(fused(torch.randn(2, 6)).shape, torch.Size((2, 2)))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_transforms_are_seen() -> None:
    plain, fused = made()
    x, v = torch.randn(5, 6), torch.randn(5, 6)
    for way in (
        lambda m: torch.func.vmap(m)(x[:, None]),
        lambda m: torch.func.grad(lambda t: m(t).sum())(x),
        lambda m: torch.func.grad(lambda w: (m(x) * w).sum())(torch.tensor(2.0)),
        lambda m: torch.func.jvp(m, (x,), (v,))[1],
        lambda m: make_fx(m)(x)(x),
        lambda m: torch.jit.trace(m, x, check_trace=False)(x),
    ):
        torch.testing.assert_close(way(fused), way(plain))
    with forward_ad.dual_level():
        tangents = [forward_ad.unpack_dual(m(forward_ad.make_dual(x, v))).tangent for m in (fused, plain)]
    torch.testing.assert_close(*tangents)


def test_compiled_autograd_traces_the_reference() -> None:
    from torch._dynamo import compiled_autograd

    enable = getattr(compiled_autograd, "_enable", None) or compiled_autograd.enable  # torch 2.5 has no other
    plain, fused = made()
    x, found = torch.randn(5, 6), []
    with warnings.catch_warnings(record=True) as seen:  # torch itself warns, and must not be stopped by that
        warnings.simplefilter("always")
        for model in (plain, fused):
            with enable(torch.compile(backend="eager")):
                model(x).sum().backward()
            found.append(model[0].weight.grad)
    torch.testing.assert_close(*found)
    assert not [w for w in seen if "Dynamo does not know" in str(w.message)]


def test_autocast_runs_torchs_own_calls() -> None:
    """Under autocast torch chooses each product's dtype: the layers run as they are, with the same bits."""
    plain, fused = made()
    x = torch.randn(5, 6, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, expected = fused(x), plain(x)
        with torch.no_grad():
            assert torch.equal(fused(x), expected)
    assert y.dtype == torch.bfloat16 and torch.equal(y, expected)
    assert y.grad_fn.name() == expected.grad_fn.name() == "AddmmBackward0"
    assert fused(x).dtype == torch.float32


def test_a_torch_without_such_checks_looks_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    need("native", "mlp")
    monkeypatch.setattr("fastgan.ops.dispatch._TensorGuards", None)
    plain, fused = made()
    seen, x = looks(monkeypatch), torch.randn(5, 6)
    torch.testing.assert_close(fused(x), plain(x))
    assert seen == ["looked"]


def test_calls_that_are_never_alike_stop_learning() -> None:
    need("native", "mlp")
    _, fused = made()
    (chain,) = fused.__dict__["_segmentation"].steps
    for i in range(4 * chain.cache.most_learned):
        fused[0].weight.data = (
            torch.randn(8, 6) if i % 2 else torch.randn(8, 12)[:, ::2].clone(memory_format=torch.contiguous_format)
        )
        fused[5].bias.requires_grad_(bool(i % 3))
        fused(torch.randn(5, 6))
    assert chain.cache.learned == chain.cache.most_learned


def test_dropout_draws_a_key_at_each_call() -> None:
    need("native", "mlp")
    _, fused = made(0.5)
    x = torch.randn(50, 6)
    torch.manual_seed(3)
    first, second = fused(x), fused(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(fused(x), first)


def test_a_dropout_seed_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a known call misses, the seed is not drawn twice: the stream of numbers would depend on it."""
    need("native", "mlp")
    _, fused = made(0.5)
    drawn: list[Tensor] = []
    draw = fnn.segments.random.next_dropout_seed
    monkeypatch.setattr(fnn.segments.random, "next_dropout_seed", lambda: drawn.append(draw()) or drawn[-1])
    fused(torch.randn(5, 6)), fused(torch.randn(6, 5).t()), fused(torch.randn(2, 5, 6))
    assert len(drawn) == 3


CHAINS: dict[str, Callable[[], list[nn.Module]]] = {
    "dropout behind an activation": lambda: [nn.Linear(6, 8), nn.Tanh(), fnn.Dropout(0.3), nn.Linear(8, 2)],
    "dropout before an activation": lambda: [nn.Linear(6, 8), nn.Dropout(0.5), nn.Sigmoid(), nn.Linear(8, 2)],
    "dropout of the input": lambda: [nn.Dropout(0.2), nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)],
    "dropout at the end": lambda: [nn.Linear(6, 8), nn.Dropout(0.9), nn.Linear(8, 9), nn.GELU(), fnn.Dropout(0.1)],
    "batch normalisation": lambda: [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)],
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("rows", [2, 40])
def test_masks_do_not_depend_on_whether_native_calls_pay(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pays depends on the processor and on the number of rows: a training's masks must not."""
    torch.manual_seed(0)
    model = fnn.Sequential(*CHAINS[name]()).double()
    x = torch.randn(rows, 6, dtype=torch.float64)
    found = []
    for pays in (True, False):
        monkeypatch.setattr("fastgan.nn.segments.pays", lambda *_, pays=pays: pays)
        one, given = copy.deepcopy(model), x.clone().requires_grad_()
        with fastgan.random.scope(seed=3, step=0):
            results = [one(given) for _ in range(3)]
        found.append((results, torch.autograd.grad(sum(y.square().sum() for y in results), [given, *one.parameters()])))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert not torch.equal(*found[0][0][:2])  # a call draws a mask of its own
