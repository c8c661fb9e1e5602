"""Compare many random plans or uses of the drop-ins with their oracles, and go on later where it was stopped.

    python tests/many.py plans|drop_ins FILE FIRST LAST

FILE gets a line for each number: what differed, or nothing. The exit code is 0 where nothing differed, but for kinks
where rounding decides. The slow tests of test_random_plans.py and test_random_drop_ins.py do the same comparisons, from
their start.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from random_plans import random_plan
from test_random_drop_ins import differ as use_differs
from test_random_plans import UNDECIDED
from test_random_plans import differ as plan_differs

KINDS: dict[str, Callable[[int], str | None]] = {
    "plans": lambda number: plan_differs(random_plan(number)),
    "drop_ins": use_differs,
}


def known(file: Path) -> dict[int, str]:
    """What a file says of each number; a last line without its end was being written when the process was stopped."""
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return {int(number): found for number, _, found in (line.partition(" ") for line in lines)}


def main(kind: str, file: Path, numbers: range) -> int:
    torch.set_num_threads(1)
    done = known(file)
    file.write_text("".join(f"{number} {found}\n" for number, found in done.items()))
    with file.open("a", buffering=1) as log:
        for number in numbers:
            if number not in done:
                done[number] = " ".join((KINDS[kind](number) or "").split())
                log.write(f"{number} {done[number]}\n")
    undecided = [number for number in numbers if done[number].startswith(UNDECIDED)]
    failed = {number: done[number] for number in numbers if done[number] and number not in undecided}
    print(
        f"{len(numbers)} {kind}, numbers {numbers.start} to {numbers.stop - 1}: {len(failed)} differ, "
        f"rounding decides in {len(undecided)}"
    )
    for number, found in failed.items():
        print(f"  {number}: {found}")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2]), range(int(sys.argv[3]), int(sys.argv[4]))))
