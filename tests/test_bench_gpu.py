"""The GPU benchmark on a stand-in for CUDA: what it would do there, it does without an error."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgan.apps.bench import baselines_torch
from fastgan.apps.reproduce import trials

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))
import gpu  # noqa: E402
import gpu_losses  # noqa: E402


class _Graph:
    def replay(self) -> None:
        """The captured calls have left their results."""


CUDA = SimpleNamespace(
    synchronize=lambda: None,
    Stream=lambda: SimpleNamespace(wait_stream=lambda other: None),
    current_stream=lambda: SimpleNamespace(wait_stream=lambda other: None),
    stream=lambda side: contextlib.nullcontext(),
    CUDAGraph=_Graph,
    graph=lambda captured, capture_error_mode: contextlib.nullcontext(),
    memory_allocated=lambda: 0,
    max_memory_allocated=lambda: 0,
    reset_peak_memory_stats=lambda: None,
    get_device_name=lambda: "a stand-in",
)


class _Torch:
    """torch with CUDA played by the CPU."""

    cuda = CUDA

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty(self, *shape: int, device: str) -> Tensor:
        assert device == "cuda"
        return torch.empty(*shape)

    def randn(self, *shape: int, device: str = "cpu", **options: Any) -> Tensor:
        return torch.randn(*shape, **options)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_losses, "torch", _Torch())
    monkeypatch.setattr(baselines_torch, "torch", _Torch())
    monkeypatch.setattr(Tensor, "cuda", lambda self: self)
    to = nn.Module.to
    monkeypatch.setattr(nn.Module, "to", lambda self, device, *more: to(self, "cpu", *more))
    monkeypatch.setattr(gpu_losses, "SIZES", (64, 128, 256))
    monkeypatch.setattr(gpu_losses, "WIDTHS", ((16, 8),))
    monkeypatch.setattr(gpu_losses, "SMALL", ((2, 8, 4),))
    monkeypatch.setattr(gpu_losses, "jax_side", lambda *logits: None)


@pytest.mark.usefixtures("stand_in")
def test_the_gpu_benchmark_compares_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "losses.json"
    monkeypatch.setattr(sys, "argv", ["gpu_losses.py", str(out), "--quick"])
    gpu_losses.main()
    content = json.loads(out.read_text())
    assert [r["case"] for r in content["records"]] == [*["discriminator_loss"] * 2, "step with R1", "mlp bf16"]
    targets = [r["target"].partition(":")[0] + ":" for r in content["records"]]
    assert targets == ["losses:", "losses:", "penalty:", "layers:"]
    steps = [gpu.Step("kernels", "passed", 1.0, "all")]
    gpu.report(gpu.Session(tmp_path / "results" / "gpu.json", 0.0, steps, content))
    assert json.loads((tmp_path / "results" / "gpu.json").read_text())["steps"][0]["outcome"] == "passed"


@pytest.mark.usefixtures("stand_in")
def test_sides_that_differ_are_given_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = gpu_losses.eager
    monkeypatch.setattr(gpu_losses, "eager", lambda real, fake: 2 * wrong(real, fake))
    with pytest.raises(SystemExit, match="eager differs from fastgan"):
        gpu_losses.loss_case(64, 1, 1e-4, False)


@pytest.mark.usefixtures("stand_in")
def test_a_foreign_side_waits_once_a_window_and_is_converted_for_the_comparison_alone() -> None:
    did: list[str] = []

    def noted(what: str, result: Any) -> Any:
        did.append(what)
        return result

    side = gpu_losses.Foreign(
        lambda: noted("call", 1.0),
        lambda found: noted("wait", None),
        lambda found: noted("convert", (Tensor([found]),)),
    )
    gpu_losses.window(side, 3)
    assert did == ["call"] * 3 + ["wait"]
    did.clear()
    gpu_losses.check("case", {"fastgan": lambda: (Tensor([1.0]),), "JAX": side}, 1e-6)
    assert did == ["call", "wait", "convert"]


def test_the_copy_bandwidth_is_that_of_the_largest_size() -> None:
    record = {"case": "discriminator_loss", "n": 2**24, "share of the copy bandwidth": 0.9}
    assert gpu_losses.verdicts(record) == "losses: 90% of the copy bandwidth, met"


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu, "device", lambda: ("", ""))
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 1 and "no CUDA device" in capsys.readouterr().err


def test_a_step_that_fails_or_takes_too_long_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "BUILD", tmp_path)
    assert gpu.run("good", [sys.executable, "-c", "print('fine')"], 60).outcome == "passed"
    bad = gpu.run("bad", [sys.executable, "-c", "raise SystemExit('no')"], 60)
    assert bad.outcome == "failed" and bad.detail == "no"
    assert gpu.run("slow", [sys.executable, "-c", "while True: pass"], 0.2).outcome == "timed out"


def test_a_step_without_time_may_tell_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "BUILD", tmp_path)
    code = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('half of it')"
    told = gpu.run("slow", [sys.executable, "-c", code], 1.5)
    assert told.outcome == "timed out" and told.detail == "half of it"
    monkeypatch.setattr(gpu, "GRACE_S", 0.2)
    deaf = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)"
    assert gpu.run("deaf", [sys.executable, "-c", deaf], 1.5).outcome == "timed out"


@pytest.fixture
def machine_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """gpu.py on a stand-in: what it would run, and the limits; every step takes as long as it may."""
    ran: list[tuple[str, float]] = []
    now = [0.0]

    def run(name: str, command: list[str], limit_s: float, **environment: str) -> gpu.Step:
        if ran:
            assert json.loads((tmp_path / "gpu.json").read_text())["steps"][-1]["name"] == ran[-1][0]
        ran.append((name, limit_s))
        now[0] += limit_s
        return gpu.Step(name, "passed", limit_s, "")

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(gpu, "BUILD", tmp_path / "build")
    monkeypatch.setattr(gpu, "device", lambda: ("90", "a stand-in"))
    monkeypatch.setattr(gpu.shutil, "which", lambda name: f"/usr/bin/{name}")
    return ran


@pytest.mark.parametrize(("options", "seconds"), [([], 520), (["--quick"], 170)], ids=["all", "quick"])
def test_all_steps_together_keep_one_deadline_and_each_is_written_down(
    options: list[str],
    seconds: float,
    tmp_path: Path,
    machine_of_steps: list[tuple[str, float]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "gpu.json"), *options])
    assert gpu.main() == 1  # the last found no time
    assert 0 < sum(limit for _, limit in machine_of_steps) <= seconds < 600
    written = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    names = [step["name"] for step in written]
    assert names[:2] == ["build", "kernels"] and {"bench", "gpu_losses"} <= set(names)
    assert options or names[-4:] == list(gpu.SANITIZERS) and {"graph tests", "pacgan 2000", "pacgan 5000"} <= set(names)
    assert written[-1]["outcome"] == "timed out" and "no time was left" in capsys.readouterr().out


def test_settings_of_a_plugin_that_is_missing_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\ntimeout = 300\n" in gpu.settings()
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    assert "\ntimeout" not in gpu.settings() and "--strict-config" in gpu.settings()


def test_looking_for_waits_survives_the_warning_and_ends(
    monkeypatch: pytest.MonkeyPatch, nothing_waits: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    """As torch does: the mode is set, then the first call warns, which is an error in tests."""
    modes: list[str] = []

    def set_mode(mode: str) -> None:
        modes.append(mode)
        if len(modes) == 1:
            warnings.warn("a prototype feature", stacklevel=1)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    with pytest.raises(RuntimeError, match="it waited"), nothing_waits():
        raise RuntimeError("it waited")
    assert modes == ["error", "default"]


# ---------------------------------------------------------------- what is made of the commands' files


def test_what_the_bench_has_written_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where it was stopped: the file is that of the rows before."""
    monkeypatch.setattr(gpu, "BUILD", tmp_path)
    fast = {"workload": "toy-32", "rule": "times", "value": 61.0, "least": 60.0, "verdict": "met"}
    few = {"workload": "toy-32", "rule": "waits", "value": 2.0, "most": 1.0, "verdict": "missed"}
    commands: list[list[str]] = []

    def run(name: str, command: list[str], limit_s: float, **environment: str) -> gpu.Step:
        commands.append(command)
        (tmp_path / "train-a-gpu.json").write_text(
            json.dumps({"lower_bounds": {"launch_s": 2e-6}, "targets": [fast, few]})
        )
        return gpu.Step(name, "timed out", limit_s, "")

    monkeypatch.setattr(gpu, "run", run)
    (tmp_path / "bench.log").write_text("toy-32: timing\nlower bounds of a GPU, measured in this run\n  launch: 2 us\n")
    session = gpu.Session(tmp_path / "gpu.json", gpu.time.monotonic() + 500)
    gpu.bench(session, "a-gpu", False, 100)
    gpu.report(session)
    out = capsys.readouterr().out
    assert "launch: 2 us" in out and "timing" not in out
    assert "toy-32: times: 61, at least 60: met" in out and "toy-32: waits: 2, at most 1: missed" in out
    assert json.loads((tmp_path / "gpu.json").read_text())["train"]["lower_bounds"] == {"launch_s": 2e-6}
    from fastgan.apps.bench import device, measure

    assert set(gpu.ROWS) <= set(device.NAMES) and set(gpu.BASELINES) <= set(measure.CUDA_BASELINES)
    assert commands[0][commands[0].index("bench") :][:3] == ["bench", "--device", "cuda"]


def test_the_tests_on_a_gpu_are_chosen_by_a_marker_that_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    """pytest deselects everything, and is content, where no test has the marker."""
    commands: list[list[str]] = []

    def run(name: str, command: list[str], limit_s: float, **environment: str) -> gpu.Step:
        commands.append(command)
        return gpu.Step(name, "passed", limit_s, "")

    monkeypatch.setattr(gpu, "BUILD", tmp_path)
    (tmp_path / "tests").mkdir()
    monkeypatch.setattr(gpu, "run", run)
    gpu.pytest(gpu.Session(tmp_path / "gpu.json", gpu.time.monotonic() + 500), "tests", ["test_cuda.py"], 100)
    marker = commands[0][commands[0].index("-m", 2) + 1]
    assert marker in {line.partition(":")[0] for line in pytestconfig.getini("markers")}


def test_the_whole_table_is_extrapolated_from_two_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that takes 20 s to set up and 1 ms an iteration; one that takes twice as long."""
    monkeypatch.setattr(gpu, "BUILD", tmp_path)

    def run(name: str, command: list[str], limit_s: float, **environment: str) -> gpu.Step:
        steps, out = (command[command.index(option) + 1] for option in ("--steps", "--out"))
        for factor, method in enumerate(gpu.METHODS, 1):
            cell = Path(out) / f"ring-{method}"
            cell.mkdir(parents=True)
            (cell / "training.json").write_text(json.dumps({"seconds": factor * (20 + int(steps) * 1e-3)}))
        return gpu.Step(name, "passed", limit_s, "")

    monkeypatch.setattr(gpu, "run", run)
    session = gpu.Session(tmp_path / "gpu.json", gpu.time.monotonic() + 500)
    gpu.pacgan(session, 80)
    minutes = session.figures["pacgan"]["minutes"]
    assert minutes == pytest.approx(8 * 1.5 * 420 / 60)
    assert session.figures["pacgan"]["target"].endswith("at most 30: missed")
    assert all(steps % trials.EPOCH == 0 for steps in gpu.LENGTHS)  # shorter runs look more often


def test_chosen_steps_run_on_what_was_built(
    tmp_path: Path, machine_of_steps: list[tuple[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = tmp_path / "build" / "site"
    built.mkdir(parents=True)
    monkeypatch.setattr(gpu, "SITE", built)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "gpu.json"), "--only", "pacgan", "bench"])
    assert gpu.main() == 0 and built.exists()
    assert [name for name, _ in machine_of_steps] == ["bench", "pacgan 2000", "pacgan 5000"]
    assert sum(limit for _, limit in machine_of_steps) == pytest.approx(gpu.SECONDS)  # all the time there is


def test_chosen_steps_without_a_build_say_so(
    tmp_path: Path,
    machine_of_steps: list[tuple[str, float]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(gpu, "SITE", tmp_path / "nothing")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "gpu.json"), "--only", "bench"])
    assert gpu.main() == 1 and machine_of_steps == []
    assert capsys.readouterr().err == f"gpu: --only must name build too: nothing has been built in {gpu.SITE}\n"


def test_results_and_logs_lie_where_they_come_back_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From $OUT few files come back: the logs are one."""
    for name in ("BUILD", "SITE"):
        monkeypatch.setattr(gpu, name, tmp_path / name)
        (tmp_path / name).mkdir()
    monkeypatch.setattr(gpu, "device", lambda: ("90", "a stand-in"))
    monkeypatch.setattr(gpu.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("OUT", str(tmp_path / "back"))
    commands: list[list[str]] = []

    def run(name: str, command: list[str], limit_s: float, **environment: str) -> gpu.Step:
        commands.append(command)
        (gpu.BUILD / f"{name}.log").write_bytes(b"x" * gpu.LOG_BYTES + b"what it said")
        return gpu.Step(name, "passed", limit_s, "")

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--only", "bench", "losses", "--rows", "wide-2048", "wide-4096"])
    assert gpu.main() == 0
    assert {p.name for p in (tmp_path / "back").iterdir()} == {"gpu-a-stand-in.json", "logs.txt"}
    logs = (tmp_path / "back" / "logs.txt").read_text()
    assert logs.count("what it said\n") == 2 and len(logs) < 2.1 * gpu.LOG_BYTES
    rows = commands[0][commands[0].index("--workload") + 1 : commands[0].index("--baselines")]
    assert rows == ["wide-2048", "wide-4096"] and commands[0][commands[0].index("--out") + 1] == str(tmp_path / "back")
    assert commands[0][commands[0].index("--machine") + 1] == "a-stand-in-wide-2048"
