"""bench/profile_engine.py: functions of the compiled module belong to parts, and shares are of all samples."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastgan._backend import native

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import profile_engine  # noqa: E402

FUNCTIONS = {
    "fastgan::v4::(anonymous namespace)::multiply_tile<float, (fastgan::v4::Layout)2, float __vector(16), 14, 2>": 600,
    "fastgan::v4::(anonymous namespace)::multiply_short<14, 1>": 100,
    "fastgan::v4::each_block<float, fastgan::v4::multiply_rows<float>(long)::{lambda(long, int, int)#1}>": 50,
    "fastgan::v4::multiply_gradient<float, fastgan::v4::Update<float, fastgan::v4::Adam<float> > const&>": 50,
    "fastgan::v4::transpose_square<float>": 40,
    "fastgan::v4::activate_tile<fastgan::v4::Sigmoid, float>": 60,
    "fastgan::v4::each_block<float, fastgan::v4::maxout<float>(float const*)::{lambda(long, int, int)#1}>": 20,
    "fastgan::Barrier::wait": 30,
    "fastgan::v4::update_run<fastgan::v4::Decayed<float, fastgan::v4::Adam<float> >, float>": 30,
    "fastgan::v4::fill_random<float>": 20,
}


def test_shares_are_of_the_samples_in_the_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{count}\t_native.cpython-311-x86_64-linux-gnu.so\t[.] {name}" for name, count in FUNCTIONS.items()]
    lines += ["9999\tlibpython3.11.so.1.0\t[.] _PyEval_EvalFrameDefault", ""]
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> None:
        asked.append(command)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(subprocess, "check_output", lambda *_, **__: "\n".join(lines))
    monkeypatch.setattr(profile_engine.shutil, "which", lambda _: "perf")
    assert profile_engine.main(["mnist-256", "--seconds", "1"]) == 0
    head, _, row = capsys.readouterr().out.splitlines()
    assert "products, gradients" in head
    iterations = int(asked[0][-1])
    rate = iterations * profile_engine.flops.iteration(profile_engine.WORKLOADS["mnist-256"]) / (800 / 2000) / 1e9
    assert row.split() == [
        "mnist-256", "80%", "4%", "8%", "3%", "3%", "2%", f"{1e3 * 0.5 / iterations:.3g}", f"{rate:.0f}",
    ]  # fmt: skip


@pytest.mark.skipif(native is None, reason="the compiled core is what is profiled")
def test_the_profiled_process_trains() -> None:
    assert profile_engine.main(["tiny", "--train", "3"]) == 0


def test_perf_is_needed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(profile_engine.shutil, "which", lambda _: None)
    with pytest.raises(SystemExit):
        profile_engine.main(["tiny"])
    assert "perf must be installed" in capsys.readouterr().err
