"""fuse: any model, the same numbers; what it leaves alone it leaves exactly alone."""

from __future__ import annotations

import copy
import gc
import io
import math
import pickle
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator

import pytest
import torch
from test_nn import TOLERANCE, assert_same, value_and_grads
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import fastgan.nn as fnn
from fastgan import ops


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of layers of each ops.mlp call."""
    seen: list[int] = []
    real = ops.mlp

    def spy(x: Tensor, weights: list[Tensor], *args: object, **kwargs: object) -> Tensor:
        seen.append(len(weights))
        return real(x, weights, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(ops, "mlp", spy)
    yield seen


class Block(nn.Sequential):
    """A Sequential with a constructor and a method of its own, but torch's forward."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, width), nn.Tanh())
        self.width = width

    def double_width(self) -> int:
        return 2 * self.width


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Backwards(nn.Sequential):
    def __iter__(self) -> Iterator[nn.Module]:
        return iter(list(self._modules.values())[::-1])


class TorchOwn(nn.Sequential):
    """As torch.ao's fused blocks, whose conversion goes by type."""

    __module__ = "torch.ao.nn.intrinsic"


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Twin(nn.Module):
    """A model with a tree of its own: two nets used in its forward, and a head outside any Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.ReLU()), Block(6)])
        self.head = nn.Linear(6, 2)
        self.remembered = [self.nets[0]]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.remembered[0](x) + self.nets[1](x))


def shared() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 6))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU())
    model[2].weight = model[0].weight
    return model


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU())
    model[2].register_forward_hook(lambda module, args, output: output + 1)
    return model


def pruned() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh())
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    return model


def normalised(how: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(how(nn.Linear(6, 6)), nn.ReLU(), nn.Linear(6, 6), nn.Tanh())


def replaced_forward() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh())
    model[0].forward = nn.Linear(6, 6).forward  # type: ignore[method-assign]
    return model


def named() -> nn.Module:
    return nn.Sequential(
        OrderedDict(a=nn.Linear(6, 6), b=nn.LeakyReLU(0.3), inner=nn.Sequential(nn.Linear(6, 3), nn.ELU()))
    )


L = lambda: nn.Linear(6, 6)  # noqa: E731

# name -> (model, layers of each fused call in eval mode)
MODELS: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "all activations": (
        lambda: nn.Sequential(
            L(),
            nn.ReLU(),
            L(),
            nn.LeakyReLU(),
            L(),
            nn.Tanh(),
            L(),
            nn.Sigmoid(),
            L(),
            nn.ELU(),
            L(),
            nn.Softplus(),
            L(),
            nn.GELU(),
            L(),
            nn.Identity(),
            L(),
        ),
        [9],
    ),
    "inplace activations": (
        lambda: nn.Sequential(L(), nn.ReLU(inplace=True), L(), nn.LeakyReLU(0.1, inplace=True)),
        [2],
    ),
    "no bias": (lambda: nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU(), L()), [2]),
    "nonstandard activations": (
        lambda: nn.Sequential(
            L(),
            nn.ELU(0.5),
            L(),
            nn.GELU("tanh"),
            L(),
            nn.Softplus(2.0),
            L(),
            nn.Softplus(threshold=1.0),
            L(),
            nn.SiLU(),
            L(),
            L(),
        ),
        [2],
    ),
    "after dropout": (
        lambda: nn.Sequential(L(), nn.Dropout(0.5), nn.Tanh(), L(), nn.Dropout(0.1), nn.Dropout(0.2), L()),
        [1, 1, 1],
    ),
    "activation first": (
        lambda: nn.Sequential(nn.Tanh(), nn.Tanh(), nn.Identity(), L(), nn.Tanh(), nn.Tanh()),
        [1],
    ),
    "between others": (
        lambda: nn.Sequential(nn.BatchNorm1d(6), L(), nn.ReLU(), nn.LayerNorm(6), L(), nn.ReLU(), L()),
        [1, 2],
    ),
    "convolution": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 2, 3)),
            nn.Conv2d(1, 2, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4, 3),
            nn.ReLU(),
        ),
        [1],
    ),
    "nested": (
        lambda: nn.Sequential(
            nn.Sequential(L(), nn.ReLU()), nn.Sequential(nn.Sequential(L(), nn.Tanh()), L())
        ),
        [1, 1],
    ),
    "names": (named, [1, 1]),
    "module tree": (Twin, [1, 1]),
    "own Sequential class": (lambda: nn.Sequential(Block(6), Block(6)), [1, 1]),
    "own forward": (lambda: nn.Sequential(Residual(L(), nn.ReLU()), L(), nn.ReLU()), [1]),
    "torch's own kind": (lambda: nn.Sequential(TorchOwn(L(), nn.ReLU()), L(), nn.ReLU()), [1]),
    "own order": (lambda: Backwards(L(), nn.ReLU()), []),
    "subclass of Linear": (lambda: nn.Sequential(Scaled(6, 6), nn.ReLU(), L(), nn.ReLU()), [1]),
    "module twice": (shared, [4]),
    "weight twice": (tied, [2]),
    "hooks": (hooked, [1, 1]),
    "pruned": (pruned, [1]),
    "weight_norm": (lambda: normalised(parametrizations.weight_norm), [1]),
    "spectral_norm": (lambda: normalised(parametrizations.spectral_norm), [1]),
    "replaced forward": (replaced_forward, [1]),
    "lone": (lambda: nn.Linear(6, 6), []),
    "lone in a Sequential": (lambda: nn.Sequential(nn.LayerNorm(6), L(), nn.LayerNorm(6)), []),
    "empty": (nn.Sequential, []),
    "ours": (
        lambda: nn.Sequential(fnn.Linear(6, 6, activation="relu"), nn.Tanh(), fnn.Maxout(6, 6, 2), L()),
        [1, 2],
    ),
    "MLP": (lambda: fnn.MLP([6, 5, 2], activation="relu"), [2]),
}


def make(name: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = MODELS[name][0]().eval()
    torch.manual_seed(0)
    return model, fnn.unfuse(MODELS[name][0]().eval())


@pytest.mark.parametrize("name", MODELS)
def test_fused_models_compute_the_same(name: str, calls: list[int]) -> None:
    model, expected = make(name)
    x = torch.randn(5, 6)
    before = dict(model.named_modules())
    parameters, keys = dict(model.named_parameters()), list(model.state_dict())
    assert fnn.fuse(model) is model is fnn.fuse(model)
    got = value_and_grads(model, x)
    assert calls == MODELS[name][1]
    assert_same(got, value_and_grads(expected, x), **TOLERANCE)
    assert list(model.state_dict()) == keys
    after = dict(model.named_modules())
    assert list(before) == list(after) and all(before[k] is after[k] for k in before)
    assert all(p is parameters[k] for k, p in model.named_parameters())
    expected.load_state_dict(model.state_dict())
    model.load_state_dict(expected.state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_untouched_where_nothing_fuses_and_undone_by_unfuse(name: str) -> None:
    model, _ = make(name)
    kinds = {k: type(m) for k, m in model.named_modules()}
    fnn.fuse(model)
    changed = {k for k, m in model.named_modules() if type(m) is not kinds[k]}
    assert all(isinstance(model.get_submodule(k), kinds[k]) for k in changed)
    assert changed == {
        k for k, m in model.named_modules() if isinstance(m, fnn.Sequential) and kinds[k] is not fnn.MLP
    }
    if not MODELS[name][1]:
        assert not changed
    if name != "MLP":
        fnn.unfuse(model)
        assert {k: type(m) for k, m in model.named_modules()} == kinds


NOT_PICKLED = ("hooks", "weight_norm", "spectral_norm", "pruned", "replaced forward", "torch's own kind")
PICKLED = [name for name in MODELS if name not in NOT_PICKLED]


@pytest.mark.parametrize("name", PICKLED)
def test_fused_models_copy_and_pickle(name: str) -> None:
    model = fnn.fuse(make(name)[0])
    x = torch.randn(5, 6)
    y = model(x)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(buffer, weights_only=False),
    ):
        assert repr(twin) == repr(model) and torch.equal(twin(x), y)
        assert {k: type(m) for k, m in twin.named_modules()} == {k: type(m) for k, m in model.named_modules()}
        with torch.no_grad():
            for p in twin.parameters():
                p.add_(1.0)
        assert torch.equal(model(x), y) and (not y.requires_grad or not torch.equal(twin(x), y))


# ---------------------------------------------------------------- changes after fuse


def wide() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Dropout(0.0), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
    )


class Twice(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return 2 * w


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
    "apply": lambda m: m.apply(
        lambda c: nn.init.constant_(c.weight, 0.1) if isinstance(c, nn.Linear) else None
    ),
    "double": lambda m: m.double(),
    "bfloat16": lambda m: m.bfloat16(),
    "to_empty": lambda m: [nn.init.ones_(p) for p in m.to_empty(device="cpu").parameters()],
    "load_state_dict assign": lambda m: m.load_state_dict(
        {k: v + 1 for k, v in m.state_dict().items()}, assign=True
    ),
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


def test_hooks_see_each_call_and_a_removed_hook_restores_the_fused_call(calls: list[int]) -> None:
    model = fnn.fuse(wide())
    seen = []
    handle = model[3].register_forward_hook(lambda module, args, output: seen.append(args[0].shape))
    model(torch.randn(5, 6))
    assert seen == [(5, 8)] and calls == [1]
    handle.remove()
    everywhere = nn.modules.module.register_module_forward_hook(
        lambda module, args, output: seen.append(type(module))
    )
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
    model = fnn.fuse(
        nn.Sequential(nn.Dropout(0.2), nn.Linear(64, 64, bias=False), nn.ReLU(), nn.Dropout(0.5))
    )
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


# ---------------------------------------------------------------- inputs and machinery


@pytest.mark.filterwarnings("ignore:Complex modules")
def test_complex_models_are_left_alone(calls: list[int]) -> None:
    dtype = torch.complex64
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    fnn.fuse(model)
    model(torch.randn(2, 3))
    model.to(dtype)  # in place: the same Parameter objects
    assert model(torch.randn(2, 3, dtype=dtype)).dtype == dtype and calls == [2]
    assert type(fnn.fuse(nn.Sequential(nn.Linear(3, 4), nn.Tanh()).to(dtype))) is nn.Sequential


@pytest.mark.filterwarnings("ignore:Complex modules", "ignore:Casting complex")
def test_a_model_that_becomes_real_fuses(calls: list[int]) -> None:
    model = fnn.Sequential(nn.Linear(3, 4), nn.Tanh()).to(torch.complex64)
    model(torch.randn(2, 3, dtype=torch.complex64))
    assert calls == []
    model.to(torch.float32)(torch.randn(2, 3))
    assert calls == [1]


def test_weights_of_a_tensor_subclass_are_left_alone(calls: list[int]) -> None:
    class Quantised(Tensor):
        pass

    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh())
    model[0].weight = nn.Parameter(model[0].weight.detach().as_subclass(Quantised))
    fnn.fuse(model)(torch.randn(2, 6))
    assert calls == [] and fnn.explain(model)[1].startswith(
        "0: left alone, its parameters are a tensor subclass"
    )


@pytest.mark.parametrize(
    "change",
    (
        lambda w: w.t(),
        lambda w: torch._neg_view(w),
        lambda w: w[:, :1].expand(4, 4),
        lambda w: w.repeat(2, 1)[::2],
        lambda w: w.double(),
        lambda w: w[:3].clone(),
    ),
    ids=("transposed", "negated", "expanded", "strided", "double", "narrower"),
)
def test_data_swapped_under_a_parameter_is_noticed(change: Callable[[Tensor], Tensor]) -> None:
    """The same Parameter object with other memory, strides, type or shape: what a call remembers of it is no use."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
    model = fnn.fuse(copy.deepcopy(plain))
    x = torch.randn(5, 4)
    assert_same(value_and_grads(model, x), value_and_grads(plain, x))
    for m in (plain, model):
        new = change(m[0].weight.data.clone())
        m[0].weight.grad = None
        m[0].weight.data = new
        if new.dtype == torch.float64:
            m[2].double()
            m[2].weight.grad = m[2].bias.grad = None
        if len(new) == 3:
            m[2].weight.grad = None
            m[2].weight.data = m[2].weight.data[:, :3].clone()
    x = x.to(plain[0].weight.dtype)
    assert_same(value_and_grads(model, x), value_and_grads(plain, x))


def test_a_model_converted_before_backward_is_noticed() -> None:
    model = fnn.fuse(nn.Sequential(nn.Linear(3, 4), nn.Tanh()))
    y = model(torch.randn(2, 3))
    if type(y.grad_fn).__name__ != "_MlpBackward":
        pytest.skip("the reference serves")
    model.half()
    with pytest.raises(RuntimeError, match="mlp: parameters must keep their dtype until backward, got torch.float16"):
        y.sum().backward()


def test_swapped_in_tensors_are_not_kept_alive() -> None:
    model = fnn.fuse(nn.Sequential(nn.Linear(3, 4), nn.Tanh()))
    swapped = {name: p.detach().clone() for name, p in model.named_parameters()}
    gone = weakref.ref(swapped["0.weight"])
    torch.func.functional_call(model, swapped, torch.randn(2, 3))
    del swapped
    gc.collect()
    assert gone() is None


def test_an_explicit_impl_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(ops, "mlp", lambda x, *args, impl, **kwargs: asked.append(impl) or x)
    monkeypatch.setattr(ops, "dropout", lambda x, *args, impl, **kwargs: asked.append(impl) or x)

    def asked_by(*modules: nn.Module, impl: str = "auto") -> list[object]:
        asked.clear()
        fnn.Sequential(*modules, impl=impl)(torch.ones(2, 6))
        return list(asked)

    reference = fnn.Linear(6, 6, impl="reference")
    assert asked_by(reference, nn.Tanh(), L(), nn.Tanh()) == ["reference", "auto"]
    assert asked_by(reference, nn.ReLU(), fnn.Linear(6, 6), L(), impl="reference") == ["reference"]
    assert asked_by(L(), nn.ReLU(), fnn.Dropout(0.5, impl="reference")) == ["auto", "reference"]
    assert asked_by(L(), nn.ReLU(), fnn.Dropout(0.5), impl="native") == ["native"]


def test_other_tensors_go_to_the_modules_themselves(calls: list[int]) -> None:
    class Tagged(Tensor):
        pass

    model = fnn.fuse(wide()).eval()
    x = torch.randn(4, 6)
    expected = model(x)
    calls.clear()
    tagged = model(x.as_subclass(Tagged))
    assert type(tagged) is Tagged and torch.allclose(tagged.as_subclass(Tensor), expected)
    assert copy.deepcopy(model).to("meta")(torch.empty(4, 6, device="meta")).shape == (4, 3)
    nested = torch.nested.nested_tensor([x[:1], x[1:]], layout=torch.jagged)
    assert torch.allclose(model(nested).values(), expected)
    with torch.device("meta"):
        assert type(fnn.fuse(wide())) is nn.Sequential
    assert not calls


def test_empty_batches_strides_and_leading_dimensions() -> None:
    model, expected = fnn.fuse(wide()), wide()
    expected.load_state_dict(model.state_dict())
    for x in (
        torch.empty(0, 6),
        torch.randn(6),
        torch.randn(2, 3, 6),
        torch.randn(6, 4).t(),
        torch.randn(1, 6).expand(3, 6),
    ):
        model.zero_grad(), expected.zero_grad()
        assert_same(value_and_grads(model, x), value_and_grads(expected, x), **TOLERANCE)


def test_wrong_inputs_name_the_layers() -> None:
    model = fnn.fuse(nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU()))
    with pytest.raises(ValueError, match=r"Sequential \(1 to 2\): layer 0 takes 6 features .* gives 5"):
        model(torch.randn(2, 5))
    with pytest.raises(TypeError, match="fuse: model must be a torch.nn.Module, got list"):
        fnn.fuse([nn.Linear(2, 2)])


def test_autocast_is_bit_for_bit_torchs() -> None:
    model, expected = fnn.fuse(wide()), wide()
    expected.load_state_dict(model.state_dict())
    x = torch.randn(5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(x), expected(x)) and model(x).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["all activations", "module tree", "hooks"])
def test_fused_models_compile_without_a_break(name: str) -> None:
    model, expected = make(name)
    compiled = torch.compile(fnn.fuse(model), fullgraph=True, backend="aot_eager")
    for batch in (3, 5):
        x = torch.randn(batch, 6)
        model.zero_grad(), expected.zero_grad()
        assert_same(value_and_grads(compiled, x), value_and_grads(expected, x), **TOLERANCE)


def test_fused_dropout_compiles_without_a_break() -> None:
    model = torch.compile(
        fnn.fuse(nn.Sequential(nn.Linear(6, 99), nn.ReLU(), nn.Dropout(0.5))), fullgraph=True, backend="eager"
    )
    y = model(torch.randn(50, 6))
    assert 0.6 < (y == 0).double().mean() < 0.9


def test_replicas_use_their_own_weights() -> None:
    """As nn.DataParallel makes them: parameters become plain attributes of shallow copies."""
    model = fnn.fuse(wide())
    x = torch.randn(5, 6)
    y = model(x)
    replica = model._replicate_for_data_parallel()
    for name, child in model.named_children():
        twin = child._replicate_for_data_parallel()
        for key, parameter in child.named_parameters():
            setattr(twin, key, parameter * 2)
        replica._modules[name] = twin
    doubled = copy.deepcopy(model)
    with torch.no_grad():
        for p in doubled.parameters():
            p.mul_(2)
    assert torch.allclose(replica(x), doubled(x), atol=1e-5) and torch.equal(model(x), y)


def test_containers_behave() -> None:
    model = fnn.fuse(wide())
    assert len(model) == 6 and model[-1] is list(model)[5] and isinstance(model, nn.Sequential)
    assert type(model[1:3]) is fnn.Sequential and model[1:3][0] is model[1]
    assert [n for n, _ in model.named_children()] == list("012345")
    block = fnn.fuse(nn.Sequential(Block(6)))[0]
    assert isinstance(block, Block) and block.double_width() == 12 and type(block) is type(fnn.fuse(Block(3)))


def test_repr_and_explain_tell_what_runs_fused() -> None:
    model = nn.Sequential(
        OrderedDict(
            net=Twin(),
            tail=nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.LayerNorm(2), nn.Linear(2, 2)),
            odd=Residual(nn.Linear(2, 2), nn.ReLU()),
            scaled=Scaled(2, 2),
        )
    )
    assert fnn.explain(model)[-1].startswith("scaled: left alone, Scaled is no layer")
    assert "tail.0: left alone, fuse was not called" in fnn.explain(model)
    fnn.fuse(model)
    model.net.nets[0][0].register_forward_hook(lambda *args: None)
    assert fnn.explain(model) == [
        "net.nets.1: 0, 1 run as one call",
        "tail: 0, 1 run as one call",
        "net.nets.0.0: left alone, it has hooks",
        "net.head: left alone, it is not in an nn.Sequential",
        "tail.3: left alone, nothing beside it fuses with it",
        "odd.0: left alone, its Sequential has a forward of its own",
        "scaled: left alone, Scaled is no layer that fuses",
    ]
    assert "one call each: (0, 1)" in repr(model.tail)
