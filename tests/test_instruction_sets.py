"""The training engine on every instruction set that this processor has, not only on the best one."""

from __future__ import annotations

from pathlib import Path

import fresh
import pytest

from fastgan import _backend

pytestmark = pytest.mark.skipif(_backend.native is None, reason="the compiled core is what has instruction sets")

# As test_fused.py compares the two engines, in one process that has imported torch before.
TABLE = f"""
import logging
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
import torch
from fastgan import _backend
from fastgan.nn import segments
from fused_rows import ALL_ROWS, distance, run
logging.getLogger("fastgan").setLevel("ERROR")
torch.set_num_threads(1)
segments.pays = lambda *_: True
for name, row in ALL_ROWS.items():
    # After three iterations a bias may still be so small that float32's rounding is 2e-4 of it. test_fused.py makes 20.
    for dtype, tolerance, steps in ((torch.float64, 1e-10, 3), (torch.float32, 2e-4, 10)):
        eager, expected = run(row, dtype, "eager", steps=steps)
        fused, got = run(row, dtype, "fused", steps=steps)
        assert (expected.engine, got.engine) == ("eager", "cpu"), name
        assert distance(eager, fused) < tolerance, (name, dtype, distance(eager, fused))
        for column, values in expected.history.items():
            assert np.abs(values - got.history[column]).max() < tolerance, (name, dtype, column)
print(_backend.native.build_info()["instruction_set"], len(ALL_ROWS))
"""


@pytest.mark.parametrize("isa", ("v2", "v3", "v4"))
def test_the_engines_table_holds_on(isa: str) -> None:
    if _backend.native.build_info()["instruction_set"] == isa:
        pytest.skip(f"{isa} is what the other tests ran")
    probe = fresh.run("import fastgan", FASTGAN_ISA=isa)
    if probe.returncode:
        pytest.skip(probe.stderr.strip().splitlines()[-1])
    run = fresh.run(TABLE, FASTGAN_ISA=isa)
    assert run.returncode == 0, run.stderr[-3000:]
    ran_on, rows = run.stdout.split()
    assert ran_on == isa and int(rows) > 90
