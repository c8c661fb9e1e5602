"""The SIMT emulator itself: what a GPU does comes out, and what a GPU forbids is found and named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from emulator import NEEDS, RACES, SIMT, STREAM, Builder, Emulator, Refused, Violation
from torch import Tensor

pytestmark = NEEDS
SCHEDULES = 20
THREADS = 256


@pytest.fixture(scope="module")
def emulated(emulator_builder: Builder) -> Iterator[Emulator]:
    emulator = emulator_builder.begin([SIMT / "primitives.cu"])()
    yield emulator
    emulator.close()


@pytest.fixture(scope="module")
def detector(emulator_builder: Builder) -> Iterator[Emulator]:
    emulator = emulator_builder.begin([SIMT / "primitives.cu"], RACES)()
    yield emulator
    emulator.close()


def ints(n: int, seed: int = 0) -> Tensor:
    return torch.randint(-1000, 1000, (n,), dtype=torch.int32, generator=torch.Generator().manual_seed(seed))


def primitive(
    machine: Emulator, number: int, blocks: int, n: int, x: Tensor | None, out: Tensor, more: Tensor | None = None
) -> int:
    return machine.call("primitive", number, blocks, n, x, out, more, STREAM, schedules=SCHEDULES)


# ---------------------------------------------------------------- right


def test_a_barrier_lets_a_block_turn_its_numbers_round(machine: Emulator) -> None:
    x = ints(9 * THREADS)
    out = torch.zeros_like(x)
    assert primitive(machine, 0, 9, 0, x, out) == (0 if machine.on_gpu else SCHEDULES)
    assert torch.equal(out, x.view(9, THREADS).flip(1).flatten())


def test_dynamic_shared_memory_beyond_48_kilobytes(machine: Emulator) -> None:
    x = ints(20_000)
    out = torch.zeros_like(x)
    primitive(machine, 1, 1, 20_000, x, out)
    assert torch.equal(out, x.roll(-1))
    with pytest.raises(Refused, match="invalid"):
        primitive(machine, 1, 1, 60_000, ints(60_000), ints(60_000))  # 240 kB: no GPU has that


def test_shuffles_and_votes(machine: Emulator) -> None:
    x = ints(THREADS)
    x[64:96] = 3  # a warp of odd numbers, and one of even
    x[96:128] = 4
    out = torch.zeros(THREADS, 6, dtype=torch.int32)
    primitive(machine, 2, 1, 0, x, out)
    warps = x.view(-1, 32).long()
    odd = warps % 2 != 0
    votes = (odd.long() << torch.arange(32)).sum(1)
    want = torch.stack(
        (
            warps.cumsum(1).flatten(),
            x.view(-1, 8).sum(1).repeat_interleave(8),
            warps[:, 5].repeat_interleave(32),
            votes.repeat_interleave(32).to(torch.int32).long(),
            odd.any(1).long().repeat_interleave(32),
            odd.all(1).long().repeat_interleave(32),
        ),
        dim=1,
    )
    assert torch.equal(out.long(), want)


def test_atomics_and_the_block_that_ends_last(machine: Emulator) -> None:
    x = ints(5000).remainder(4)
    bins, rest = torch.zeros(4, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    primitive(machine, 3, 7, 5000, x, bins, rest)
    assert torch.equal(bins, torch.bincount(x, minlength=4).int()) and rest.tolist() == [7, 5000]


def test_a_cooperative_grid_keeps_step(machine: Emulator) -> None:
    x = ints(6 * THREADS)
    want = x.clone()
    for _ in range(3):
        want = want + want.roll(-1)
    primitive(machine, 4, 6, 3, None, x, torch.zeros_like(x))
    assert torch.equal(x, want)


def test_a_cluster_shares_its_memory(machine: Emulator) -> None:
    x = ints(12 * THREADS)
    out = torch.zeros_like(x)
    primitive(machine, 5, 12, 0, x, out)
    assert torch.equal(out, x.view(3, 4, THREADS).roll(1, 1).flatten())


def test_shared_memory_begins_as_garbage(emulated: Emulator) -> None:
    out = torch.zeros(THREADS)
    primitive(emulated, 6, 1, 0, None, out)
    assert out.isnan().all()


# ---------------------------------------------------------------- wrong

FAULTS = (
    (0, r"(?s)no thread can go on; .*block 0: 100 of 256 threads wait for a barrier at primitives\.cu:\d+"),
    (1, r"thread \d+ of block 0 arrives at primitives\.cu:\d+ while others of its group wait at primitives\.cu:\d+"),
    (2, r"block 0: 31 of 256 threads wait for __shfl_down_sync at primitives\.cu"),
    (3, r"__shfl_down_sync at primitives\.cu:\d+ reads lane \d+, which takes no part"),
    (4, r"(?s)use-after-poison.*READ of size 4.*primitives\.cu:\d+"),
    (5, r"(?s)use-after-poison.*WRITE of size 4.*primitives\.cu:\d+"),
    (6, r"(?s)heap-buffer-overflow.*WRITE of size 4.*primitives\.cu:\d+"),
    (7, r"(?s)heap-buffer-overflow.*READ of size 4.*primitives\.cu:\d+"),
    (8, r"misaligned address .* for type 'const struct Pack', which requires 16 byte alignment"),
    (9, r"schedule \d+ leaves other bits in buffer 0 than schedule 0"),
    (10, r"schedule \d+ leaves other bits in buffer 0 than schedule 0"),
    (11, r"grid barrier at primitives\.cu:\d+ outside a cooperative launch"),
    (12, r"map_shared_rank: block \d of the cluster has ended"),
    (13, r"__shfl_sync at primitives\.cu:\d+ with mask (000000ff|ffffffff) while lanes of it wait for __shfl_sync"),
    (14, r"signed integer overflow"),
    (16, r"(?s)use-after-poison.*WRITE of size 4.*primitives\.cu:\d+"),
    (17, r"schedule \d+ leaves other bits in buffer 0 than schedule 0"),
    (18, r"(?s)use-after-poison.*READ of size 4.*primitives\.cu:\d+"),
    (19, r"schedule \d+ leaves other bits in buffer 0 than schedule 0"),
)


@pytest.mark.parametrize(("number", "report"), FAULTS, ids=[f"fault{n}" for n, _ in FAULTS])
def test_a_planted_fault_is_found_and_named(emulated: Emulator, number: int, report: str) -> None:
    x = torch.zeros(THREADS * (4 if number >= 16 else 1), dtype=torch.int32)  # of two blocks, and room
    with pytest.raises(Violation, match=report):
        emulated.call("fault", number, x, THREADS, STREAM, schedules=SCHEDULES)


def test_a_harmless_number_is_no_fault(emulated: Emulator) -> None:
    emulated.call("fault", 99, torch.zeros(THREADS, dtype=torch.int32), THREADS, STREAM, schedules=SCHEDULES)


def test_a_refused_launch_is_an_error(emulated: Emulator) -> None:
    with pytest.raises(Refused, match="primitives: CUDA says: invalid configuration argument"):
        primitive(emulated, 7, 1, 0, ints(3), ints(3))
    with pytest.raises(Refused, match="too many blocks in cooperative launch"):
        primitive(emulated, 4, 132 * 8 + 1, 0, None, ints(3), ints(3))
    with pytest.raises(Refused, match="no kernel image is available"):
        emulated.call("primitive", 0, 1, 0, ints(THREADS), ints(THREADS), None, STREAM, inject=3)
    x = ints(THREADS)
    primitive(emulated, 0, 1, 0, x, x)  # an error does not stick


# ---------------------------------------------------------------- races, whatever the schedule


def test_what_is_right_does_not_race(detector: Emulator) -> None:
    test_a_barrier_lets_a_block_turn_its_numbers_round(detector)
    test_dynamic_shared_memory_beyond_48_kilobytes(detector)
    test_shuffles_and_votes(detector)
    test_atomics_and_the_block_that_ends_last(detector)
    test_a_cooperative_grid_keeps_step(detector)
    test_a_cluster_shares_its_memory(detector)


SHARED = r"race in shared memory: thread \d+ of block 0 \w+ at primitives\.cu:\d+, .* no barrier|never written"
RACING = (
    (6, "primitive", r"reads shared memory at primitives\.cu:\d+ that was never written"),
    (9, "fault", SHARED),
    (10, "fault", SHARED),
    (15, "fault", r"race in global memory: thread \d+ of block \d wrote at primitives\.cu:\d+, .* wrote at"),
    (17, "fault", SHARED.replace("block 0", r"block \d")),
    (19, "fault", r"race in global memory: thread \d+ of block \d \w+ at primitives\.cu:\d+, .* of block \d"),
)


@pytest.mark.parametrize(("number", "entry", "report"), RACING, ids=[f"{e}{n}" for n, e, _ in RACING])
def test_a_race_is_found_under_every_schedule(detector: Emulator, number: int, entry: str, report: str) -> None:
    for seed in range(4):
        x = torch.zeros(4 * THREADS, dtype=torch.int32)
        with pytest.raises(Violation, match=report):
            if entry == "fault":
                detector.call("fault", number, x, THREADS, STREAM, seed=seed)
            else:
                detector.call("primitive", number, 1, 0, None, x, None, STREAM, seed=seed)
