"""The kernels that the benchmark takes its lower bounds with, under the emulator: they do what is timed, and no
more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from emulator import MEMORY, NEEDS, RACES, STREAM, Builder, Emulator, begin_narrow

pytestmark = NEEDS
THREADS = 256
CLUSTERS = (0, 1, 2, 8)  # 0: one block, with the barriers of a block


def check_meeting(machine: Emulator, blocks: int, barriers: int = 3) -> None:
    received = torch.full((max(1, blocks), THREADS), -1, dtype=torch.int32)
    machine.call("barrier_loop", blocks, barriers, received, STREAM, schedules=1 if machine.on_gpu else 4)
    numbers = torch.arange(received.numel(), dtype=torch.int32).view_as(received)
    assert torch.equal(received, numbers.roll(-1, 0).roll(-1, 1))


@pytest.mark.parametrize("blocks", CLUSTERS)
def test_everybody_hears_the_next(blocks: int, machine: Emulator) -> None:
    if machine.on_gpu and blocks and torch.cuda.get_device_capability()[0] < 9:
        pytest.skip("blocks form clusters from Hopper on")
    check_meeting(machine, blocks)


def test_so_many_launches_are_made(machine: Emulator) -> None:
    assert machine.call("empty", 5, STREAM) == (0 if machine.on_gpu else 5)


@pytest.fixture(scope="module")
def racing(emulator_builder: Builder) -> Iterator[Emulator]:
    emulator = begin_narrow(emulator_builder, "lower_bounds.cu", RACES)()
    yield emulator
    emulator.close()


@pytest.mark.parametrize("blocks", CLUSTERS)
def test_no_race(blocks: int, racing: Emulator) -> None:
    check_meeting(racing, blocks)


LEAVING = "  if (cluster) cluster_barrier();  // no block exits while another reads its shared memory\n"
# name -> file, the old text, the new text, the build's flavour, and what it says
FAULTS = {
    "no_barrier": ("lower_bounds.cu", "i < barriers;", "i < barriers - 3;", RACES, "race|never written"),
    "early_leave": ("lower_bounds.cu", LEAVING, "", MEMORY, "has ended"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_R23_a_planted_fault_is_found(name: str, faulty: dict[str, Callable[[], Emulator]]) -> None:
    *_, says = FAULTS[name]
    with contextlib.closing(faulty[name]()) as emulator:
        with pytest.raises(AssertionError, match=says):
            for _ in range(5):
                check_meeting(emulator, 8)
