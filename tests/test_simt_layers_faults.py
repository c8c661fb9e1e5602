"""The checks of tests/test_simt_layers.py find planted faults: each is the kind of mistake that they are there for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from emulator import MEMORY, NEEDS, RACES, Emulator, Flavour, without_faults
from test_simt_layers import CHECKS

pytestmark = NEEDS
OVERFLOW = "heap-buffer-overflow"
NOISE_GUARD = "at + j >= 0 && at + j < n"
HERE = "__syncthreads();"
BARRIER, UNLESS = f"  {HERE}\n", f"  if (!FAULT) {HERE}\n"
SUMMED = "leaves other bits|not close|off by"
RACE = r"race in shared memory: .* at \w+\.cu:\d+|never written"
INSIDE = "if (first + row < net.rows) {\n        const int64_t at = (first + row) * inputs"
SUMS = "P::value(sum, i);\n"

# name -> source, the old text, the new text, the build, and what it says
FAULTS: dict[str, tuple[str, str, str, Flavour, str]] = {
    "noise_tail": ("random.cu", NOISE_GUARD, "at + j >= 0 && (FAULT || at + j < n)", MEMORY, OVERFLOW),
    "noise_head": ("random.cu", "at + j >= 0 &&", "(FAULT || at + j >= 0) &&", MEMORY, OVERFLOW),
    "mask_tail": ("random.cu", "if (column + j < features)", "if (FAULT || column + j < features)", MEMORY, OVERFLOW),
    "rows_tail": ("mlp.cu", "end < t.rows ? end", "FAULT || end < t.rows ? end", MEMORY, OVERFLOW),
    "column_guard": (
        *("mlp.cu", "if (here.column >= tiling.columns) return;"),
        *("if (!FAULT && here.column >= tiling.columns) return;", MEMORY, f"{OVERFLOW}|off by"),
    ),
    "shared_too_small": ("mlp.cu", "T[V][kThreads])", "T[V][kThreads / 2])", MEMORY, "out of bounds"),
    "no_barrier": ("mlp.cu", BARRIER, UNLESS, RACES, RACE),
    "no_barrier_by_schedule": ("mlp.cu", BARRIER, UNLESS, MEMORY, SUMMED),
    "barrier_for_some": (
        *("mlp.cu", BARRIER, "  if (threadIdx.x < 40) __syncthreads();\n", MEMORY),
        "not all threads arrive",
    ),
    "sums_lost": ("mlp.cu", "int row = 1; row < kRows", "int row = FAULT ? 2 : 1; row < kRows", MEMORY, SUMMED),
    "winner_forgotten": (
        "mlp.cu",
        "winner[i] = largest.winner",
        "winner[i] = FAULT ? 0 : largest.winner",
        MEMORY,
        "off by",
    ),
    "orders_exchanged": (
        *("mlp.cu", "second.z, to_grad.at[j] = second.grad"),
        *("FAULT ? second.grad : second.z, to_grad.at[j] = FAULT ? second.z : second.grad", MEMORY, SUMMED),
    ),
    "first_for_second": (
        *("mlp.cu", "again = read<S, V>(x.grad_grad, at)", "again = FAULT ? grad : read<S, V>(x.grad_grad, at)"),
        *(MEMORY, SUMMED),
    ),
    "strip_tail": (
        *("small_mlp.cu", "if (inside) layer.grad_product", "if (FAULT || inside) layer.grad_product", MEMORY),
        OVERFLOW,
    ),
    "input_tail": ("small_mlp.cu", INSIDE, INSIDE.replace("first +", "FAULT || first +", 1), MEMORY, OVERFLOW),
    "depth_tail": ("small_mlp.cu", "k0 + k < depth ? from", "FAULT || k0 + k < depth ? from", MEMORY, "off by"),
    "columns_shared": (
        *("small_mlp.cu", "int(threadIdx.x) / 32 * kTile; column0"),
        *("FAULT ? 0 : int(threadIdx.x) / 32 * kTile; column0", RACES, RACE),
    ),
    "input_not_there": ("small_mlp.cu", HERE + "  // `input` is complete", f"if (!FAULT) {HERE}", RACES, RACE),
    "input_still_read": ("small_mlp.cu", HERE + "  // `input` was read", f"if (!FAULT) {HERE}", RACES, RACE),
    "grad_not_there": ("small_mlp.cu", HERE + "  // `grad` is complete", f"if (!FAULT) {HERE}", RACES, RACE),
    "sums_not_there": ("small_mlp.cu", SUMS + BARRIER, SUMS + UNLESS, RACES, RACE),
    "sums_not_there_by_schedule": ("small_mlp.cu", SUMS + BARRIER, SUMS + UNLESS, MEMORY, SUMMED),
    "a_warp_forgotten": (
        *("small_mlp.cu", "int w = 0; w < kWarps; ++w", "int w = FAULT ? 1 : 0; w < kWarps; ++w", MEMORY, SUMMED),
    ),
    "bias_of_another": (
        *("small_mlp.cu", "store(layer.grad_bias[column]", "store(layer.grad_bias[FAULT ? i % 3 : column]"),
        *(MEMORY, SUMMED),
    ),
    "step_tail": (
        *("optimizer.cu", "first + kBlockElements < m.n ?", "FAULT || first + kBlockElements < m.n ?"),
        *(MEMORY, OVERFLOW),
    ),
    "step_alignment": (
        *("optimizer.cu", "aligned = is_aligned(u.value) &&", "aligned = FAULT || is_aligned(u.value) &&", MEMORY),
        "misaligned address",
    ),
    "step_remainder": (
        "optimizer.cu",
        "done = last / size * size;",
        "done = FAULT ? last : last / size * size;",
        MEMORY,
        "not close",
    ),
}


@pytest.mark.parametrize("name", ["noise_tail", "rows_tail", "strip_tail", "columns_shared", "step_tail"])
def test_where_no_fault_is_on_none_is_found(name: str, faulty: dict[str, Callable[[], Emulator]]) -> None:
    with contextlib.closing(without_faults(faulty[name])) as emulator:
        CHECKS[FAULTS[name][0]](emulator)


@pytest.mark.parametrize("name", FAULTS)
def test_R23_a_planted_fault_is_found(name: str, faulty: dict[str, Callable[[], Emulator]]) -> None:
    with contextlib.closing(faulty[name]()) as emulator:
        with pytest.raises(AssertionError, match=FAULTS[name][-1]):
            CHECKS[FAULTS[name][0]](emulator)
