"""Batch normalisation, and dropout before the activation, in fused chains: values, gradients, running statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import need
from torch import Tensor, nn

import fastgan.nn as fnn
from fastgan import _kernels, ops
from fastgan.nn import segments
from fastgan.ops import networks

EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(autouse=True)
def native_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Chains run natively whether that pays or not; the names of the calls."""
    need("native", "mlp")
    monkeypatch.setattr(segments, "pays", lambda *a, **k: True)
    called: list[str] = []
    for name in ("mlp_forward", "mlp_backward"):
        run = getattr(_kernels, name)
        monkeypatch.setattr(_kernels, name, lambda *a, n=name, r=run, **k: called.append(n) or r(*a, **k))
    return called


def chain(activation: Callable[[], nn.Module] = nn.Tanh, bias: bool = True, **norm: Any) -> list[nn.Module]:
    first, second = nn.BatchNorm1d(7, **norm), nn.BatchNorm1d(5, eps=0.1, **norm)
    layers = [nn.Linear(3, 7, bias=bias), first, activation(), nn.Linear(7, 5), second, nn.LeakyReLU(0.2)]
    return [*layers, nn.Linear(5, 6), nn.Sigmoid(), nn.Linear(6, 2)]


MODELS: dict[str, Callable[[], list[nn.Module]]] = {
    "plain": chain,
    "gelu": lambda: chain(nn.GELU),
    "no activation": lambda: chain(nn.Identity),
    "no bias": lambda: chain(bias=False),
    "momentum 0.4": lambda: chain(momentum=0.4),
    "averages": lambda: chain(momentum=None),
    "not affine": lambda: chain(affine=False),
    "no running statistics": lambda: chain(track_running_stats=False),
    "dropout of 0": lambda: [*chain(), nn.Dropout(0.0)],
    "more features than a vector has lanes": lambda: [
        nn.Linear(3, 37),
        nn.BatchNorm1d(37),
        nn.Tanh(),
        nn.Linear(37, 2),
    ],
    "last": lambda: [nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.BatchNorm1d(2)],
}


def pair(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Sequential, nn.Sequential]:
    """A plain model with parameters that nothing hides, and the fused one."""
    torch.manual_seed(0)
    plain = nn.Sequential(*MODELS[name]()).to(dtype)
    with torch.no_grad():
        for t in (*plain.parameters(), *plain.buffers()):
            if t.is_floating_point():
                t.uniform_(0.5, 1.5)
    return plain, fnn.fuse(copy.deepcopy(plain))


def check_equal(plain: nn.Sequential, fused: nn.Sequential) -> None:
    for (name, a), b in zip(plain.state_dict().items(), fused.state_dict().values(), strict=True):
        torch.testing.assert_close(b, a, **EXACT, msg=name)


def gradients(model: nn.Sequential, x: Tensor) -> list[Tensor]:
    y = model(x)
    return [y, *torch.autograd.grad((y * torch.arange(1.0, y.numel() + 1).view_as(y)).sum(), [x, *model.parameters()])]


@pytest.mark.parametrize("name", MODELS)
def test_training_and_evaluation_give_what_torch_gives(name: str, native_calls: list[str]) -> None:
    plain, fused = pair(name)
    for rows in (2, 19, 33, 70, 33):
        x = torch.randn(rows, 3, dtype=torch.float64, requires_grad=True)
        for training in (True, False):
            want, found = (gradients(m.train(training), x) for m in (plain, fused))
            for a, b in zip(want, found, strict=True):
                torch.testing.assert_close(b, a, **EXACT)
            check_equal(plain, fused)
            with torch.no_grad():
                torch.testing.assert_close(fused(x), plain(x), **EXACT)
            check_equal(plain, fused)
    assert native_calls.count("mlp_forward") == 20 and native_calls.count("mlp_backward") == 10
    assert "run as one call" in fnn.explain(fused)[0]


def test_evaluation_of_many_rows_without_gradients() -> None:
    plain, fused = pair("plain")
    x = torch.randn(9000, 3, dtype=torch.float64)
    for training in (True, False):
        with torch.no_grad():
            torch.testing.assert_close(fused.train(training)(x), plain.train(training)(x), **EXACT)


@pytest.mark.parametrize("threads", (1, 2))
def test_the_bits_do_not_depend_on_threads(threads: int) -> None:
    found = []
    before = torch.get_num_threads()
    for count in (1, 1 + threads):
        torch.set_num_threads(count)
        torch.manual_seed(1)
        model = fnn.fuse(
            nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 64), nn.Tanh())
        )
        found.append([*gradients(model, torch.randn(200, 64, requires_grad=True)), *model.buffers()])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("frozen", ("0.weight", "1.weight", "1.bias", "4.weight", "all"))
def test_frozen_parameters_get_no_gradient(frozen: str, native_calls: list[str]) -> None:
    plain, fused = pair("plain")
    x = torch.randn(20, 3, dtype=torch.float64, requires_grad=frozen == "all")
    for model in (plain, fused):
        for name, p in model.named_parameters():
            p.requires_grad_(frozen not in (name, "all"))
        model(x).square().sum().backward()
    if x.grad is not None:
        want, x.grad = x.grad, None
        fused(x).square().sum().backward()
        torch.testing.assert_close(2 * x.grad, want, **EXACT)  # of both models
    for (name, a), b in zip(plain.named_parameters(), fused.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, **EXACT, msg=name)
    assert "mlp_backward" in native_calls


@pytest.mark.parametrize("training", (True, False))
@pytest.mark.parametrize("name", ("plain", "gelu", "not affine", "no running statistics"))
def test_gradients_of_gradients_are_torchs_own(name: str, training: bool) -> None:
    found = []
    x = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    models = [m.train(training) for m in pair(name)]
    for model in models:
        (grad,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        wanted = [x, *model.parameters()]
        found.append(torch.autograd.grad((grad.norm(dim=1) - 1).square().sum(), wanted, allow_unused=True))
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(b, a, **EXACT)
    check_equal(*models)  # the running statistics have seen one batch
    assert "gradients of gradients are PyTorch's own: BatchNorm1d" in fnn.explain(models[1])[0]


def test_the_graph_of_a_gradient_has_the_masks_of_forward() -> None:
    torch.manual_seed(0)
    layers = [
        nn.Linear(3, 16),
        nn.BatchNorm1d(16),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Linear(16, 8),
        nn.Dropout(0.5),
        nn.Tanh(),
    ]
    fused = fnn.fuse(nn.Sequential(*layers).double())
    x, found = torch.randn(9, 3, dtype=torch.float64, requires_grad=True), []
    for graph in (False, True):
        torch.manual_seed(4)
        found.append(torch.autograd.grad(fused(x).square().sum(), [x, *fused.parameters()], create_graph=graph))
    assert found[1][0].requires_grad
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, **EXACT)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.parametrize("training", (True, False))
def test_compiled_and_transformed_chains_run_module_by_module(training: bool, native_calls: list[str]) -> None:
    plain, fused = (m.train(training) for m in pair("plain"))
    x = torch.randn(9, 3, dtype=torch.float64)
    compiled = torch.compile(fused, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), plain(x), **EXACT)
    if not training:
        parameters = dict(fused.named_parameters())
        run = torch.func.vmap(lambda row: torch.func.functional_call(fused, parameters, (row[None],))[0])
        torch.testing.assert_close(run(x), plain(x), **EXACT)
        torch.testing.assert_close(torch.jit.trace(fused, (x,), check_trace=False)(x + 1), plain(x + 1), **EXACT)
    check_equal(plain, fused)
    assert not native_calls


def test_dropout_before_an_activation_is_refused_where_native_code_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = torch.ones(4, 3), [torch.ones(2, 3)], [None], [ops.LayerSpec("tanh", dropout=0.5, dropout_first=True)]
    key = torch.tensor(3)
    eager = ops.mlp(*arguments, dropout_seed=key)
    monkeypatch.setattr(networks, "is_compiling", lambda: True)
    torch.testing.assert_close(ops.mlp(*arguments, dropout_seed=key), eager)
    with pytest.raises(RuntimeError, match="mlp: impl='native' is not available: dropout comes before an activation"):
        ops.mlp(*arguments, dropout_seed=key, impl="native")


def test_gradgradcheck() -> None:
    _, fused = pair("gelu")
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fused, (x,), nondet_tol=0.0)
    assert torch.autograd.gradgradcheck(fused, (x,), nondet_tol=1e-12)


def test_one_row_in_training_is_refused_as_torch_refuses_it() -> None:
    plain, fused = pair("plain")
    x = torch.randn(1, 3, dtype=torch.float64)
    for model in (plain, fused):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
            model(x)
    check_equal(plain, fused)
    torch.testing.assert_close(fused.eval()(x), plain.eval()(x), **EXACT)


def test_what_is_not_two_dimensional_or_in_half_precision_runs_module_by_module(native_calls: list[str]) -> None:
    plain, fused = pair("plain")
    x = torch.randn(4, 7, 3, dtype=torch.float64)  # channels of BatchNorm1d are the second dimension
    torch.testing.assert_close(fused[:3](x), plain[:3](x), **EXACT)
    for model in (plain, fused):
        model.bfloat16()
    torch.testing.assert_close(fused(x[0].bfloat16()), plain(x[0].bfloat16()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(fused.float()(x[0].float()), plain.float()(x[0].float()))
    assert not native_calls


def test_a_replaced_buffer_and_a_changed_setting_are_seen() -> None:
    plain, fused = pair("plain")
    x = torch.randn(9, 3, dtype=torch.float64)
    for change in (
        lambda m: setattr(m[1], "running_mean", torch.zeros(7, dtype=torch.float64)),
        lambda m: setattr(m[1], "momentum", 0.9),
        lambda m: setattr(m[1], "eps", 0.5),
        lambda m: setattr(m[4], "weight", None),
        lambda m: m[1].eval(),
        lambda m: m[4].reset_running_stats(),
    ):
        for model in (plain, fused):
            change(model)
            model(x)
        torch.testing.assert_close(fused(x), plain(x), **EXACT)
        check_equal(plain, fused)


def test_a_norm_of_another_width_raises_torchs_error() -> None:
    model = fnn.fuse(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(4, 2)))
    with pytest.raises(RuntimeError, match="running_mean should contain 4 elements not 5"):
        model(torch.randn(6, 3))


VECTORS = ("weight", "bias", "running_mean", "running_var")


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("called", (False, True))
@pytest.mark.parametrize("training", (True, False))
def test_a_vector_of_another_length_raises_torchs_error(name: str, called: bool, training: bool) -> None:
    """Native code would read, and write, beyond its end. Where the model was called before, only its data change."""
    model = fnn.fuse(nn.Sequential(*chain()).double()).train(training)
    x = torch.randn(6, 3, dtype=torch.float64)
    if called:
        for _ in range(3):
            model(x)
    vector = getattr(model[1], name)
    vector.data = vector.data[:5].clone()
    with pytest.raises(RuntimeError, match=f"^{name} should contain 7 elements not 5$"):
        model(x)


@pytest.mark.parametrize("name", ("weight", "bias"))
@pytest.mark.parametrize("training", (True, False))
def test_a_scale_without_a_shift_and_the_reverse(name: str, training: bool, native_calls: list[str]) -> None:
    plain = nn.Sequential(*chain()).double().train(training)
    for norm in (plain[1], plain[4]):
        setattr(norm, name, None)
    fused, x = fnn.fuse(copy.deepcopy(plain)), torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    values = []
    for model in (plain, fused):
        y = model(x)
        gradients = torch.autograd.grad(y.square().sum(), [x, *model.parameters()], create_graph=True)
        seconds = torch.autograd.grad(gradients[0].square().sum(), list(model.parameters()), allow_unused=True)
        values.append([y, *gradients, *(g for g in seconds if g is not None), *model.buffers()])
    for got, expected in zip(*values[::-1], strict=True):
        torch.testing.assert_close(got, expected, **EXACT)
    fused(x).sum().backward()
    assert native_calls[-2:] == ["mlp_forward", "mlp_backward"]


def test_a_counter_of_several_batches_is_torchs_own(native_calls: list[str]) -> None:
    model = fnn.fuse(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()))
    model[1].num_batches_tracked = torch.zeros(2, dtype=torch.int64)
    model(torch.randn(6, 3))
    assert model[1].num_batches_tracked.tolist() == [1, 1]
    assert not native_calls


@pytest.mark.parametrize("order", ("after", "before"))
def test_dropout_beside_batch_normalisation(order: str) -> None:
    """Dropped elements are zero, kept ones are doubled; before ReLU it is the same as behind it."""
    torch.manual_seed(0)
    pieces = [nn.ReLU(), nn.Dropout(0.5)]
    layers = [nn.Linear(3, 64), nn.BatchNorm1d(64), *(pieces if order == "after" else pieces[::-1])]
    plain = nn.Sequential(*layers)
    fused, x = fnn.fuse(copy.deepcopy(plain)), torch.randn(50, 3)
    kept = fused(x)
    full = torch.relu(plain[1](plain[0](x)))
    hit = kept != 0
    assert 0.4 < hit[full > 0].float().mean() < 0.6
    torch.testing.assert_close(kept[hit], 2 * full[hit])
    assert not torch.equal(fused(x), kept)


# ---------------------------------------------------------------- dropout before the activation

LAYERS = (
    ops.LayerSpec("tanh", dropout=0.3, dropout_first=True),
    ops.LayerSpec("leaky_relu", dropout=0.4),
    ops.LayerSpec("gelu", dropout=0.5, dropout_first=True),
    ops.LayerSpec("sigmoid", dropout=0.2, dropout_first=True),
    ops.LayerSpec(),
)


def dropped(impl: Any, rows: int, inputs: float = 0.1) -> list[Tensor]:
    """Value, gradients, and gradients of a gradient penalty."""
    torch.manual_seed(2)
    sizes = (3, 17, 6, 9, 5, 2)
    made = [torch.randn(b, a, dtype=torch.float64, requires_grad=True) for a, b in zip(sizes, sizes[1:], strict=False)]
    biases = [torch.randn(b, dtype=torch.float64, requires_grad=True) for b in sizes[1:]]
    x = torch.randn(rows, 3, dtype=torch.float64, requires_grad=True)
    y = ops.mlp(x, made, biases, LAYERS, input_dropout=inputs, dropout_seed=torch.tensor(11), impl=impl)
    first = torch.autograd.grad(y.square().sum(), [x, *made, *biases], retain_graph=True)
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    second = torch.autograd.grad((grad.norm(dim=1) - 1).square().sum(), [x, *made, *biases], allow_unused=True)
    return [y, *first, *(t for t in second if t is not None)]


@pytest.mark.parametrize("rows", (2, 19, 64))
def test_dropout_before_an_activation_as_the_reference_has_it(rows: int) -> None:
    found, want = dropped("native", rows), dropped("reference", rows)
    assert len(found) == len(want)
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_a_penalty_with_dropout_before_an_activation() -> None:
    torch.manual_seed(0)
    layers = [
        nn.Linear(3, 8),
        nn.Dropout(0.5),
        nn.Tanh(),
        nn.Linear(8, 8),
        nn.Dropout(0.5),
        nn.Softplus(),
        nn.Linear(8, 1),
    ]
    d = fnn.fuse(nn.Sequential(*layers).double())
    (only,) = segments.steps_of(d)
    x, key = torch.randn(12, 3, dtype=torch.float64), torch.tensor(5)
    arguments = only.weights, only.biases, only.layers
    options = {"dropout_seed": lambda: key, "input_dropout": 0.0, "caller": "test", "cache": ops.CallCache()}
    value = ops.mlp_penalty(x, *arguments, "wgan-gp", 10.0, **options)
    found = torch.autograd.grad(value, only.weights)
    where = x.clone().requires_grad_()
    y = ops.mlp(where, *arguments, dropout_seed=key, impl="reference")
    (grad,) = torch.autograd.grad(y.sum(), where, create_graph=True)
    truth = 10.0 * (grad.norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(value, truth, **EXACT)
    for a, b in zip(found, torch.autograd.grad(truth, only.weights), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_a_norm_above_frozen_layers_is_trained(native_calls: list[str]) -> None:
    """The layers below the lowest wanted gradient are skipped: its scale and shift count, not its weights alone."""
    plain, fused = pair("plain")
    for model in (plain, fused):
        model[0].requires_grad_(False)
        model[1].requires_grad_(True)
        model(torch.linspace(-1, 1, 24, dtype=torch.float64).view(8, 3)).square().sum().backward()
    assert native_calls == ["mlp_forward", "mlp_backward"]
    for (name, a), b in zip(plain.named_parameters(), fused.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None) == name.startswith("0."), name
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, **EXACT, msg=name)
