"""The tensor cores of csrc/cuda/mma.cuh: which elements each lane holds, how factors are rounded, and what comes out.

The layouts are written down here a second time, from the tables of the PTX manual ("Matrix Fragments for mma.m16n8k8"
and "mma.m16n8k16"), so that a mapping that is wrong in a consistent way is found too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from emulator import MEMORY, NEEDS, SIMT, STREAM, Builder, Emulator, begin_faults, without_faults
from rounded import rounded
from torch import Tensor

pytestmark = NEEDS
SCHEDULES = 20
KINDS = {"tf32": 0, "tf32x3": 1, "bf16": 2, "short bf16": 3}
DEPTH = {"tf32": 8, "tf32x3": 8, "bf16": 16}
BITS = {"tf32": 11, "bf16": 8}  # of the significand

# ---------------------------------------------------------------- the manual's tables, and its rounding


def left_places(kind: str) -> list[list[tuple[int, int]]]:
    """For each lane the (row, depth) of its elements of A, in the order a0, a1, ..."""
    if kind == "bf16":
        return [
            [
                (lane // 4 + (8 if i in (2, 3, 6, 7) else 0), lane % 4 * 2 + (i & 1) + (8 if i >= 4 else 0))
                for i in range(8)
            ]
            for lane in range(32)
        ]
    return [[(lane // 4 + 8 * (i in (1, 3)), lane % 4 + 4 * (i >= 2)) for i in range(4)] for lane in range(32)]


def right_places(kind: str) -> list[list[tuple[int, int]]]:
    """For each lane the (depth, column) of its elements of B."""
    if kind == "bf16":
        return [[(lane % 4 * 2 + (i & 1) + 8 * (i >= 2), lane // 4) for i in range(4)] for lane in range(32)]
    return [[(lane % 4 + 4 * i, lane // 4) for i in range(2)] for lane in range(32)]


SUM_PLACES = [[(lane // 4 + 8 * (i >= 2), lane % 4 * 2 + (i & 1)) for i in range(4)] for lane in range(32)]


def words(values: list[float], kind: str) -> list[int]:
    """The registers that hold these elements."""
    bits = [int(b) & 0xFFFFFFFF for b in torch.tensor(values).view(torch.int32).tolist()]
    if kind == "bf16":
        return [bits[i] >> 16 | bits[i + 1] & 0xFFFF0000 for i in range(0, len(bits), 2)]
    return bits


def unsigned(x: Tensor) -> list[int]:
    return [int(i) & 0xFFFFFFFF for i in x.flatten().tolist()]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- checks: of mma.cuh, and of faults planted into it


def check_tiles(machine: Emulator, kind: str) -> None:
    """Each element of both tiles, in the register and the lane the manual names."""
    depth, parts = DEPTH[kind], 2 if kind == "tf32x3" else 1
    left, right = random(16, depth, seed=1), random(depth, 8, seed=2)
    registers = torch.zeros(32, 6 * parts, dtype=torch.int32)
    positions = torch.zeros(32, 4, 2, dtype=torch.int32)
    machine.call("tiles", KINDS[kind], left, right, registers, positions, STREAM, schedules=SCHEDULES)
    assert positions.tolist() == [[list(place) for place in lane] for lane in SUM_PLACES], "sums are elsewhere"
    base = "bf16" if kind == "bf16" else "tf32"
    highs = [rounded(left, base), rounded(right, base)]
    lows = [rounded(x - high, base) for x, high in zip((left, right), highs, strict=True)]
    mask = 0xFFFFFFFF if kind == "bf16" else 0xFFFFE000
    for lane in range(32):
        want: list[int] = []
        for a, b in (highs, lows)[:parts]:
            want += words([a[place].item() for place in left_places(kind)[lane]], kind)
            want += words([b[place].item() for place in right_places(kind)[lane]], kind)
        assert [u & mask for u in unsigned(registers[lane])] == want, f"lane {lane} holds other elements"


def check_instruction(machine: Emulator, kind: str) -> None:
    """Integers, laid out as the manual says: the sums are exact, so one wrong lane shows."""
    depth, generator = DEPTH[kind], torch.Generator().manual_seed(3)
    left, right, start = (
        torch.randint(-60, 60, shape, generator=generator).float() for shape in ((16, depth), (depth, 8), (16, 8))
    )
    registers = torch.tensor(
        [
            words([left[p].item() for p in left_places(kind)[lane]], kind)
            + words([right[p].item() for p in right_places(kind)[lane]], kind)
            for lane in range(32)
        ]
    )
    registers = torch.where(registers >= 2**31, registers - 2**32, registers).to(torch.int32)
    sums = torch.tensor([[start[place].item() for place in lane] for lane in SUM_PLACES])
    machine.call("instruction", KINDS[kind], registers, sums, STREAM, schedules=SCHEDULES)
    want = start + left @ right
    assert sums.tolist() == [[want[place].item() for place in lane] for lane in SUM_PLACES], "wrong sums"


def check_product(machine: Emulator, kind: str, m: int, n: int, k: int, scale: float = 1.0) -> Tensor:
    """Against float64, on factors rounded as the type says; returns the product."""
    a, b = random(m, k, seed=4) * scale, random(n, k, seed=5)
    out = torch.full((m, n), torch.nan)
    machine.call("product", KINDS[kind], a, b, out, m, n, k, STREAM, schedules=SCHEDULES)
    if kind != "tf32x3":
        a, b = rounded(a, kind), rounded(b, kind)
    want = a.double() @ b.double().t()
    size = a.double().abs() @ b.double().abs().t()  # what rounding errors are in proportion to
    error = ((out.double() - want).abs() / size).max().item()
    assert error <= 2.0**-23 * max(2.0, k**0.5), f"off by {error:.3g} of the terms"
    return out


def check_split(machine: Emulator) -> None:
    """Three products keep what float keeps, one does not: numbers that differ from their tf32 by almost half a unit."""
    a = torch.full((16, 8), 1 + 2.0**-11 - 2.0**-23)
    b = torch.eye(8)
    for kind, least, worst in (("tf32", 2.0**-12, 2.0**-11), ("tf32x3", 0.0, 2.0**-22)):
        out = torch.full((16, 8), torch.nan)
        machine.call("product", KINDS[kind], a, b, out, 16, 8, 8, STREAM)
        error = ((out - a).abs() / a).max().item()
        assert least <= error <= worst, f"{kind}: off by {error:.3g}"


def check_rounding(machine: Emulator, kind: str) -> None:
    """Ties, subnormals and the largest numbers through the registers."""
    ulp = 2.0 ** (1 - BITS[kind])
    tie, little = 1 + ulp / 2, 2.0**-23
    left = torch.zeros(16, DEPTH[kind])
    left[0, :7] = torch.tensor([tie, 1 + 3 * ulp / 2, -tie, tie + little, tie - little, 2.0**-130, 3.0e38])
    right = torch.zeros(DEPTH[kind], 8)
    registers = torch.zeros(32, 6, dtype=torch.int32)
    machine.call("tiles", KINDS[kind], left, right, registers, torch.zeros(32, 4, 2, dtype=torch.int32), STREAM)
    want = rounded(left, kind)
    for lane in range(4):
        held = words([want[place].item() for place in left_places(kind)[lane]], kind)
        mask = 0xFFFFFFFF if kind == "bf16" else 0xFFFFE000
        assert [u & mask for u in unsigned(registers[lane, :4])] == held


# ---------------------------------------------------------------- mma.cuh


@pytest.mark.parametrize("kind", DEPTH)
def test_each_lane_holds_what_the_manual_says(kind: str, machine: Emulator) -> None:
    check_tiles(machine, kind)


@pytest.mark.parametrize("kind", ("tf32", "bf16"))
def test_one_instruction_is_exact_on_integers(kind: str, machine: Emulator) -> None:
    check_instruction(machine, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_products_of_all_sizes(kind: str, machine: Emulator) -> None:
    for m, n, k in ((16, 8, 16), (1, 1, 1), (33, 10, 19), (5, 3, 70)):
        check_product(machine, kind, m, n, k)


@pytest.mark.parametrize("kind", ("tf32", "bf16"))
def test_factors_are_rounded_as_the_units_round_them(kind: str, machine: Emulator) -> None:
    check_rounding(machine, kind)


def test_three_products_are_as_exact_as_float(machine: Emulator) -> None:
    check_split(machine)


@pytest.mark.parametrize("kind", KINDS)
def test_infinities_give_their_limits(kind: str, machine: Emulator) -> None:
    a, b = torch.ones(16, 16), 1 + random(8, 16, seed=6) / 8
    a[0, 1], a[1, 2], a[2, 3] = torch.inf, -torch.inf, torch.nan
    b[:, 5] = -1.0
    a[3, 5], a[4, 5] = torch.inf, 3.0e38
    out = torch.zeros(16, 8)
    machine.call("product", KINDS[kind], a, b, out, 16, 8, 16, STREAM)
    assert (out[0] == torch.inf).all() and (out[1] == -torch.inf).all() and out[2].isnan().all()
    assert (out[3] == -torch.inf).all() and torch.isfinite(out[4:]).all()


# ---------------------------------------------------------------- planted faults

Check = Callable[[Emulator], None]


def tf32(machine: Emulator) -> None:
    check_tiles(machine, "tf32")
    check_instruction(machine, "tf32")
    check_rounding(machine, "tf32")


def tf32x3(machine: Emulator) -> None:
    check_product(machine, "tf32x3", 16, 8, 16)
    check_split(machine)
    test_infinities_give_their_limits("tf32x3", machine)


def bf16(machine: Emulator) -> None:
    check_tiles(machine, "bf16")
    check_instruction(machine, "bf16")


WRONG = "wrong sums|holds other elements|are elsewhere"
FAULTS: dict[str, tuple[str, str, Check, str]] = {
    "rows_interleaved": (
        "lane_group() + i / 2 * 8",
        "(FAULT ? 2 * lane_group() + i / 2 : lane_group() + i / 2 * 8)",
        tf32,
        WRONG,
    ),
    "columns_apart": (
        "2 * lane_member() + i % 2",
        "(FAULT ? lane_member() + i % 2 * 4 : 2 * lane_member() + i % 2)",
        tf32,
        WRONG,
    ),
    # Depth may be shared out in any way that is the same for both factors, as far as the product goes:
    "depth_interleaved_in_a": (
        "{at(row, k), at(row, k + 4)}",
        "{at(row, k), at(row, FAULT ? k ^ 1 : k + 4)}",
        tf32,
        WRONG,
    ),
    "halves_exchanged": (
        *("return {{pair(k), pair(k + 8)}};", "return {{pair(FAULT ? k + 8 : k), pair(FAULT ? k : k + 8)}};"),
        *(bf16, WRONG),
    ),
    "wrong_lane": (
        *("column, 8 * lane_member() + 4 + member", "column, 8 * lane_member() + (FAULT ? 0 : 4) + member"),
        *(tf32, WRONG),
    ),
    "low_times_high": ("float_of(b << 16)", "float_of(FAULT ? b & 0xffff0000u : b << 16)", bf16, WRONG),
    "cut_instead_of_rounded": ("(u + 0x1000u) & 0xffffe000u", "(FAULT ? u : u + 0x1000u) & 0xffffe000u", tf32, WRONG),
    "no_cross_term": ("if (i == 1) multiply_tf32", "if (!FAULT && i == 1) multiply_tf32", tf32x3, "off by"),
    "low_part_of_infinity": (
        *("magnitude(high) < infinity<float>() ? high", "FAULT || magnitude(high) < infinity<float>() ? high"),
        *(tf32x3, "assert"),
    ),
}


@pytest.fixture(scope="module")
def faulty(emulator_builder: Builder) -> dict[str, Callable[[], Emulator]]:
    faults = {name: ("cuda/mma.cuh", old, new) for name, (old, new, *_) in FAULTS.items()}
    return begin_faults(emulator_builder, SIMT / "products.cu", MEMORY, faults)


def test_where_no_fault_is_on_none_is_found(faulty: dict[str, Callable[[], Emulator]]) -> None:
    with contextlib.closing(without_faults(faulty["rows_interleaved"])) as emulator:
        for check in (tf32, tf32x3, bf16):
            check(emulator)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, faulty: dict[str, Callable[[], Emulator]]) -> None:
    check, report = FAULTS[name][2:]
    with contextlib.closing(faulty[name]()) as emulator:
        with pytest.raises(AssertionError, match=report):
            check(emulator)
