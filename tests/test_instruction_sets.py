"""The training engine on every instruction set that this processor has, not only on the best one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fresh
import pytest

from fastgan import backend

pytestmark = pytest.mark.skipif(backend.native is None, reason="the compiled core is what has instruction sets")


@pytest.mark.parametrize("isa", ("v2", "v3", "v4"))
def test_the_engines_table_holds_on(isa: str) -> None:
    if backend.native.build_info()["instruction_set"] == isa:
        pytest.skip(f"{isa} is what the other tests ran")
    probe = fresh.run("import fastgan", FASTGAN_ISA=isa)
    if probe.returncode:
        pytest.skip(probe.stderr.strip().splitlines()[-1])
    table = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_fused.py", "-k", "equals_eager"]
    environment = os.environ | {"FASTGAN_ISA": isa}
    run = subprocess.run(table, env=environment, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert run.returncode == 0, run.stdout[-3000:]
    assert " passed" in run.stdout
