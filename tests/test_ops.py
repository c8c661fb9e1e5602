"""The dispatch: derivatives of every order and mode, any layout, any number of threads, each operation's backend."""

from __future__ import annotations

import random as plain_random
from collections.abc import Callable

import pytest
import torch
from cases import DTYPES, IMPLS, INF, LOSSES, MLPS, NAN, PAIRS, LossCase, MlpCase, name_of, need, row
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import fastgan
from fastgan import ops, random
from fastgan._backend import why_not
from fastgan.ops import LayerSpec

# torch compiles its own forward-mode rules by the torch.jit.script it deprecates, when they are first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script")

KEY = torch.tensor(0x5EED)
CHECKED = ("auto", "reference")  # "auto" is native where it can be, and the reference under transforms
TRANSFORMS = {"check_forward_ad": True, "check_batched_grad": True}  # the same for every impl: checked once
CHECK = {"eps": 1e-6, "atol": 1e-5, "rtol": 1e-3, "nondet_tol": 0.0}


def checks_of(impl: str) -> dict[str, float]:
    return CHECK | (TRANSFORMS if impl == "auto" else {})


needs_native = pytest.mark.skipif(
    why_not("loss", "cpu", torch.float32) is not None, reason=f"{why_not('loss', 'cpu', torch.float32)}"
)


# ---------------------------------------------------------------- finite differences


@pytest.mark.parametrize("impl", CHECKED)
@pytest.mark.parametrize("case", LOSSES, ids=name_of)
def test_derivatives_of_the_formulas(case: LossCase, impl: str, device: str) -> None:
    """Value, gradient and second derivative are each differentiable, forward, backward, batched, and twice."""
    for order in (0, 1, 2):
        x = case.points(6, device=device, seed=order).requires_grad_()

        def formula(x: Tensor, order: int = order) -> Tensor:
            return ops.pointwise(x, case.formula, case.target, order, impl=impl)

        assert gradcheck(formula, x, **checks_of(impl))
        if order == 0:
            assert gradgradcheck(formula, x, **CHECK)


@pytest.mark.parametrize("impl", CHECKED)
@pytest.mark.parametrize("mean", (True, False), ids=("mean", "sum"))
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "+".join(pair[0]))
def test_derivatives_of_the_fused_losses(
    pair: tuple[tuple[str, str], tuple[float, float]], mean: bool, impl: str, device: str
) -> None:
    formulas, targets = pair
    real = row(formulas[0]).points(5, device=device).requires_grad_()
    fake = row(formulas[1]).points(3, device=device, seed=1).requires_grad_()

    def loss(real: Tensor, fake: Tensor | None) -> Tensor:
        return ops.pair_loss(real, fake, formulas, targets, mean=mean, impl=impl)

    assert gradcheck(loss, (real, fake), **checks_of(impl))
    assert gradgradcheck(loss, (real, fake), **CHECK)
    assert gradcheck(loss, (real.detach(), fake), **CHECK)  # a discriminator's or a generator's side alone
    assert gradgradcheck(loss, (real, fake.detach()), **CHECK)
    assert gradcheck(loss, (real, None), **CHECK)


@pytest.mark.parametrize("impl", CHECKED)
@pytest.mark.parametrize("case", MLPS, ids=name_of)
def test_derivatives_of_networks(case: MlpCase, impl: str) -> None:
    x, weights, biases, key = case.make(3, grad=True, seed=4)
    depth = len(weights)
    parameters = [*weights, *(b for b in biases if b is not None)]

    def network(x: Tensor, *parameters: Tensor) -> Tensor:
        biases = parameters[depth:] if case.bias else (None,) * depth
        return case.run(x, list(parameters[:depth]), list(biases), key, impl)

    assert gradcheck(network, (x, *parameters), **checks_of(impl))
    assert gradgradcheck(network, (x, *parameters), **CHECK)
    frozen = [p.detach() for p in parameters]  # the discriminator's weights in the generator's step
    assert gradcheck(network, (x, *frozen), **CHECK)
    assert gradgradcheck(network, (x.detach(), *parameters), **CHECK)


@pytest.mark.parametrize("impl", CHECKED)
@pytest.mark.parametrize("p", (0.0, 0.3, 1.0))
def test_derivatives_of_dropout(p: float, impl: str) -> None:
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)

    def drop(x: Tensor) -> Tensor:
        return ops.dropout(x, p, KEY, 2, impl=impl)

    assert gradcheck(drop, x, **checks_of(impl))
    assert gradgradcheck(drop, x, **CHECK)


@pytest.mark.parametrize("impl", IMPLS)
def test_gradients_accumulate_and_graphs_are_kept(impl: str, device: str) -> None:
    """One tensor on both sides, a graph walked three times, and gradients its reader has changed in place."""
    need(impl, "loss", device)
    x = row("fake").points(9, dtype=torch.float32, device=device).requires_grad_()
    loss = fastgan.discriminator_loss(x, x, impl=impl)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    kept = first.clone()
    first.mul_(7)  # as gradient clipping does
    (second,) = torch.autograd.grad(loss, x, retain_graph=True)
    assert torch.equal(second, kept)
    loss.backward(retain_graph=True)
    loss.backward(torch.tensor(2.0, device=device))
    torch.testing.assert_close(x.grad, 3 * kept)
    real = x.detach().requires_grad_()
    loss = fastgan.discriminator_loss(real, x.detach(), impl=impl)  # whose gradient is the saved one itself
    once, again = (torch.autograd.grad(3 * loss, real, retain_graph=True)[0].clone() for _ in range(2))
    assert torch.equal(once, again)
    wide = x.detach().double()
    torch.testing.assert_close(kept.double(), (torch.sigmoid(wide) - torch.sigmoid(-wide)) / 9, rtol=1e-5, atol=1e-9)


def test_inputs_changed_before_backward_are_noticed() -> None:
    need("native", "loss")
    x = torch.randn(5, requires_grad=True)
    y = x * 2
    loss = fastgan.generator_loss(y, impl="native")
    with torch.no_grad():
        y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("impl", IMPLS)
def test_no_graph_without_a_need_for_one(impl: str) -> None:
    need(impl, "loss")
    need(impl, "mlp")
    x = torch.randn(4, 3)
    assert not fastgan.discriminator_loss(x, x, impl=impl).requires_grad
    with torch.no_grad():
        y = x.clone().requires_grad_()
        assert not fastgan.generator_loss(y, impl=impl).requires_grad
        assert not ops.mlp(y, [torch.ones(2, 3)], [None], [LayerSpec()], impl=impl).requires_grad
    with torch.inference_mode():
        assert fastgan.generator_loss(x, impl=impl).isfinite()
        assert ops.mlp(x, [torch.ones(2, 3)], [None], [LayerSpec("relu")], impl=impl).shape == (4, 2)


# ---------------------------------------------------------------- torch.func and forward mode


@pytest.mark.parametrize("case", [c for c in LOSSES if c.formula not in ("wasserstein_real",)], ids=name_of)
def test_torch_func_transforms(case: LossCase, device: str) -> None:
    """vmap, grad, jvp, jacrev and hessian give the gradients and second derivatives, never silent zeros."""
    x = case.points(4, 3, device=device)
    derivative, second_derivative = (case.want(x, order).to(device) for order in (1, 2))

    def value(x: Tensor) -> Tensor:
        return ops.pointwise(x, case.formula, case.target)

    def total(x: Tensor) -> Tensor:
        return ops.pair_loss(x, None, (case.formula,) * 2, (case.target,) * 2, mean=False)

    def close(got: Tensor, want: Tensor) -> None:
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)

    close(torch.func.vmap(value)(x), case.want(x).to(device))
    for loss in (total, lambda x: value(x).sum()):
        close(torch.func.grad(loss)(x), derivative)
        close(torch.func.vmap(torch.func.grad(loss))(x), derivative)
        close(torch.func.jvp(loss, (x,), (torch.ones_like(x),))[1], derivative.sum())
        close(torch.func.jacrev(loss)(x), derivative)
        close(torch.func.hessian(loss)(x[0]), torch.diag(second_derivative[0]))
        assert torch.func.vmap(loss)(x).shape == (4,)
    with forward_ad.dual_level():
        dual = value(forward_ad.make_dual(x, torch.ones_like(x)))
        close(forward_ad.unpack_dual(dual).tangent, derivative)


def test_networks_under_torch_func() -> None:
    case = next(c for c in MLPS if c.name == "tanh")
    x, weights, biases, key = case.make(4)

    def network(x: Tensor) -> Tensor:
        return case.run(x, weights, biases, key, "auto")

    torch.testing.assert_close(torch.func.vmap(network)(x), network(x))
    rows = torch.func.vmap(torch.func.jacrev(network))(x)
    whole = torch.autograd.functional.jacobian(network, x)
    torch.testing.assert_close(rows, torch.stack([whole[i, :, i] for i in range(4)]))
    tangent = torch.func.jvp(network, (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(tangent, rows.sum(-1))
    noisy = torch.func.vmap(lambda x: ops.dropout(x, 0.5, KEY), in_dims=0)(x)
    assert torch.equal(noisy, torch.stack([ops.dropout(row, 0.5, KEY) for row in x]))


def test_vectorised_jacobians_of_autograd() -> None:
    """is_grads_batched runs backward under a vmap of its own."""
    x, weights, biases, key = MLPS[3].make(2, grad=True)
    y = MLPS[3].run(x, weights, biases, key, "auto")
    eye = torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)
    batched = torch.autograd.grad(y, [x, *weights], eye, retain_graph=True, is_grads_batched=True)
    for i, upstream in enumerate(eye):
        single = torch.autograd.grad(y, [x, *weights], upstream, retain_graph=True)
        torch.testing.assert_close([b[i] for b in batched], list(single))
    loss = fastgan.discriminator_loss(x, x)
    many = torch.autograd.grad(loss, x, torch.tensor([1.0, 2.0]).double(), retain_graph=True, is_grads_batched=True)[0]
    torch.testing.assert_close(many[1], 2 * torch.autograd.grad(loss, x)[0])


@needs_native
def test_an_explicit_native_is_refused_where_it_would_be_wrong() -> None:
    x = torch.ones(3)
    with pytest.raises(RuntimeError, match="generator_loss: impl='native' is not available: a torch.func transform"):
        torch.func.grad(lambda x: fastgan.generator_loss(x, impl="native"))(x)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward-mode"):
        fastgan.generator_loss(forward_ad.make_dual(x, x), impl="native")

    class Special(Tensor):
        pass

    with pytest.raises(RuntimeError, match="Special is a tensor subclass"):
        fastgan.generator_loss(x.as_subclass(Special), impl="native")
    assert fastgan.generator_loss(x.as_subclass(Special)).item() == fastgan.generator_loss(x).item()
    with pytest.raises(RuntimeError, match="mlp: impl='native' is not available: its native kernel takes float32"):
        ops.mlp(x.half(), [torch.ones(2, 3).half()], [None], [LayerSpec()], impl="native")
    with pytest.raises(RuntimeError, match="the native core has no meta kernel"):
        ops.dropout(x.to("meta"), 0.5, KEY, impl="native")


# ---------------------------------------------------------------- autocast


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=name_of)
def test_autocast(dtype: torch.dtype, device: str) -> None:
    """Logits come as halves from autocast layers; the loss is computed and returned in float32."""
    layer = torch.nn.Linear(8, 1).to(device)
    x = torch.randn(16, 8, device=device)
    with torch.autocast(device, dtype=dtype):
        logits = layer(x)
        assert logits.dtype == dtype
        loss = fastgan.discriminator_loss(logits, logits)
        out = ops.mlp(x, [layer.weight], [layer.bias], [LayerSpec()])
    assert loss.dtype == torch.float32
    assert out.dtype == dtype and torch.equal(out, logits)
    loss.backward()
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
    expected = fastgan.discriminator_loss(logits.detach().float(), logits.detach().float())
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-6, atol=0.0)


# ---------------------------------------------------------------- layouts


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The same numbers, (6, 4), laid out in every way there is."""
    wide = x.new_zeros(6, 8)
    wide[:, ::2] = x
    buffer = torch.cat([x.new_zeros(1), x.flatten()])
    return {
        "transposed": x.t().contiguous().t(),
        "every second": wide[:, ::2],
        "offset by one element": buffer[1:].view(6, 4),
        "negated lazily": torch._neg_view(-x),
    }


def same_bits(run: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor, impl: str) -> None:
    """Value and gradient of run do not depend on the layout of its argument or of the gradient handed in.

    To the bit, natively; torch's own operations take other paths, which round differently, for other layouts.
    """

    def equal(a: Tensor, b: Tensor) -> bool:
        return torch.equal(a, b) if impl == "native" else torch.allclose(a, b, 1e-5, 8 * torch.finfo(a.dtype).eps)

    def both(x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        y = run(x)
        return y.detach(), torch.autograd.grad(y, x, upstream)[0]

    value, derivative = both(x, upstream)
    for name, variant in layouts(x).items():
        got, grad = both(variant, upstream)
        assert equal(got, value) and equal(grad, derivative), name
    if upstream.shape == (6, 4):
        for name, variant in layouts(upstream).items():
            assert equal(both(x, variant)[1], derivative), f"gradient {name}"
    if upstream.dim():
        ones = torch.ones((), dtype=x.dtype, device=x.device).expand(upstream.shape)
        assert equal(both(x, ones)[1], both(x, ones.contiguous())[1]), "gradient expanded"
    row = x[:1].expand(6, 4)
    assert equal(run(row), run(row.contiguous())), "expanded"
    windows = x.flatten().as_strided((6, 4), (2, 1))  # rows overlap
    assert equal(run(windows), run(windows.contiguous())), "overlapping"


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_layouts_of_logits(dtype: torch.dtype, impl: str, device: str) -> None:
    need(impl, "loss", device, dtype)
    x = row("fake").points(6, 4, dtype=dtype, device=device)
    upstream = row("fake").points(6, 4, dtype=dtype, device=device, seed=1)
    for order in (0, 1):
        same_bits(lambda x, order=order: ops.pointwise(x, "soft_target", 0.9, order, impl=impl), x, upstream, impl)
    scalar = torch.tensor(1.5, dtype=torch.float64 if dtype == torch.float64 else torch.float32, device=device)
    same_bits(lambda x: fastgan.discriminator_loss(x, x.detach() + 1, impl=impl), x, scalar, impl)
    same_bits(lambda x: fastgan.generator_loss(x, impl=impl), x, scalar, impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=name_of)
def test_layouts_of_layers(dtype: torch.dtype, impl: str) -> None:
    need(impl, "mlp", dtype=dtype)
    x = torch.randn(6, 4, dtype=dtype)
    case = MlpCase("square", (4, 5, 4), (LayerSpec("softplus"), LayerSpec("tanh")))
    _, weights, biases, _ = case.make(1, dtype=dtype)
    same_bits(lambda x: case.run(x, weights, biases, None, impl), x, torch.randn(6, 4, dtype=dtype), impl)
    same_bits(lambda x: ops.dropout(x, 0.5, KEY, impl=impl), x, torch.randn(6, 4, dtype=dtype), impl)
    square = torch.randn(4, 4, dtype=dtype)
    bias = torch.randn(8, dtype=dtype)
    plain = ops.mlp(x, [square], [bias[::2].contiguous()], [LayerSpec("relu")], impl=impl)
    for weight in (square.t().contiguous().t(), torch._neg_view(-square)):
        for strided in (bias[::2], torch._neg_view(-bias[::2].contiguous())):
            got = ops.mlp(x, [weight], [strided], [LayerSpec("relu")], impl=impl)
            torch.testing.assert_close(got, plain, rtol=0.0 if impl == "native" else 1e-5, atol=0.0)


# ---------------------------------------------------------------- any number of threads; the same twice


def everything(impl: str) -> list[Tensor]:
    """The results of every operation at sizes that are shared out among threads."""
    generator = torch.Generator().manual_seed(3)
    found: list[Tensor] = []
    for n, m in ((100_003, 20_011), (7, 70_001)):
        real, fake = (torch.randn(k, generator=generator).requires_grad_() for k in (n, m))
        loss = fastgan.discriminator_loss(real, fake, impl=impl)
        loss.backward()
        found += [loss.detach(), real.grad, fake.grad]  # type: ignore[list-item]
        found.append(ops.pointwise(real.detach().half(), "fake", impl=impl))
    layers = [LayerSpec("relu", dropout=0.5), LayerSpec(pieces=2), LayerSpec("gelu")]
    weights = [(torch.randn(s, generator=generator) / 8).requires_grad_() for s in ((96, 64), (128, 96), (32, 64))]
    biases = [torch.randn(w.shape[0], generator=generator).requires_grad_() for w in weights]
    x = torch.randn(515, 64, generator=generator).requires_grad_()
    y = ops.mlp(x, weights, biases, layers, input_dropout=0.2, dropout_seed=KEY, impl=impl)
    y.backward(torch.randn(y.shape, generator=generator))
    found += [y.detach(), *(t.grad for t in (x, *weights, *biases))]  # type: ignore[list-item]
    found.append(ops.dropout(torch.ones(301, 1001), 0.3, KEY, impl=impl))
    for draw in (random.uniform, random.normal):
        found.append(draw((100_001,), seed=1, purpose=0, impl=impl))
    return found


@needs_native
def test_the_number_of_threads_does_not_show() -> None:
    torch.set_num_threads(1)
    alone = everything("native")
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        for i, (a, b) in enumerate(zip(alone, everything("native"), strict=True)):
            assert torch.equal(a, b), f"result {i} with {threads} threads"


@pytest.mark.parametrize("impl", IMPLS)
def test_deterministic_mode_finds_no_unwritten_output(impl: str) -> None:
    """torch fills fresh memory with NaN in this mode, so what a kernel forgets to write shows."""
    need(impl, "mlp")
    plain = everything(impl)
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    for i, (a, b) in enumerate(zip(plain, everything(impl), strict=True)):
        assert not b.isnan().any() and torch.equal(a, b), f"result {i}"


# ---------------------------------------------------------------- errors

X, W, B = torch.ones(3, 4), torch.ones(2, 4), torch.ones(2)
ONE = [LayerSpec()]
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: ops.pointwise(X, "fakes"), ValueError, "pointwise: formula must be one of non_saturating, .* got 'fakes'"),
    (lambda: ops.pointwise(X, "fake", order=3), ValueError, "pointwise: order must be 0, 1 or 2, got 3"),
    (lambda: ops.pointwise(X.int(), "fake"), TypeError, "pointwise: x must be floating point, got torch.int32"),
    (lambda: ops.dropout(X, 1.5, KEY), ValueError, r"dropout: p must lie in \[0, 1\], got 1.5"),
    (lambda: ops.dropout(X, NAN, KEY), ValueError, r"dropout: p must lie in \[0, 1\], got nan"),
    (lambda: ops.dropout(X, 0.5, 7), TypeError, r"dropout: dropout_seed must be an int64 tensor of shape \(\), got 7"),
    (lambda: ops.dropout(X, 0.5, KEY.view(1)), TypeError, "dropout: dropout_seed must be an int64 tensor"),
    (lambda: ops.dropout(X, 0.5, KEY, 2**16), ValueError, r"dropout: substream must lie in \[0, 65536\), got 65536"),
    (lambda: ops.dropout(X, 0.5, KEY, -1), ValueError, "dropout: substream must lie in"),
    (lambda: ops.dropout(X, 0.5, KEY, impl="gpu"), ValueError, "dropout: impl must be one of auto, native, reference"),
    (lambda: ops.mlp(torch.tensor(1.0), [W], [B], ONE), ValueError, "mlp: x must have at least one dimension"),
    (lambda: ops.mlp(X, [], [], []), ValueError, "equally many and at least one, got 0, 0 and 0"),
    (lambda: ops.mlp(X, [W], [B, B], ONE), ValueError, "equally many and at least one, got 1, 2 and 1"),
    (lambda: ops.mlp(X, [W.view(-1)], [B], ONE), ValueError, r"mlp: .*weight.*\(8,\)"),
    (lambda: ops.mlp(X, [torch.ones(2, 5)], [B], ONE), ValueError, "mlp: layer 0 takes 5 features .* but x gives 4"),
    (lambda: ops.mlp(X, [W, W], [B, B], 2 * ONE), ValueError, "mlp: layer 1 takes 4 features .* but layer 0 gives 2"),
    (lambda: ops.mlp(X, [W], [torch.ones(3)], ONE), ValueError, r"mlp: biases\[0\] must have shape \(2,\), got \(3,\)"),
    (lambda: ops.mlp(X, [W.double()], [B], ONE), TypeError, r"x and weights\[0\] must share one dtype"),
    (lambda: ops.mlp(X, [W], [B.half()], ONE), TypeError, r"biases\[0\] must share one dtype"),
    (lambda: ops.mlp(X, [W.to("meta")], [B], ONE), ValueError, r"x and weights\[0\] must be on one device"),
    (lambda: ops.mlp(X, [W], [B], [LayerSpec("swish")]), ValueError, "mlp: activation must be one of .* got 'swish'"),
    (lambda: ops.mlp(X, [W], [B], [LayerSpec(pieces=3)]), ValueError, "2 rows, not a multiple of pieces = 3"),
    (lambda: ops.mlp(X, [W], [B], [LayerSpec(pieces=0)]), ValueError, "not a multiple of pieces = 0"),
    (lambda: ops.mlp(X, [W], [B], [LayerSpec("relu", pieces=2)]), ValueError, "maxout has no further activation"),
    (
        lambda: ops.mlp(X, [W], [B], [LayerSpec(dropout=-1)], dropout_seed=KEY),
        ValueError,
        r"mlp: dropout must lie in .* got -1",
    ),
    (lambda: ops.mlp(X, [W], [B], [LayerSpec("leaky_relu", -1)]), ValueError, "negative_slope must be positive"),
    (
        lambda: ops.mlp(X, [W], [B], ONE, input_dropout=2, dropout_seed=KEY),
        ValueError,
        "mlp: input_dropout must lie in",
    ),
    (lambda: ops.mlp(X, [W], [B], ONE, dropout_seed=3), TypeError, "mlp: dropout_seed must be an int64 tensor"),
    (lambda: ops.mlp(X, [W.to_sparse()], [B], ONE), TypeError, r"mlp: weights\[0\] must be a dense tensor, got layout"),
    (lambda: ops.mlp(X, [[1.0]], [B], ONE), TypeError, r"mlp: weights\[0\] must be a torch.Tensor, got list"),
    (lambda: ops.mlp("x", [W], [B], ONE), TypeError, "mlp: x must be a torch.Tensor, got str"),
    (lambda: ops.mlp(X, [W], [B], ONE, impl=""), ValueError, "mlp: impl must be one of auto, native, .* got ''"),
]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[f"{i}" for i in range(len(BAD))])
def test_errors_name_the_operation_and_the_argument(
    call: Callable[[], object], error: type[Exception], message: str, impl: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same sentence on every backend."""
    need(impl, "mlp")
    if impl == "reference":
        monkeypatch.setattr(ops.dispatch, "why_not", lambda *_: "switched off by the test")
    with pytest.raises(error, match=message):
        call()


def test_random_arguments_end_in_a_result_or_a_clear_error() -> None:
    """1,500 random calls: a result, TypeError, ValueError or RuntimeError, and nothing else."""
    tensors = [
        torch.randn(3, 4), torch.randn(4), torch.randn(2, 4), torch.randn(4, 4), torch.randn(2), torch.randn(()),
        torch.empty(0, 4), torch.randn(3, 4).double(), torch.randn(3, 4).half(), torch.ones(2, 4, dtype=torch.int64),
        torch.randn(4, 3).t(), torch.randn(2, 4).to_sparse(), torch.empty(2, 4, device="meta"), torch.empty(3, 0),
        torch.randn(1, 4).expand(3, 4), torch.full((3, 4), INF), KEY, torch.randn(3, 4, requires_grad=True),
    ]  # fmt: skip
    junk: list[object] = [None, 0, 1, -1, 2**70, 0.5, NAN, INF, "relu", "fake", "auto", "native", [], {}, object()]
    draw = plain_random.Random(1)

    def any_of(usual: list, rare: list, chance: float = 0.85) -> object:
        return draw.choice(usual if draw.random() < chance else rare)

    def a_pointwise() -> object:
        formula = any_of(["fake", "mle", "soft_target", "probability_fake"], junk)
        return ops.pointwise(any_of(tensors, junk), formula, any_of([0.0, 0.9], junk), any_of([0, 1, 2], junk))

    def a_pair() -> object:
        formulas = draw.choice(["fake", "minimax"]), draw.choice(["fake", "hinge_real"])
        return ops.pair_loss(any_of(tensors, junk), any_of(tensors, junk), formulas, mean=any_of([True, False], junk))

    def a_dropout() -> object:
        return ops.dropout(any_of(tensors, junk), any_of([0, 0.5, 1], junk), any_of([KEY], junk), any_of([0, 3], junk))

    def a_network() -> object:
        depth = draw.choice((1, 1, 2, 3))
        layers = [
            LayerSpec(any_of(["relu", "none"], junk), 0.2, any_of([1, 2], junk), any_of([0.0, 0.5], junk))
            for _ in range(depth)
        ]
        weights, biases = ([any_of(tensors, junk) for _ in range(depth)] for _ in range(2))
        key = any_of([None, KEY], junk)
        return ops.mlp(
            any_of(tensors, junk), weights, biases, layers, input_dropout=any_of([0.0, 0.2], junk), dropout_seed=key
        )

    def a_stream() -> object:
        shape, purpose = any_of([3, (2, 2)], junk), any_of([0, 5], junk)
        return random.uniform(shape, seed=any_of([0, -5, 2**63], junk), purpose=purpose, step=any_of([0, 9], junk))

    finished = 0
    for call in (a_pointwise, a_pair, a_dropout, a_network, a_stream):
        for _ in range(300):
            try:
                call()
                finished += 1
            except (TypeError, ValueError, RuntimeError) as error:
                assert str(error)
    assert finished > 100
