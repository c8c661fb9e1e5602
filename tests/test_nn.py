"""The layers against the plain torch.nn modules that they replace: values, gradients, dtypes, errors."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import fastgan.nn as fnn
from fastgan import random
from fastgan._backend import why_not
from fastgan.nn.activation import NAMES, activation_module

_no_native = why_not("mlp", "cpu", torch.float32)
IMPLS = [
    "reference",
    pytest.param("native", marks=pytest.mark.skipif(_no_native is not None, reason=f"no native core: {_no_native}")),
]
TOLERANCE = {"rtol": 1.3e-6, "atol": 1e-5}


def plain(model: nn.Module) -> nn.Sequential:
    """The same children, copied, in an ordinary nn.Sequential."""
    return nn.Sequential(*copy.deepcopy(list(model.children())))


def value_and_grads(model: nn.Module, x: Tensor, upstream: Tensor | None = None) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = model(x)
    upstream = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view(y.shape) if upstream is None else upstream
    y.backward(upstream.to(y.dtype))
    grads = [x.grad, *(p.grad for p in model.parameters())]
    return [y.detach()] + [g.detach() for g in grads if g is not None]


def assert_same(got: list[Tensor], expected: list[Tensor], **tolerance: float) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


# ---------------------------------------------------------------- against torch.nn


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", NAMES)
def test_M50_mlp_is_the_sequential_of_torch_modules(activation: str, bias: bool, impl: str) -> None:
    widths = (1, 7, 31, 32, 33, 480) if impl == "native" else (1, 33)  # the reference is torch's own operations
    for seed, width in enumerate(widths):
        torch.manual_seed(seed)
        model = fnn.MLP([width, 33, width, 5], activation=activation, output_activation="tanh", bias=bias, impl=impl)
        for batch in (1, 33):
            x = torch.randn(batch, width)
            model.zero_grad()
            assert_same(value_and_grads(model, x), value_and_grads(plain(model), x), **TOLERANCE)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_M50_mlp_at_the_sizes_of_apex(activation: str, impl: str) -> None:
    torch.manual_seed(0)
    model = fnn.MLP([480, 1024, 1024, 512, 256, 1], activation=activation, impl=impl)
    x = torch.empty(1024, 480).uniform_(-1, 1)
    upstream = torch.full((1024, 1), 10 / 1024)
    assert_same(value_and_grads(model, x, upstream), value_and_grads(plain(model), x, upstream), **TOLERANCE)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8), (0, 8), (2, 0, 8)])
def test_linear_takes_any_leading_shape(shape: tuple[int, ...], impl: str) -> None:
    torch.manual_seed(0)
    layer = fnn.Linear(8, 5, activation=nn.LeakyReLU(0.1), impl=impl)
    reference = nn.Sequential(nn.Linear(8, 5), nn.LeakyReLU(0.1))
    reference[0].load_state_dict(layer.state_dict())
    x = torch.randn(shape)
    assert_same(value_and_grads(layer, x), value_and_grads(reference, x), **TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errs_at_most_twice_as_much_as_torch(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = fnn.MLP([64, 128, 128, 8], activation="leaky_relu", output_activation="tanh").to(dtype)
    x = torch.randn(64, 64).to(dtype)
    exact = value_and_grads(plain(model).double(), x.double())
    fused, torchs = value_and_grads(model, x), value_and_grads(plain(model), x)
    for a, b, e in zip(fused, torchs, exact, strict=True):
        assert a.dtype == dtype
        assert (a - e).abs().max() <= 2 * (b - e).abs().max() + torch.finfo(dtype).tiny


# ---------------------------------------------------------------- maxout


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("pieces", [1, 2, 5, 16])
def test_M51_maxout_takes_the_lowest_of_the_largest_pieces(pieces: int, impl: str) -> None:
    torch.manual_seed(pieces)
    layer = fnn.Maxout(6, 7, pieces, impl=impl)
    with torch.no_grad():  # whole numbers: exact in any order of summation, and full of ties
        for p in layer.parameters():
            p.copy_(torch.randint(-1, 2, p.shape))
    x = torch.randint(-1, 2, (40, 6)).float()
    affine = nn.functional.linear(x, layer.weight, layer.bias).detach().view(40, 7, pieces)
    got = value_and_grads(layer, x, upstream := torch.randn(40, 7))
    assert torch.equal(got[0], affine.max(-1).values)
    winner = torch.from_numpy(affine.numpy().argmax(-1))  # numpy promises the first
    assert pieces == 1 or (affine == affine.max(-1, keepdim=True).values).sum(-1).max() > 1, "no tie, no test"
    grad = (nn.functional.one_hot(winner, pieces) * upstream[..., None]).flatten(1)
    assert_same(got[1:], [grad @ layer.weight.detach(), grad.t() @ x, grad.sum(0)], **TOLERANCE)


@pytest.mark.parametrize("impl", IMPLS)
def test_M51_maxout_passes_a_nan_of_any_piece(impl: str) -> None:
    for row in range(3 * 4):
        layer = fnn.Maxout(2, 3, 4, impl=impl)
        with torch.no_grad():
            layer.bias[row] = math.nan
        y = layer(torch.randn(5, 2))
        assert torch.equal(y.isnan(), (torch.arange(3) == row // 4).expand(5, 3))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu"])
def test_the_derivative_at_zero_is_torchs(activation: str, impl: str) -> None:
    layer = fnn.Linear(1, 1, bias=False, activation=activation, negative_slope=0.3, impl=impl)
    x, y = (torch.zeros(5, 1, requires_grad=True) for _ in range(2))
    layer(x).sum().backward()
    activation_module(activation, 0.3)(y).sum().backward()
    torch.testing.assert_close(x.grad, y.grad * layer.weight.detach())


# ---------------------------------------------------------------- dropout


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("p", [0.2, 0.5])
def test_M52_dropout_keeps_its_share_and_its_mask(p: float, impl: str) -> None:
    n = 10**7 if impl == "native" else 10**6
    torch.manual_seed(0)
    x = torch.rand(n // 1000, 1000).add_(0.5).requires_grad_()
    y = fnn.Dropout(p, impl=impl)(x)
    y.sum().backward()
    kept = y != 0
    assert abs(kept.double().mean() - (1 - p)) < 4 * math.sqrt(p * (1 - p) / n)
    change = (y - x).double()
    assert abs(change.mean()) < 4 * change.std() / math.sqrt(n)
    scale = torch.tensor(1 / (1 - p))
    torch.testing.assert_close(y, x * kept * scale, rtol=3e-7, atol=0)
    assert torch.equal(x.grad != 0, kept)
    torch.testing.assert_close(x.grad, kept * scale, rtol=3e-7, atol=0)


@pytest.mark.parametrize("impl", IMPLS)
def test_M52_dropout_at_its_ends(impl: str) -> None:
    x = torch.randn(5, 7, requires_grad=True)
    assert fnn.Dropout(0.0, impl=impl)(x) is x
    assert fnn.Dropout(0.9, impl=impl).eval()(x) is x
    y = fnn.Dropout(1.0, impl=impl)(x)
    y.sum().backward()
    assert not y.any() and not x.grad.any()
    for p in (0.0, 1.0):
        model = fnn.MLP([7, 6, 3], activation="tanh", dropout=p, input_dropout=p, impl=impl)
        model.zero_grad()
        zeroed = torch.zeros(5, 3) + model[-1].bias if p else plain(model)(x)
        torch.testing.assert_close(model(x), zeroed, **TOLERANCE)


@pytest.mark.parametrize("impl", IMPLS)
def test_masks_come_from_the_scope_or_from_torchs_generator(impl: str) -> None:
    model = fnn.MLP([20, 30, 4], activation="relu", dropout=0.5, input_dropout=0.2, impl=impl)
    x = torch.randn(8, 20)
    torch.manual_seed(5)
    first, second = model(x), model(x)
    torch.manual_seed(5)
    assert torch.equal(model(x), first) and not torch.equal(first, second)
    results = []
    for _ in range(2):
        with random.scope(seed=3, step=9):
            results.append((model(x), model(x)))
        torch.rand(3)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert not torch.equal(*results[0])
    with random.scope(seed=3, step=10):
        assert not torch.equal(model(x), results[0][0])


@pytest.mark.parametrize("impl", IMPLS)
def test_dropout_lies_where_the_sequential_has_it(impl: str) -> None:
    """Ones through identity layers show the masks: of the input, of each hidden layer, none of the output."""
    model = fnn.MLP([64, 64, 64], activation="relu", dropout=0.5, input_dropout=0.25, bias=False, impl=impl)
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(64))
        model[4].weight.copy_(torch.eye(64))
    y = model(torch.ones(1000, 64))
    both = (1 / 0.75) * 2.0
    assert torch.all((y == 0) | ((y - both).abs() < 1e-5))
    assert abs((y != 0).double().mean() - 0.375) < 4 * math.sqrt(0.375 * 0.625 / 64_000)


# ---------------------------------------------------------------- PyTorch's machinery


def test_compiles_without_a_break() -> None:
    torch.manual_seed(0)
    model = fnn.Sequential(fnn.Maxout(6, 5, 3), fnn.Dropout(0.0), fnn.Linear(5, 4, activation="elu"), nn.Linear(4, 1))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for batch in (3, 5, 8):
        x = torch.randn(batch, 6)
        model.zero_grad()
        expected = value_and_grads(model, x)
        model.zero_grad()
        assert_same(value_and_grads(compiled, x), expected, **TOLERANCE)


def test_vmap_over_inputs_and_over_models() -> None:
    torch.manual_seed(0)
    models = [fnn.MLP([4, 8, 2], activation="relu") for _ in range(3)]
    x = torch.randn(3, 5, 4)
    torch.testing.assert_close(torch.vmap(models[0])(x), models[0](x))
    stacked, _ = torch.func.stack_module_state(models)
    together = torch.vmap(lambda p, b: functional_call(models[0], p, (b,)))(stacked, x)
    torch.testing.assert_close(together, torch.stack([m(b) for m, b in zip(models, x, strict=True)]))
    y = models[0](x)  # the swapped-in tensors are gone
    torch.testing.assert_close(y, plain(models[0])(x), **TOLERANCE)


# ---------------------------------------------------------------- containers and arguments


def test_state_dicts_load_both_ways() -> None:
    fused = fnn.MLP([6, 5, 4, 1], activation="relu", output_activation="sigmoid", dropout=0.5, input_dropout=0.2)
    torchs = nn.Sequential(
        nn.Dropout(0.2),
        nn.Linear(6, 5),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(5, 4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4, 1),
        nn.Sigmoid(),
    )
    x = torch.randn(3, 6)
    assert list(fused.state_dict()) == list(torchs.state_dict())
    torchs.load_state_dict(fused.state_dict())
    torch.testing.assert_close(fused.eval()(x), torchs.eval()(x), **TOLERANCE)
    other = fnn.MLP([6, 5, 4, 1], activation="relu", output_activation="sigmoid", dropout=0.5, input_dropout=0.2)
    other.load_state_dict(torchs.state_dict())
    torch.testing.assert_close(other.eval()(x), torchs(x), **TOLERANCE)
    single = fnn.Linear(6, 5, activation="relu")
    single.load_state_dict(torchs[1].state_dict())
    assert isinstance(single, nn.Linear) and torch.equal(single.weight, torchs[1].weight)


@pytest.mark.parametrize(
    "module",
    [
        fnn.Linear(3, 4, activation=nn.LeakyReLU(0.3)),
        fnn.Maxout(3, 4, 2),
        fnn.MLP([3, 4, 2], activation="gelu"),
    ],
    ids=lambda m: type(m).__name__,
)
def test_layers_copy_and_pickle(module: nn.Module) -> None:
    x = torch.randn(2, 3)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    module(x)  # what a call leaves behind must not travel with copies
    for twin in (copy.deepcopy(module), torch.load(buffer, weights_only=False)):
        assert torch.equal(twin(x), module(x)) and repr(twin) == repr(module)
        assert not {id(p) for p in twin.parameters()} & {id(p) for p in module.parameters()}


def test_slices_keep_impl_and_children() -> None:
    model = fnn.MLP([3, 4, 2], activation="relu", impl="reference")
    x = torch.randn(5, 3)
    assert model[:2].impl == model[1:].impl == fnn.Sequential(*model, impl="reference")[:1].impl == "reference"
    assert model[:2][0] is model[0] and len(model) == 3
    torch.testing.assert_close(model[2:](model[:2](x)), model(x))


def test_activations_by_name_module_or_class() -> None:
    for spelled in ("tanh", nn.Tanh, nn.Tanh()):
        assert fnn.Linear(2, 2, activation=spelled).activation == "tanh"
    assert fnn.Linear(2, 2, activation="leaky_relu").negative_slope == 0.2
    assert fnn.Linear(2, 2, activation=nn.LeakyReLU()).negative_slope == 0.01
    assert fnn.Linear(2, 2).activation == fnn.Linear(2, 2, activation=nn.Identity()).activation == "none"
    assert fnn.MLP([2, 2, 2], activation=nn.LeakyReLU(0.3))[1].negative_slope == 0.3
    for name in NAMES:
        assert fnn.Linear(2, 2, activation=activation_module(name, 0.2)).activation == name


BAD = {
    "Linear: in_features must be at least 1, got 0": lambda: fnn.Linear(0, 3),
    "Linear: out_features must be an int, got float": lambda: fnn.Linear(2, 3.0),
    "Linear: activation must be None, one of none, relu": lambda: fnn.Linear(2, 3, activation="swish"),
    "Linear: activation must be .* got ELU": lambda: fnn.Linear(2, 3, activation=nn.ELU(2.0)),
    "Linear: activation must be 'leaky_relu' or": lambda: fnn.Linear(2, 3, activation=nn.LeakyReLU),
    "Linear: impl must be": lambda: fnn.Linear(2, 3, impl="cuda"),
    "Maxout: pieces must be at least 1, got 0": lambda: fnn.Maxout(2, 3, 0),
    "Dropout: p must lie in": lambda: fnn.Dropout(1.5),
    "Dropout: p must lie in .* got nan": lambda: fnn.Dropout(math.nan),
    "MLP: sizes must hold at least two widths": lambda: fnn.MLP([3], activation="relu"),
    r"MLP: sizes\[1\] must be at least 1": lambda: fnn.MLP([3, -1, 2], activation="relu"),
    "MLP: output_activation must be": lambda: fnn.MLP([3, 2], activation="relu", output_activation="softmax"),
    "MLP: input_dropout must lie in": lambda: fnn.MLP([3, 2], activation="relu", input_dropout=-0.1),
    "Sequential: impl must be": lambda: fnn.Sequential(impl="fast"),
    "Linear: .*3 features.* 5": lambda: fnn.Linear(3, 2)(torch.zeros(4, 5)),
    "Maxout: .*3 features.* 5": lambda: fnn.Maxout(3, 2, 2)(torch.zeros(4, 5)),
    r"Sequential \(0 to 2\): layer 0 takes 3": lambda: fnn.MLP([3, 4, 2], activation="relu")(torch.zeros(4, 5)),
    r"Sequential \(0 to 1\): layer 1 takes 3": lambda: fnn.Sequential(nn.Linear(5, 4), nn.Linear(3, 2))(
        torch.ones(1, 5)
    ),
    "Linear: x must be floating": lambda: fnn.Linear(3, 2)(torch.zeros(4, 3, dtype=torch.int64)),
    "Linear: .*dtype.*float64.*float32": lambda: fnn.Linear(3, 2)(torch.zeros(4, 3, dtype=torch.float64)),
    "Linear: x must .*list": lambda: fnn.Linear(3, 2)([1.0, 2.0, 3.0]),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_get_one_clear_sentence(message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        BAD[message]()


def test_an_mlp_without_an_activation_has_relu() -> None:
    assert [type(layer) for layer in fnn.MLP([2, 32, 2])] == [nn.Linear, nn.ReLU, nn.Linear]


def test_an_unknown_activation_is_refused_by_name() -> None:
    assert fnn.activation_module("leaky_relu").negative_slope == 0.2
    with pytest.raises(ValueError, match="activation_module: name must be one of none, relu, .*, got 'swish'"):
        fnn.activation_module("swish")
