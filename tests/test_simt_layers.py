"""Noise, masks, layers and optimisers on CUDA under the emulator, driven by the very Python that drives a GPU."""

from __future__ import annotations

import contextlib
import functools
import struct
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from cases import DTYPES, MLPS, NAN, MlpCase, name_of, need
from emulator import NEEDS, RACES, STREAM, Builder, Emulator, Huge, Refused, begin_narrow
from test_simt_optimizers import check_rule
from torch import Tensor

from fastgan import _cuda, _kernels, _schema, reference
from fastgan.ops import LayerSpec
from fastgan.ops.layers import mlp_by_layers

pytestmark = NEEDS
SCHEDULES = 20
KEY = 0x9E3779B97F4A7C15  # more than 63 bits
KEY_TENSOR = torch.tensor(KEY - 2**64)


@contextlib.contextmanager
def emulated(machine: Emulator, schedules: int = SCHEDULES, small: bool = True) -> Iterator[None]:
    """`fastgan._cuda` works on CPU tensors, by way of the emulator; `small`: on a device with tensor cores."""

    def launch(x: Tensor, entry: str, *arguments: object) -> None:
        machine.call(entry, *arguments, STREAM, schedules=schedules)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cuda, "launch", launch)
        partials = functools.partial(machine.ask, "layer_partials")
        patch.setattr(_cuda, "native", SimpleNamespace(cuda_layer_partials=partials))
        patch.setattr(_cuda, "_has_tensor_cores", lambda device: small)
        yield


def garbage(*shape: int, dtype: torch.dtype) -> Tensor:
    """Values of memory that is not written yet: a kernel that leaves some of it is found."""
    return torch.full(shape, NAN, dtype=dtype)


# ---------------------------------------------------------------- noise


def check_noise(
    machine: Emulator, kind: str, n: int, offset: int, dtype: torch.dtype, shift: int = 0, schedules: int = SCHEDULES
) -> None:
    out = garbage(n, dtype=dtype)
    stream = {"seed": KEY, "purpose": 3, "step": 2**40 + 7, "substream": 9, "offset": offset}
    numbers = KEY, 3, None, 0, 2**40 + 7, 9, offset
    head = _schema.DTYPES[dtype], out, n, kind == "normal"
    machine.call("random_fill", *head, *numbers, STREAM, schedules=schedules, shift=shift)
    if kind == "uniform":
        assert torch.equal(out.double(), reference.random_uniform(n, **stream)), "uniform bits differ"
    else:
        tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-13}
        torch.testing.assert_close(out.double(), reference.random_normal(n, **stream), **tolerance)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=name_of)
@pytest.mark.parametrize("kind", ("uniform", "normal"))
def test_noise_is_the_stream_of_the_cpu(kind: str, dtype: torch.dtype, machine: Emulator) -> None:
    for n, offset, shift in ((1, 0, 0), (8, 4, 0), (1030, 0, 1), (1030, 3, 0), (2, 2**34 + 1, 0), (1500, 6, 0)):
        check_noise(machine, kind, n, offset, dtype, shift)


# ---------------------------------------------------------------- masks


def check_dropout(
    machine: Emulator, shape: tuple[int, ...], p: float, dtype: torch.dtype, shift: int = 0, schedules: int = SCHEDULES
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    x.view(-1)[0] = NAN
    out = garbage(*shape, dtype=dtype)
    rows, features = x.numel() // shape[-1], shape[-1]
    head = (_schema.DTYPES[dtype], x, out, rows, features)
    machine.call("dropout", *head, p, KEY, None, 0, 0, 3, STREAM, schedules=schedules, shift=shift)
    wide = x if dtype == torch.float64 else x.float()
    signed = torch.tensor(KEY - 2**64)
    keep = reference.dropout(torch.ones(shape), p, signed, 3) != 0
    want = (wide * (keep.to(wide.dtype) * (1.0 / (1.0 - p) if p < 1 else 0.0))).to(dtype)
    torch.testing.assert_close(out, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_masks_are_those_of_the_cpu(dtype: torch.dtype, machine: Emulator) -> None:
    shapes = (((3, 8), 0.5, 0), ((300, 4), 0.2, 0), ((7, 5), 0.3, 0), ((9, 12), 0.5, 1), ((1, 1), 0.5, 0))
    for shape, p, shift in shapes:
        check_dropout(machine, shape, p, dtype, shift)
    check_dropout(machine, (4, 6), 1.0, dtype)
    check_dropout(machine, (4, 6), 0.0, dtype)


# ---------------------------------------------------------------- networks

# Relative to the size of the result: sums of products round once a term, halves after every layer.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def mine(case: MlpCase, x: Tensor, weights: list[Tensor], biases: list[Tensor | None], grad_y: Tensor) -> list[Tensor]:
    """Value and gradients as `fastgan._cuda` computes them."""
    units = tuple(case.sizes[1:])
    shape = _cuda.Shape(case.sizes[0], units, case.layers, case.input_dropout)
    work = garbage(shape.work_size(x.shape[0], x.dtype), dtype=x.dtype)
    params = [*weights, *biases]
    y = _cuda.mlp_forward(shape, x, params, KEY, work)
    kept = y.clone()
    y.fill_(NAN)  # the caller may do what he likes with it
    needs = [True] * (1 + len(weights)) + [b is not None for b in biases]
    grads = _cuda.mlp_backward(shape, x, params, work, grad_y.clone(), KEY, needs)
    return [kept, *(g for g in grads if g is not None)]


def exact(case: MlpCase, x: Tensor, weights: list[Tensor], biases: list[Tensor | None], grad_y: Tensor) -> list[Tensor]:
    """The same by the reference in float64."""
    wide = [None if t is None else t.double().requires_grad_() for t in (x, *weights, *biases)]
    depth = len(weights)
    key = torch.tensor(KEY - 2**64)
    layers = case.layers
    y = reference.mlp(wide[0], wide[1 : 1 + depth], wide[1 + depth :], layers, case.input_dropout, key)  # type: ignore[arg-type]
    inputs = [t for t in wide if t is not None]
    return [y.detach(), *torch.autograd.grad(y, inputs, grad_y.double())]


def check_network(
    machine: Emulator, case: MlpCase, rows: int, dtype: torch.dtype, small: bool, schedules: int = SCHEDULES
) -> None:
    """`small`: the whole network a launch, else layer by layer."""
    x, weights, biases, _ = case.make(rows, dtype=dtype, seed=5)
    grad_y = torch.cos(torch.arange(rows * case.sizes[-1], dtype=torch.float64)).view(rows, case.sizes[-1]).to(dtype)
    with emulated(machine, schedules, small):
        got = mine(case, x, weights, biases, grad_y)
    want = exact(case, x, weights, biases, grad_y)
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        scale = max(1.0, b.abs().max().item()) if b.numel() else 1.0
        error = (a.double() - b).abs().max().item() / scale if b.numel() else 0.0
        assert error <= TOLERANCE[dtype], f"{case.name}, {rows} rows, result {i}: off by {error:.3g}"


@pytest.mark.parametrize("small", (True, False), ids=("whole", "by_layer"))
@pytest.mark.parametrize("case", MLPS, ids=name_of)
def test_every_network(case: MlpCase, small: bool, machine: Emulator) -> None:
    check_network(machine, case, 33, torch.float32, small)
    check_network(machine, case, 5, torch.float64, small)


WIDE = (
    MlpCase("packs", (8, 136, 16), (LayerSpec("elu", dropout=0.3), LayerSpec("tanh"))),
    MlpCase("odd", (3, 67, 5), (LayerSpec("gelu", dropout=0.2), LayerSpec("sigmoid", dropout=0.1))),
    MlpCase("pieces", (5, 9, 24), (LayerSpec(pieces=4, dropout=0.5), LayerSpec(pieces=2, dropout=0.5))),
    MlpCase("linear", (6, 8, 8), (LayerSpec(dropout=0.4), LayerSpec(dropout=0.4))),
)


# Which of two pieces is larger, or on which side of a kink a sum lies, halves cannot tell as float64 does.
SMOOTH = tuple(case for case in WIDE if case.name != "pieces")
TYPED = (*((case, t) for case in WIDE for t in DTYPES[:2]), *((case, t) for case in SMOOTH for t in DTYPES[2:]))


@pytest.mark.parametrize("small", (True, False), ids=("whole", "by_layer"))
@pytest.mark.parametrize(("case", "dtype"), TYPED, ids=[f"{c.name}-{name_of(t)}" for c, t in TYPED])
def test_widths_and_types(case: MlpCase, dtype: torch.dtype, small: bool, machine: Emulator) -> None:
    # Two of each way to choose a thread: planted faults show with one of each.
    check_network(machine, case, 37, dtype, small, schedules=8)


def second_order(
    run: Callable[..., Tensor], case: MlpCase, tensors: list[Tensor | None], grad_y: Tensor
) -> list[Tensor]:
    """The gradient of x, and the gradients of a function of it."""
    inputs = [None if t is None else t.detach().requires_grad_() for t in tensors]
    grad_y = grad_y.detach().requires_grad_()
    depth = len(case.layers)
    y = run(inputs[0], inputs[1 : 1 + depth], inputs[1 + depth :], case.layers, case.input_dropout, KEY_TENSOR)
    (grad,) = torch.autograd.grad(y, inputs[0], grad_y, create_graph=True)  # type: ignore[arg-type]
    wanted = [t for t in (*inputs, grad_y) if t is not None]
    return [grad.detach(), *torch.autograd.grad(grad.square().sum(), wanted, materialize_grads=True)]


def check_second_order(machine: Emulator, case: MlpCase, dtype: torch.dtype, schedules: int = SCHEDULES) -> None:
    """As in a gradient penalty; by kernels at every order."""
    if case.input_dropout:
        need("native", "dropout")  # of the layers' input
    x, weights, biases, _ = case.make(9, dtype=torch.float64, seed=5)
    grad_y = torch.cos(torch.arange(9.0 * case.sizes[-1], dtype=torch.float64)).view(9, -1)
    tensors = [x, *weights, *biases]
    want = second_order(reference.mlp, case, tensors, grad_y)
    with emulated(machine, schedules):
        narrow = [None if t is None else t.to(dtype) for t in tensors]
        got = second_order(mlp_by_layers, case, narrow, grad_y.to(dtype))
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        error = (a.double() - b).abs().max().item() / max(1.0, b.abs().max().item())
        assert error <= 10 * TOLERANCE[dtype], f"result {i}: off by {error:.3g}"


@pytest.mark.parametrize("case", MLPS, ids=name_of)
def test_every_gradient_of_a_gradient(case: MlpCase, machine: Emulator) -> None:
    for dtype in (torch.float64, torch.float32):
        check_second_order(machine, case, dtype)


def test_a_third_derivative(machine: Emulator) -> None:
    """Through the reference, with the masks of the kernels."""
    layer = LayerSpec("tanh", dropout=0.4)
    x, weight = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)

    def third(run: Callable[..., Tensor]) -> Tensor:
        leaf = x.clone().requires_grad_()
        y = run(leaf, [weight], [None], (layer,), 0.0, KEY_TENSOR).sum()
        for _ in range(2):
            (g,) = torch.autograd.grad(y, leaf, create_graph=True)
            y = g.square().sum()
        return torch.autograd.grad(y, leaf)[0]

    with emulated(machine, schedules=2):
        got = third(mlp_by_layers)
    torch.testing.assert_close(got, third(reference.mlp), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("small", (True, False), ids=("whole", "by_layer"))
def test_what_is_not_wanted_is_not_computed(small: bool, machine: Emulator) -> None:
    """Gradients of some parameters, of x or of none; no rows at all."""
    case = MlpCase("some", (5, 7, 3), (LayerSpec("softplus", dropout=0.3), LayerSpec("tanh")), input_dropout=0.2)
    check_network(machine, case, 0, torch.float32, small)
    shape = _cuda.Shape(5, (7, 3), case.layers, case.input_dropout)
    x, weights, biases, _ = case.make(9, dtype=torch.float32)
    grad_y, params = torch.ones(9, 3), [*weights, *biases]
    want = exact(case, x, weights, biases, grad_y)
    launched: list[str] = []
    with emulated(machine, small=small), pytest.MonkeyPatch.context() as patch:
        work = garbage(shape.work_size(9, x.dtype), dtype=x.dtype)
        y = _cuda.mlp_forward(shape, x, params, KEY, work)
        assert torch.equal(_cuda.mlp_forward(shape, x, params, KEY, None), y)
        found = _cuda.launch
        patch.setattr(_cuda, "launch", lambda x, entry, *rest: (launched.append(entry), found(x, entry, *rest)))
        for wanted in ((), (0,), (2,), (3,), (4,), (1, 4), (0, 2, 3)):
            needs = [i in wanted for i in range(5)]
            launched.clear()
            got = _cuda.mlp_backward(shape, x, params, work, grad_y.clone(), KEY, needs)
            assert [g is not None for g in got] == needs
            for i in wanted:
                torch.testing.assert_close(got[i].double(), want[1 + i], rtol=1e-5, atol=1e-5)  # type: ignore[union-attr]
            if not wanted:
                assert not launched
            elif small:
                assert launched == ["small_mlp_backward"]


def test_large_networks_and_old_devices_go_layer_by_layer() -> None:
    """What is small is a matter of rows, weights, widths and layers."""
    layer = LayerSpec("relu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cuda, "_has_tensor_cores", lambda device: True)
        for sizes, rows, small in (
            ((2, 128, 128, 1), 512, True),
            ((2, 128, 128, 1), 100_000, False),  # cuBLAS's products win
            ((100, 1200, 784), 16, False),  # weights that fill no cache
            ((2, 1000, 2), 16, False),  # activations that fit no shared memory
            ((4,) * 14, 16, False),  # arguments that fit no launch
        ):
            shape = _cuda.Shape(sizes[0], sizes[1:], (layer,) * (len(sizes) - 1))
            assert shape.is_small(torch.empty(rows, sizes[0])) is small, sizes
        patch.setattr(_cuda, "_has_tensor_cores", lambda device: False)
        assert not _cuda.Shape(2, (3,), (layer,)).is_small(torch.empty(4, 2))


def check_sums(machine: Emulator, rows: int, columns: int, dtype: torch.dtype, shift: int, schedules: int) -> Tensor:
    """The bias's gradient alone: many chunks, in a fixed order whatever the address."""
    grad = torch.randn(rows, columns, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    out = garbage(columns, dtype=dtype)
    partial = garbage(machine.ask("layer_partials", rows, columns), dtype=torch.float64)
    head = (_schema.DTYPES[dtype], rows, columns, 1, 0, 0.2, 0.0, 0, None, 0, 0, 0)
    tail = (grad, None, None, None, out, partial, None, None)
    machine.call("layer_backward", *head, *tail, STREAM, schedules=schedules, shift=shift)
    torch.testing.assert_close(out.double(), grad.double().sum(0), rtol=1e-5, atol=1e-5 * rows**0.5)
    return out


def test_sums_over_many_rows_do_not_depend_on_the_address(machine: Emulator) -> None:
    for columns in (1, 4, 132):
        aligned = check_sums(machine, 300, columns, torch.float32, 0, SCHEDULES)
        assert torch.equal(check_sums(machine, 300, columns, torch.float32, 1, SCHEDULES), aligned)


class OnCuda(Tensor):
    """A CPU tensor that says it is on CUDA."""

    is_cuda = True


def test_kernels_hand_tensors_of_cuda_on(machine: Emulator) -> None:
    """The way from `fastgan._kernels` down, the packing of results included."""
    need("native", "mlp")
    case = next(c for c in MLPS if c.name == "original")
    tensors = case.make(2, 7, dtype=torch.float32, seed=5)
    x = tensors[0].as_subclass(OnCuda)
    weights = [w.as_subclass(OnCuda) for w in tensors[1]]
    biases = [None if b is None else b.as_subclass(OnCuda) for b in tensors[2]]
    grad_y = torch.ones(2, 7, 1).as_subclass(OnCuda)
    shapes = [tuple(w.shape) for w in weights]
    net = _kernels.MlpDescription(shapes, case.layers, case.input_dropout, [True] * len(weights))
    params, key = [*weights, *biases], torch.tensor(KEY - 2**64)
    with emulated(machine, schedules=2):
        y, work = _kernels.mlp_forward(net, x, params, key, True)
        assert work is not None and work.numel() == net.work_size(14, x)
        grads, _ = _kernels.mlp_backward(net, x, params, work, grad_y, key, [True] * 7)
        dropped = _kernels.dropout(x, 0.5, torch.tensor(5), 1)
        grad = x.clone()
        _kernels.scale((grad, None), torch.tensor(2.0).as_subclass(OnCuda))
    flat = [t.reshape(14, -1) for t in (tensors[0], torch.ones(14, 1))]
    want = exact(case, flat[0], tensors[1], tensors[2], flat[1])
    for found, b in zip((y, *grads), want, strict=True):
        assert found is not None
        torch.testing.assert_close(found.as_subclass(Tensor).view(b.shape).double(), b, rtol=1e-5, atol=1e-5)
    assert torch.equal(dropped.as_subclass(Tensor), reference.dropout(tensors[0], 0.5, torch.tensor(5), 1))
    assert torch.equal(grad.as_subclass(Tensor), 2 * tensors[0])


# ---------------------------------------------------------------- sizes, errors, races


def test_R13_more_than_two_billion_elements(machine: Emulator) -> None:
    """The block that meets the last element, alone; zeros elsewhere cost nothing."""
    n = 2**31 + 512
    noise = Huge(4 * n)
    machine.call("random_fill", 0, noise, n, False, 1, 0, None, 0, 0, 0, 0, STREAM, block=(n // 4 - 1) // 256 % 1024)
    want = reference.random_uniform(4, seed=1, purpose=0, step=0, substream=0, offset=n - 4)
    assert list(struct.unpack("4f", noise.tail[-16:])) == want.tolist()
    x, out = Huge(2 * n), Huge(2 * n)
    bf16 = _schema.DTYPES[torch.bfloat16]
    rows, features = n // 512, 512
    # sigmoid of 0 without bias: a half in the very last element
    pass_ = (rows, features, 1, 4, 0.2, 0.0, 0, None, 0, 0, 0)
    chunk, tiles = 256, 2
    last = -(-rows // chunk) * tiles - 1
    machine.call("layer_forward", bf16, *pass_, x, None, None, out, None, None, STREAM, block=last)
    assert out.tail[-2:] == torch.tensor([0.5], dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()


def test_R39_a_launch_that_fails_is_reported(machine: Emulator) -> None:
    if machine.on_gpu:
        pytest.skip("no error can be injected into a GPU")
    x = torch.zeros(4)
    one_row = (1, 1, 0.0, 0, 0, x, None, x, None, None)
    for message, entry, arguments in (
        ("random", "random_fill", (0, x, 4, 0, 1, 0, None, 0, 0, 0, 0)),
        ("dropout", "dropout", (0, x, x, 1, 4, 0.5, 1, None, 0, 0, 0)),
        ("mlp", "layer_forward", (0, 1, 4, 1, 1, 0.2, 0.0, 0, None, 0, 0, 0, x, None, None, x, None, None)),
        ("mlp", "small_mlp_forward", (0, *one_row, 1, 4, 1, 0, 0.2, 0.0, x, *(None,) * 8)),
        ("optimizer", "ema", (0, 0.9, 1, x, None, None, x, 4)),
    ):
        with pytest.raises(Refused, match=f"^{message}: CUDA says: no kernel image"):
            machine.call(entry, *arguments, STREAM, inject=3)


def noise_and_masks(machine: Emulator) -> None:
    check_noise(machine, "uniform", 1030, 3, torch.float32, schedules=4)
    check_noise(machine, "normal", 1024, 0, torch.float32, schedules=4)
    check_dropout(machine, (300, 4), 0.5, torch.float32, schedules=4)
    check_dropout(machine, (70, 5), 0.5, torch.float32, schedules=4)


RELU = MlpCase("relu", (5, 8, 3), (LayerSpec("relu"), LayerSpec("relu")))
TWO_PIECES = MlpCase("maxout", (4, 5, 3), (LayerSpec(pieces=3), LayerSpec()))
DROPPED = MlpCase("dropped", (5, 9, 3), (LayerSpec("relu", dropout=0.3), LayerSpec("relu")), input_dropout=0.2)


def layers(machine: Emulator) -> None:
    check_network(machine, RELU, 33, torch.float32, False, schedules=4)
    check_network(machine, TWO_PIECES, 33, torch.float32, False, schedules=4)
    check_sums(machine, 300, 4, torch.float32, 0, 4)
    check_second_order(machine, RELU, torch.float32, schedules=4)


def networks(machine: Emulator) -> None:
    check_network(machine, DROPPED, 33, torch.float32, True, schedules=4)
    check_network(machine, TWO_PIECES, 33, torch.float32, True, schedules=4)


def steps(machine: Emulator) -> None:
    check_rule(machine, "adam", (5, 4100), torch.float32, schedules=4)
    check_rule(machine, "momentum_torch", (5, 4100), torch.float32, shift=1, schedules=4)


Check = Callable[[Emulator], None]
CHECKS: dict[str, Check] = {
    "random.cu": noise_and_masks,
    "mlp.cu": layers,
    "small_mlp.cu": networks,
    "optimizer.cu": steps,
}


@pytest.fixture(scope="module")
def racing(emulator_builder: Builder) -> dict[str, Callable[[], Emulator]]:
    return {source: begin_narrow(emulator_builder, source, RACES) for source in CHECKS}


@pytest.mark.parametrize("source", CHECKS)
def test_no_race(source: str, racing: dict[str, Callable[[], Emulator]]) -> None:
    with contextlib.closing(racing[source]()) as emulator:
        if source == "mlp.cu":  # its networks use dropout only through random.cu
            check_network(emulator, RELU, 33, torch.float32, False, schedules=2)
            check_sums(emulator, 300, 4, torch.float32, 0, 2)
        else:
            CHECKS[source](emulator)
