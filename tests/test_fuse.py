"""fuse: any model, the same numbers; what it leaves alone it leaves exactly alone."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fuse_models import MODELS, Block, L, Residual, Scaled, Twin, make, wide
from test_nn import TOLERANCE, assert_same, value_and_grads
from torch import Tensor, nn
from torch.nn import functional as F

import fastgan
import fastgan.nn as fnn
from fastgan import ops
from fastgan._backend import why_not
from fastgan.nn.segments import pays as fuse_rule  # before conftest's fixture replaces it


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
    assert changed == {k for k, m in model.named_modules() if isinstance(m, fnn.Sequential) and kinds[k] is not fnn.MLP}
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


@pytest.mark.parametrize("make_chain", (wide, lambda: Block(6)))
def test_a_model_that_was_fused_and_called_copies_and_pickles(make_chain: Callable[[], nn.Sequential]) -> None:
    model, x = make_chain(), torch.randn(5, 6)
    before, expected = set(vars(model)), model(x)
    fnn.fuse(model)(x).sum().backward()
    fnn.unfuse(model)
    assert set(vars(model)) == before
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other) is type(model)
        torch.testing.assert_close(other(x), expected, rtol=0, atol=0)


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
    assert calls == [] and fnn.explain(model)[1].startswith("0: left alone, its parameters are a tensor subclass")


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


def test_a_model_converted_before_backward_gets_the_gradient_of_forward() -> None:
    """As torch's layers: what forward read is held until backward, in forward's type."""
    plain = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    x, found = torch.randn(2, 3), []
    for m in (plain, fnn.fuse(copy.deepcopy(plain))):
        y = m(x)
        m.half()
        y.sum().backward()
        found.append(m[0].weight.grad)
    assert found[1].dtype == torch.float32
    torch.testing.assert_close(found[1], found[0])


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
    smooth = fnn.fuse(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)))  # not every torch has the leaky ReLU
    on_rows = smooth(x)
    calls.clear()
    assert torch.allclose(smooth(nested).values(), on_rows)
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


@pytest.mark.parametrize("shape", ((), (1,), (1, 4), (5, 1)))
def test_a_bias_that_only_broadcasts_is_left_to_torch(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    model[0].bias = nn.Parameter(torch.randn(shape))
    fused, x = fnn.fuse(copy.deepcopy(model)), torch.randn(5, 6)
    assert_same(value_and_grads(fused, x), value_and_grads(model, x), **TOLERANCE)
    assert fnn.explain(fused)[0] == "0: left alone, its weight is no matrix, or its bias is not one number a row of it"


def test_wrong_inputs_name_the_layers() -> None:
    model = fnn.fuse(nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU()))
    with pytest.raises(ValueError, match=r"Sequential \(1 to 2\): layer 0 takes 6 features .* gives 5"):
        model(torch.randn(2, 5))
    with pytest.raises(TypeError, match="fuse: model must be a torch.nn.Module, got list"):
        fnn.fuse([nn.Linear(2, 2)])


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


def test_torch_jit_script_takes_a_fused_model() -> None:
    """As a plain Sequential: a scripted model runs without fastgan."""
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Sequential(nn.Linear(4, 2), nn.Tanh())).eval()
    model, x = fnn.fuse(copy.deepcopy(plain)), torch.randn(5, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its own
        scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x), plain(x))
    assert type(model) is fnn.Sequential and type(model[3]) is fnn.Sequential
    torch.testing.assert_close(model(x), plain(x))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.parametrize("called", (False, True))
@pytest.mark.parametrize("norm", (False, True))
def test_torch_jit_trace_takes_a_fused_model(norm: bool, called: bool) -> None:
    """Traced twice, for its check, by torch: both traces must have the same operations."""
    layers = [nn.Linear(6, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.ReLU(), nn.Linear(8, 2)]
    model, x = fnn.fuse(nn.Sequential(*layers)).eval(), torch.randn(5, 6)
    if called:
        model(x)
    traced = torch.jit.trace(model, x)
    torch.testing.assert_close(traced(x[:3]), model(x[:3]))


def test_the_profiler_names_native_operations() -> None:
    if why_not("mlp", "cpu", torch.float32) is not None:
        pytest.skip("the reference is the backend")
    model = fnn.fuse(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))
    x = torch.randn(5, 3, requires_grad=True)
    with torch.profiler.profile() as profile:
        fastgan.generator_loss(model(x)).backward()
        (derivative,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        derivative.sum().backward()
        fastgan.gradient_penalty(model, x, x)
    names = {event.key for event in profile.key_averages() if event.key.startswith("fastgan::")}
    operations = ("mlp_forward", "mlp_backward", "mlp_second_order", "mlp_penalty", "pair_loss")
    assert names == {f"fastgan::{name}" for name in operations}


@pytest.mark.parametrize("between", (nn.ReLU(), nn.LeakyReLU(0.2), nn.Tanh()), ids=str)
def test_dropout_before_an_activation(between: nn.Module) -> None:
    """It joins the chain, in this order where that matters."""
    layers = [nn.Linear(64, 64), nn.Dropout(0.5), between, nn.Linear(64, 3)]
    model = fnn.fuse(nn.Sequential(*layers))
    whole = ["model: 0, 1, 2, 3 run as one call"]
    assert fnn.explain(model) == whole
    nn.init.eye_(layers[0].weight)
    nn.init.zeros_(layers[0].bias)
    first = fnn.fuse(nn.Sequential(*layers[:3]))
    x = torch.randn(1000, 64)
    y = first(x)
    kept = y != 0
    torch.testing.assert_close(y[kept], between(2 * x)[kept])
    share = 0.25 if isinstance(between, nn.ReLU) else 0.5
    assert abs(kept.double().mean().item() - share) < 4 * (share * (1 - share) / y.numel()) ** 0.5
    model.eval()
    assert fnn.explain(model) == whole
    torch.testing.assert_close(model(x), layers[3](between(layers[0](x))))


def test_lazy_layers_fuse_at_their_first_call_and_explain_says_so() -> None:
    model = fnn.fuse(nn.Sequential(nn.LazyLinear(4), nn.ReLU()))
    assert fnn.explain(model) == ["0: left alone, it is lazy until its first call"]
    model(torch.randn(2, 3))
    assert fnn.explain(model) == ["model: 0, 1 run as one call"]


class Attributes(nn.Module):
    """Layers as attributes, with activations in forward, in the ways in which people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.nested, self.named, self.by_method = nn.Linear(3, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
        self.both, self.between, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.read_twice, self.bare_too, self.added_to = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x = F.relu(self.nested(x), inplace=True)
        h = self.named(x)
        h = F.leaky_relu(h, 0.2)
        h = self.by_method(h).tanh()
        h = torch.relu(self.both(h)) + torch.sigmoid(self.both(h))
        h = self.between(h)
        h = 2 * h
        h = self.read_twice(torch.relu(h))
        h = h + torch.relu(h)
        h = torch.relu(self.bare_too(h)) + self.bare_too(h)
        h = self.added_to(h)
        h += 1
        return self.last(torch.relu(h))


def test_explain_names_the_two_lines_for_layers_held_as_attributes() -> None:
    model = Attributes()
    lines = dict(line.split(": left alone, it is not in an nn.Sequential") for line in fnn.explain(model))
    told = "; in __init__ write self.{0} = nn.Sequential({1}), in forward self.{0}(...) without the activation, and it "
    told += "fuses"
    assert lines.pop("nested") == told.format("nested", "nn.Linear(3, 4), nn.ReLU()")
    assert lines.pop("named") == told.format("named", "nn.Linear(4, 4, bias=False), nn.LeakyReLU(0.2)")
    assert lines.pop("by_method") == told.format("by_method", "nn.Linear(4, 4), nn.Tanh()")
    unlike = ("both", "between", "last", "read_twice", "bare_too", "added_to")
    assert lines == dict.fromkeys(unlike, "") and model.calls == 0
    model.nested = nn.Sequential(nn.Linear(3, 4), nn.ReLU())  # type: ignore[assignment]
    assert "nested: 0, 1 run as one call" in fnn.explain(fnn.fuse(model))


def test_explain_says_nothing_of_a_forward_without_source() -> None:
    space: dict[str, Any] = {"nn": nn}
    made = "def __init__(self):\n  nn.Module.__init__(self)\n  self.fc = nn.Linear(2, 2)\n"
    exec(made + "def forward(self, x): return self.fc(x).relu()", space)
    kind = type("Typed", (nn.Module,), {name: space[name] for name in ("__init__", "forward")})
    assert fnn.explain(kind()) == ["fc: left alone, it is not in an nn.Sequential"]


def test_where_a_chain_pays_with_narrow_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule that bench_drop_in_grid.py and bench_in_others_code.py measured on AVX2."""
    monkeypatch.setattr("fastgan.nn.segments.instruction_set", lambda: "v3")
    rule, linear, dropped = fuse_rule, [ops.LayerSpec("relu")], [ops.LayerSpec("relu", dropout=0.5)]

    def weights(*sizes: int) -> list[torch.Tensor]:
        return [torch.empty(o, i) for i, o in zip(sizes, sizes[1:], strict=False)]

    assert not rule(weights(784, 1024), linear, 64) and not rule(weights(32, 2048), linear, 1024)
    assert rule(weights(6, 512), linear, 64) and not rule(weights(6, 512), linear, 32)
    assert rule(weights(6, 512, 1), linear * 2, 64) and not rule(weights(6, 512, 512), linear * 2, 64)
    small, wide = weights(6, 32, 32, 1), weights(784, 1024, 1024, 1)
    assert [rows for rows in (1, 4, 16, 1024) if rule(small, linear * 3, rows)] == [4, 16, 1024]
    assert [rows for rows in (4, 16, 32, 256, 512) if rule(wide, linear * 3, rows)] == [32, 256]
    assert rule(weights(512, 512), dropped, 16) and not rule(weights(512, 512), dropped, 8)
    forward = (weights(512, 512), linear), (wide, linear * 3), (small, linear * 3)
    found = [[rows for rows in (1, 4, 16, 64, 128, 1024) if rule(*chain, rows, False)] for chain in forward]
    assert found == [[16, 64], [16, 64, 128], [1, 4, 16, 64, 128, 1024]]


def test_where_a_chain_pays_with_wide_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule that bench_in_others_code.py measured on AVX-512, and that what it leaves runs module by module."""
    monkeypatch.setattr("fastgan.nn.segments.instruction_set", lambda: "v4")
    rule, layer = fuse_rule, ops.LayerSpec
    assert rule([torch.empty(32, 32)], [layer("tanh")], 1, False)
    wide, narrow = torch.empty(784, 1024), torch.empty(8, 784)
    assert rule([wide], [layer("tanh")], 64) and not rule([wide], [layer("tanh")], 1)
    assert not rule([torch.empty(32, 32)], [layer("tanh")], 256) and not rule([narrow], [layer()], 256)
    assert rule([torch.empty(512, 2)], [layer("relu")], 64) and not rule([torch.empty(512, 2)], [layer("relu")], 50)
    assert rule([torch.empty(100, 6)], [layer("relu")], 500) and not rule([torch.empty(100, 16)], [layer()], 500)
    assert rule([torch.empty(32, 32)] * 3, [layer("relu")] * 3, 4) and rule([narrow], [layer("relu", dropout=0.5)], 1)
    model, x = fnn.fuse(nn.Sequential(nn.Linear(3, 4), nn.Tanh())), torch.randn(5, 3)
    expected = nn.Sequential(*model)(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastgan.nn.segments.pays", rule)
        for _ in range(2):
            y = model(x)
            assert y.grad_fn.name() == "TanhBackward0" and torch.equal(y, expected)
        handle = model[0].register_forward_hook(lambda module, args, y: 2 * y)
        assert torch.equal(model(x), torch.tanh(2 * model[0].forward(x)))
        handle.remove()
        assert model(torch.randn(64, 3, dtype=torch.float32)).shape == (64, 4)
        with torch.no_grad():
            torch.testing.assert_close(model(x), expected)
        with pytest.raises(ValueError, match="takes 3 features"):
            model(torch.randn(5, 4))
