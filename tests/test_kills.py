"""Kill -9 at random instants of runs, populations and resumes: nothing corrupt, nothing left over, the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from cases import need


def killed(folder: Path, count: int, seed: int) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kills.py")), str(folder), str(count), str(seed)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_R28_R30_kill_9_at_random_instants(tmp_path: Path) -> None:
    need("native", "mlp")  # some of the runs are compiled
    found = killed(tmp_path, 7, 1)
    assert found["kills"] >= 7 and found["faults"] == {}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_R28_R30_kill_9_at_300_random_instants(tmp_path: Path) -> None:
    found = killed(tmp_path, 300, 2)
    assert found["kills"] >= 300 and found["faults"] == {}
    kinds = found["of each kind"]
    tables = find_spec("pandas") is not None and find_spec("sklearn") is not None
    assert isinstance(kinds, dict) and len(kinds) == (10 if tables else 8)
    assert min(kinds.values()) >= 10  # runs and resumes of each
