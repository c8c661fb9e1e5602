"""The loss kernels under the emulator: every row of the table, and faults planted into a copy of their source."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

import pytest
import torch
from cases import DTYPES, LOSSES, NAN, PAIRS, LossCase, name_of, row, ulp_error
from emulator import (
    MEMORY,
    NEEDS,
    RACES,
    STREAM,
    Builder,
    Emulator,
    Huge,
    Refused,
    begin_faults,
    begin_narrow,
    without_faults,
)
from torch import Tensor

from fastgan import _kernels, _schema, reference

pytestmark = NEEDS
SCHEDULES = 20
NUMBERS = _schema.FORMULAS
# Units in the last place: halves are rounded once; double is compared with another double.
ALLOWED = {torch.float16: 0.51, torch.bfloat16: 0.51, torch.float64: 16.0}


def garbage(*shape: int, dtype: torch.dtype) -> Tensor:
    """Values of memory that is not written yet: a kernel that leaves some of it is found."""
    return torch.full(shape, NAN, dtype=dtype)


# ---------------------------------------------------------------- checks: of the kernels, and of their planted faults


def check_pointwise(
    machine: Emulator, case: LossCase, dtype: torch.dtype, order: int, n: int = 300, schedules: int = SCHEDULES
) -> None:
    """Every element within its units of the float64 reference."""
    ends = torch.tensor([*case.domain, NAN, 0.0, *case.smooth], dtype=torch.float64)
    x = torch.cat((case.points(n - len(ends), seed=order), ends)).to(dtype)
    out = garbage(n, dtype=dtype)
    number = NUMBERS[case.formula]
    machine.call("pointwise", _schema.DTYPES[dtype], x, out, n, number, case.target, order, STREAM, schedules=schedules)
    error = ulp_error(out, case.want(x, order), case.derivative_unit if order == 1 else 0.0)
    at = int(error.argmax())
    allowed = ALLOWED.get(dtype, case.ulp[order])
    assert error[at] <= allowed, f"order {order}: {error[at]:.3g} units at {x[at]}: got {out[at]}"


def check_pair(
    machine: Emulator,
    pair: int,
    dtype: torch.dtype,
    m: int,
    n: int,
    *,
    shift: int = 0,
    grads: bool = True,
    schedules: int = SCHEDULES,
) -> None:
    """The sum of both means and its gradients."""
    formulas, targets = PAIRS[pair]
    wide = _kernels.ACCUMULATORS[dtype]
    x = [row(f).points(k, dtype=dtype, seed=i) for i, (f, k) in enumerate(zip(formulas, (m, n), strict=True))]
    scales = [1.0 / k if k else 1.0 for k in (m, n)]
    value = garbage(1, dtype=wide)
    grads = [garbage(k, dtype=wide) if grads else None for k in (m, n)]
    partial = garbage(machine.ask("partials", m, n), dtype=torch.float64)
    arguments = (x[0], m, x[1], n, *(NUMBERS[f] for f in formulas), *targets, *scales, value, *grads, partial)
    machine.call("pair_loss", _schema.DTYPES[dtype], *arguments, STREAM, schedules=schedules, shift=shift)
    tolerance = {"rtol": 1e-14 if dtype == torch.float64 else 5e-7, "atol": 0.0}
    want = torch.zeros((), dtype=torch.float64)
    for formula, target, logits, grad, scale in zip(formulas, targets, x, grads, scales, strict=True):
        want = want + reference.pointwise(logits.double(), formula, target, 0).sum() * scale
        if grad is not None:
            want_grad = reference.pointwise(logits.double(), formula, target, 1) * scale
            torch.testing.assert_close(grad.double(), want_grad, rtol=tolerance["rtol"] * 4, atol=scale * 1e-7)
    torch.testing.assert_close(value[0].double(), want, **tolerance)


def check_huge(machine: Emulator, n: int) -> None:
    """The block that meets the last element of more than 2**31, alone; zeros elsewhere cost nothing."""
    x, grad, value = Huge(2 * n), Huge(4 * n), garbage(1, dtype=torch.float32)
    partial = garbage(1025, dtype=torch.float64)
    block = ((n + 7) // 8 - 1) // 256 % 1024
    arguments = (x, n, None, 0, 0, 1, 0.0, 0.0, 1.0, 1.0, value, grad, None, partial, STREAM)
    machine.call("pair_loss", _schema.DTYPES[torch.bfloat16], *arguments, block=block)
    last = n % 8 or 8  # elements of the last pack
    assert struct.unpack("16f", grad.tail)[-last:] == (-0.5,) * last, "the end was not reached"
    out = Huge(2 * n)
    block = (n - 1) // 256 % 1024
    machine.call("pointwise", _schema.DTYPES[torch.bfloat16], x, out, n, 1, 0.0, 1, STREAM, block=block)
    assert out.tail[-2:] == torch.tensor([0.5], dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()


def check_refusal(machine: Emulator) -> None:
    """what the launch says is heard."""
    if machine.on_gpu:
        pytest.skip("no error can be injected into a GPU")
    one = torch.zeros(1)
    with pytest.raises(Refused, match="pointwise: CUDA says: no kernel image is available"):
        machine.call("pointwise", 0, one, one, 1, 0, 0.0, 0, STREAM, inject=3)


# ---------------------------------------------------------------- the kernels


@pytest.mark.parametrize("case", LOSSES, ids=name_of)
def test_every_formula_at_every_order_and_type(case: LossCase, machine: Emulator) -> None:
    for dtype in DTYPES:
        for order in (0, 1, 2):
            check_pointwise(machine, case, dtype, order)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_every_pair_aligned_or_not(dtype: torch.dtype, machine: Emulator) -> None:
    for pair in range(len(PAIRS)):
        check_pair(machine, pair, dtype, 2085, 70, shift=pair % 2)


@pytest.mark.parametrize("sizes", ((1, 0), (4, 8), (7, 1), (2048, 2049), (255, 9001)), ids=str)
def test_sizes_around_packs_and_blocks(sizes: tuple[int, int], machine: Emulator) -> None:
    for shift in (0, 1, 3):
        check_pair(machine, 0, torch.bfloat16, *sizes, shift=shift, grads=shift != 3)
        check_pair(machine, 0, torch.float32, *sizes, shift=shift)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=name_of)
def test_a_derivative_times_a_factor_only_the_device_knows(dtype: torch.dtype, machine: Emulator) -> None:
    for n, shift in ((1, 0), (1030, 0), (1030, 1)):
        for factor in (1.0, -2.5, NAN):
            x = torch.arange(n, dtype=dtype)
            scalar = torch.tensor(factor, dtype=dtype)
            head = _schema.DTYPES[dtype], x, n, scalar
            machine.call("scale", *head, STREAM, schedules=SCHEDULES, shift=shift)
            want = torch.arange(n, dtype=dtype) * scalar
            assert torch.equal(x.nan_to_num(7), want.nan_to_num(7))


def test_no_element_no_launch(machine: Emulator) -> None:
    empty = torch.empty(0)
    assert machine.call("pointwise", 0, empty, empty, 0, 0, 0.0, 0, STREAM) == 0  # launches
    value = garbage(1, dtype=torch.float32)
    machine.call("pair_loss", 0, empty, 0, None, 0, 0, 1, 0.0, 0.0, 1.0, 1.0, value, None, None, None, STREAM)
    assert value.item() == 0.0


@pytest.mark.parametrize("n", (2**31 - 1, 2**31, 2**31 + 512, 2**31 + 513))
def test_R13_more_than_two_billion_elements(n: int, machine: Emulator) -> None:
    check_huge(machine, n)


def test_R39_a_launch_that_fails_is_reported(machine: Emulator) -> None:
    check_refusal(machine)
    check_pair(machine, 0, torch.float32, 5, 3)


def test_no_race(emulator_builder: Builder) -> None:
    with contextlib.closing(begin_narrow(emulator_builder, "loss.cu", RACES)()) as emulator:
        check_pair(emulator, 0, torch.float32, 2085, 5000, schedules=4)
        check_pointwise(emulator, row("fake"), torch.float32, 0, schedules=4)


# ---------------------------------------------------------------- planted faults

Check = Callable[[Emulator], None]


def pair(m: int, n: int, shift: int = 0) -> Check:
    return lambda machine: check_pair(machine, 0, torch.float32, m, n, shift=shift)


def points(machine: Emulator) -> None:
    check_pointwise(machine, row("fake"), torch.float32, 0)


GUARD, LOOP = "i < size && first + i < n", "int64_t p = global_thread(); p < packs; p += grid_threads()) {\n    const"
EACH = "int64_t i = global_thread(); i < n;"
LAUNCHED = "cudaLaunchKernelEx(&config, kernel, arguments...)"
UNCHECKED = f"FAULT ? (void){LAUNCHED} : check({LAUNCHED}, operation)"
FAULTS: dict[str, tuple[str, str, str, Check, str]] = {
    "no_tail_guard": (
        "cuda/loss.cu",
        GUARD,
        "i < size && (FAULT || first + i < n)",
        pair(2085, 70),
        "heap-buffer-overflow",
    ),
    "one_too_many": ("cuda/loss.cu", EACH, EACH.replace("n;", "n + int(FAULT);"), points, "heap-buffer-overflow"),
    "one_too_few": ("cuda/loss.cu", EACH[:-1], EACH[:-1] + " - int(FAULT)", points, "units at"),
    "beyond_the_scratch": (
        *("cuda/loss.cu", "partial[blockIdx.x] = sum", "partial[blockIdx.x + int(FAULT)] = sum"),
        *(pair(2085, 70), "heap-buffer-overflow|Tensor-likes are not close|Scalars are not close"),
    ),
    "alignment_not_asked": (
        "cuda/loss.cu",
        "if (aligned && ",
        "if ((FAULT || aligned) && ",
        pair(2085, 70, 1),
        "misaligned address",
    ),
    "index_of_32_bits": (
        *("cuda/loss.cu", LOOP, LOOP.replace("int64_t p = global_thread()", "int p = int(global_thread())")),
        *(lambda machine: check_huge(machine, 2**34 + 512), "the end was not reached"),
    ),
    "shared_too_small": (
        *("cuda/device.cuh", "double[kThreads / 32]", "double[kThreads / 64]"),
        *(pair(5, 3), "out of bounds"),
    ),
    "no_barrier_before": (
        *(
            "cuda/device.cuh",
            "__syncthreads();  // `warps` may still",
            "if (!FAULT) __syncthreads();  // `warps` may still",
        ),
        *(pair(2048 * 40, 5), "leaves other bits|not close"),
    ),
    "no_barrier_between": (
        *("cuda/device.cuh", "= x;\n  __syncthreads();", "= x;\n  if (!FAULT) __syncthreads();"),
        *(pair(5, 3), "leaves other bits|not close"),
    ),
    "barrier_for_some": (
        *("cuda/device.cuh", "= x;\n  __syncthreads();", "= x;\n  if (threadIdx.x < 64) __syncthreads();"),
        *(pair(5, 3), "not all threads arrive|others of its group wait"),
    ),
    "every_lane_writes": (
        *("cuda/device.cuh", "if (threadIdx.x % 32 == 0) warps", "if (FAULT || threadIdx.x % 32 == 0) warps"),
        *(pair(500, 3), "leaves other bits|not close"),
    ),
    "sum_cut_short": (
        "cuda/device.cuh",
        "int distance = 16;",
        "int distance = FAULT ? 8 : 16;",
        pair(500, 3),
        "not close",
    ),
    "grad_not_scaled": (
        *("cuda/loss.cu", "out.at[i] = scale *", "out.at[i] = (FAULT ? T(1) : scale) *", pair(2085, 70), "not close"),
    ),
    "another_stream": ("cuda/device.cuh", "  config.stream =", "  (void)", pair(5, 3), "not the caller's"),
    "launch_not_checked": (
        *("cuda/device.cuh", "check(cudaLaunchKernelEx(&config, kernel, arguments...), operation)"),
        *(UNCHECKED, check_refusal, "DID NOT RAISE"),
    ),
}


@pytest.fixture(scope="module")
def faulty(emulator_builder: Builder) -> dict[str, Callable[[], Emulator]]:
    return begin_faults(emulator_builder, "loss.cu", MEMORY, {name: fault[:3] for name, fault in FAULTS.items()})


def test_where_no_fault_is_on_none_is_found(faulty: dict[str, Callable[[], Emulator]]) -> None:
    with contextlib.closing(without_faults(faulty["no_tail_guard"])) as emulator:
        for check in (pair(2085, 70), pair(2085, 70, 1), points, check_refusal):
            check(emulator)


@pytest.mark.parametrize("name", FAULTS)
def test_R23_a_planted_fault_is_found(name: str, faulty: dict[str, Callable[[], Emulator]]) -> None:
    check, report = FAULTS[name][3:]
    with contextlib.closing(faulty[name]()) as emulator:
        with pytest.raises((AssertionError, pytest.fail.Exception), match=report):
            check(emulator)


RACING = ("no_barrier_before", "no_barrier_between", "every_lane_writes")


@pytest.fixture(scope="module")
def racing(emulator_builder: Builder) -> dict[str, Callable[[], Emulator]]:
    return begin_faults(emulator_builder, "loss.cu", RACES, {name: FAULTS[name][:3] for name in RACING})


@pytest.mark.parametrize("name", RACING)
def test_R23_a_removed_barrier_is_a_race_under_every_schedule(
    name: str, racing: dict[str, Callable[[], Emulator]]
) -> None:
    with contextlib.closing(racing[name]()) as emulator:
        with pytest.raises(AssertionError, match=r"race in shared memory: .* at device\.cuh:\d+|never written"):
            check_pair(emulator, 0, torch.float32, 5, 3)
