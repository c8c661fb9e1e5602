"""The benchmarks: they run, write what they promise, and refuse to give a time where results differ."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cases import need
from torch.nn import functional as F

import fastgan
from fastgan._backend import native
from fastgan.apps.bench import harness

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))
import bench_dcgan  # noqa: E402
import bench_drop_in_grid  # noqa: E402
import bench_in_others_code  # noqa: E402
import bench_install  # noqa: E402
import bench_losses  # noqa: E402
import bench_mlp  # noqa: E402
import loss_table  # noqa: E402

QUICK = harness.Settings(threads=(1,), windows=3, window_s=1e-4, warmup_s=1e-4, quick=True)
OPTIONS = {
    bench_losses: ["--quick", "--no-compile"],
    bench_mlp: ["--quick", "--only", "tiny", "original D"],
    bench_in_others_code: ["--quick", "--threads", "1", "--only", "6-32-32-1, 64: grad", "ALAD"],
    bench_drop_in_grid: ["--quick"],
    bench_install: ["--quick"],
    bench_dcgan: ["--quick", "--threads", "1", "--sizes", "8", "--width", "4", "--batch", "8"],
    loss_table: [],
}


def run(script: ModuleType, folder: Path) -> int:
    """The script with its tiny options; results go to folder."""
    code: int = script.main([*OPTIONS[script], "--out", str(folder), "--machine", "here"])
    return code


def written(folder: Path) -> dict[str, Any]:
    """The record of the one benchmark that wrote to folder, with its picture."""
    (record,) = folder.glob("*-here*.json")
    assert record.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert len(list(folder.iterdir())) == 2, "a temporary file was left behind"
    content: dict[str, Any] = json.loads(record.read_text())
    return content


def constant(name: str, values: list[float], calls: list[str] | None = None) -> harness.Side:
    """A side that gives these values, and notes each timed call."""
    return harness.Side(
        name, lambda: calls.append(name) if calls is not None else None, lambda: {"y": torch.tensor(values)}
    )


# ---------------------------------------------------------------- the scripts


def test_dcgan_times_both_sides_of_the_same_networks(tmp_path: Path) -> None:
    assert run(bench_dcgan, tmp_path) == 0
    (case,) = json.loads((tmp_path / "dcgan-here-quick.json").read_text())["cases"]
    assert {bench_dcgan.FASTGAN, bench_dcgan.PLAIN} <= set(case["sides"])
    assert case["tolerance"]["relative difference from float64"][bench_dcgan.FASTGAN].keys() == {"images", "logits"}


def test_losses_writes_every_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bench_losses, tmp_path) == 0
    record = written(tmp_path)
    assert {(c["loss"], c["wiring"], c["threads"]) for c in record["cases"]} == {
        (loss, wiring, threads)
        for loss in ("discriminator", "generator")
        for wiring in ("output", "leaf")
        for threads in (1, 2)
    }
    for case in record["cases"]:
        assert max(case["ulp"].values()) <= bench_losses.ULP
        assert {"fastgan", "fastgan again", bench_losses.EAGER} <= set(case["sides"])
        assert case["tolerance"]["relative difference from float64"][bench_losses.EAGER].keys() == case["ulp"].keys()
    assert record["machine"]["processor"]["model"] and record["machine"]["fastgan"]["torch"] == torch.__version__
    out = capsys.readouterr().out
    assert "QUICK RUN" in out and "vs eager" in out


def test_mlp_writes_every_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need("native", "mlp")
    assert run(bench_mlp, tmp_path) == 0
    cases = written(tmp_path)["cases"]
    assert {(c["name"], c["with_input"]) for c in cases} == {
        (name, with_input) for name in ("tiny", "original D") for with_input in (False, True)
    }
    for case in cases:
        checked = case["tolerance"]["relative difference from float64"][bench_mlp.EAGER]
        assert ("grad_x" in checked) == case["with_input"]
        assert (bench_mlp.FUSED in case["sides"]) == (case["name"] == "tiny")
        assert case["gflops"]["fastgan.nn"] > 0 and case["share_of_peak"]["fastgan.nn"] > 0
    assert "nn.Sequential" in capsys.readouterr().out


def test_mlp_counts_the_operations_of_the_products() -> None:
    shape = bench_mlp.Shape("", (3, 5, 2), batch=7)
    assert bench_mlp.operations(shape, with_input=True) == 3 * 2 * 7 * (3 * 5 + 5 * 2)
    assert bench_mlp.operations(shape, with_input=False) == 2 * 7 * (2 * 3 * 5 + 3 * 5 * 2)
    maxout = bench_mlp.Shape("", (3, 5, 2), batch=7, pieces=4)
    assert bench_mlp.operations(maxout, with_input=True) == 3 * 2 * 7 * (3 * 20 + 5 * 2)


def test_loss_table_shows_torch_wrong_and_fastgan_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(loss_table, tmp_path) == 0
    table = written(tmp_path)["table"]
    assert len(table) == 2 * 2 * len(loss_table.LOGITS)
    assert max(r["fastgan ulp"] for r in table) <= 2.0
    out = capsys.readouterr().out
    assert "0.8% off" in out and "NaN" in out
    assert out.count("\n| ") == 2 * (len(loss_table.LOGITS) + 1)


def test_install_reports_the_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bench_install, tmp_path) == 0
    record = written(tmp_path)
    assert record["import"]["median_s"] > 0 and record["import"]["starts"] == 1
    assert record["left out"] == {"cpu": "quick run", "cuda": "quick run"}
    assert "import fastgan adds" in capsys.readouterr().out


# A project that pip builds in a moment: its own backend writes a wheel of the one module that CHECK imports.
PROJECT = {
    "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "tiny_backend"\nbackend-path = ["."]\n'
    '[project]\nname = "fastgan"\nversion = "0"\n',
    "fastgan.py": "discriminator_loss = lambda real, fake: LOSS\nbackend_info = lambda: {'native': {'cuda': ''}}\n",
    "tiny_backend.py": """
import zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    assert config_settings == {"cmake.define.FASTGAN_CUDA": "OFF"}, config_settings
    info = "fastgan-0.dist-info/"
    with zipfile.ZipFile(folder + "/fastgan-0-py3-none-any.whl", "w") as wheel:
        wheel.write("fastgan.py")
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: fastgan\\nVersion: 0\\n")
        tags = "Generator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\n" + tags)
        wheel.writestr(info + "RECORD", "")
    return "fastgan-0-py3-none-any.whl"
""",
}


@pytest.mark.slow
def test_tables_are_timed_and_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    import bench_tabular

    monkeypatch.setattr(bench_tabular, "has_ctgan", lambda: False)
    options = ["--quick", "--only", "wine", "--out", str(tmp_path), "--machine", "here"]
    assert bench_tabular.main(options) == 0
    (table,) = written(tmp_path)["tables"]
    assert table["rows"] == 178 and table["fastgan"]["per 100 updates"]["cpu"] > 0 and "ctgan" not in table
    assert "ratio" in capsys.readouterr().out
    for only in ("diabetes", "wine"):
        assert bench_tabular.main(["--quick", "--only", only, *options[3:], "--resume"]) == 0
    assert [table["table"] for table in written(tmp_path)["tables"]] == ["wine", "diabetes"]


def test_qualities_have_a_mean_and_an_error() -> None:
    pytest.importorskip("pandas")
    import bench_tabular

    side = {
        "sdmetrics": 0.5, "efficacy": None, "mean_ks": 0.1, "mean_tv": None, "pairs": {"mean_tv": 0.2},
        "detection": {"auc": 0.9}, "privacy": {"closer_than_5_percent": 0.05}, "training": {"cpu": 2.0},
    }  # fmt: skip
    records = [{"table": "wine", side_: side | {"sdmetrics": x}} for x in (0.5, 0.7) for side_ in ("fastgan",)]
    found = bench_tabular.summary([record | {"ctgan": side} for record in records])["wine"]
    assert found["SDMetrics quality"] == {"fastgan": pytest.approx((0.6, 0.1)), "ctgan": pytest.approx((0.5, 0.0))}
    assert "efficacy" not in found and found["training, processor s"]["ctgan"] == pytest.approx((2.0, 0.0))


def test_loops_of_others_run_on_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bench_in_others_code, tmp_path) == 0
    cases = written(tmp_path)["cases"]
    assert [case["loop"] for case in cases] == ["6-32-32-1, 64: gradient penalty", "ALAD"]
    for case in cases:
        assert case["clock"] == "cpu" and case["ratio"]["plain PyTorch"] > 0
    assert "plain" in capsys.readouterr().out


def test_the_grid_of_shapes_is_measured_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bench_drop_in_grid, tmp_path) == 0
    cases = written(tmp_path)["cases"]
    assert [(c["inputs"], c["outputs"], c["batch"]) for c in cases] == bench_drop_in_grid.QUICK
    for case in cases:
        assert {"fastgan.fuse", "native calls", "plain PyTorch"} <= set(case["sides"]) and case["clock"] == "cpu"
        assert case["the rule takes native calls"] is (native is not None)  # in tests, everything is fused
    assert "fastgan.fuse is slower than plain PyTorch at" in capsys.readouterr().out
    assert bench_drop_in_grid.main(["--quick", "--resume", "--out", str(tmp_path), "--machine", "here"]) == 0
    assert written(tmp_path)["cases"] == cases, "nothing is measured twice"
    capsys.readouterr()
    assert bench_drop_in_grid.main(["--worst", "1", "--quick", "--out", str(tmp_path), "--machine", "here"]) == 0
    shown = capsys.readouterr().out
    lowest = min(cases, key=lambda c: c["ratio"]["plain PyTorch"])
    assert f"{lowest['inputs']} x {lowest['outputs']}, batch {lowest['batch']}" in shown
    assert "a copy of the plain model: " in shown and written(tmp_path)["cases"] == cases, "the file stays as it is"


def test_the_worst_of_a_grid_need_one(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--worst needs the results of a grid in"):
        bench_drop_in_grid.main(["--worst", "1", "--out", str(tmp_path), "--machine", "here"])


def test_the_grid_times_native_calls_where_the_rule_leaves_them(monkeypatch: pytest.MonkeyPatch) -> None:
    need("native", "mlp")
    monkeypatch.setattr("fastgan.nn.segments.pays", lambda *_: False)
    plain = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LeakyReLU(0.2))
    fused, native_calls = fastgan.fuse(copy.deepcopy(plain)), bench_drop_in_grid.with_native_calls(plain)
    for model, name in ((fused, "LeakyReluBackward0"), (native_calls, "_MlpBackward")):
        y = bench_drop_in_grid.side("", model, (3, 4, 5)).run()
        assert y.grad_fn.name() == name


def test_a_loop_that_computes_something_else_gets_no_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: torch.nn.Module) -> torch.nn.Module:
        next(model.parameters()).data *= 1.001
        return model

    monkeypatch.setattr(bench_in_others_code.fastgan, "fuse", wrong)
    assert run(bench_in_others_code, tmp_path) == 1
    assert "gradients of fastgan.fuse departs from a float64 run" in capsys.readouterr().err
    (record,) = tmp_path.glob("*.json")
    for case in json.loads(record.read_text())["cases"]:
        assert set(case["wrong"]) == {"fastgan.fuse"} and "fastgan.fuse" not in case["sides"]


@pytest.mark.parametrize("loss", [bench_install.TRUE_LOSS, 0.5])
def test_install_builds_and_checks_what_it_built(tmp_path: Path, loss: float) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, text in PROJECT.items():
        (source / name).write_text(text.replace("LOSS", repr(loss)))
    if loss != bench_install.TRUE_LOSS:
        with pytest.raises(harness.ResultsDiffer, match="discriminator_loss gives 0.5"):
            bench_install.measure(dataclasses.replace(QUICK, quick=False), ["cpu"], 1, source)
        return
    result = bench_install.measure(dataclasses.replace(QUICK, quick=False), ["cpu"], 1, source)
    (build,) = result["builds"]
    assert build["wall_s"] == build["wheel"]["wall_s"] + build["install"]["wall_s"] and build["wheel_kB"] > 0
    assert result["import"]["installed"]
    assert [row[0] for row in bench_install.rows(result["builds"])] == ["build", "cpu"]


def test_install_refuses_a_cuda_build_without_nvcc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_install, "nvcc", lambda: None)
    found = {"seconds": 0.1, "loaded": [], "native": {}}  # the file's name is what counts here: nothing is started
    monkeypatch.setattr(bench_install, "import_once", lambda package: found)
    with pytest.raises(SystemExit, match="2"):
        bench_install.main(["--variants", "cuda", "--out", str(tmp_path)])
    assert "no nvcc here" in capsys.readouterr().err
    assert bench_install.main([*OPTIONS[bench_install], "--variants", "cpu", "--out", str(tmp_path)]) == 0
    assert [p.name.startswith("install-cpu-") for p in tmp_path.iterdir()] == [True, True]


def test_install_says_which_step_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").write_text('[build-system]\nrequires = []\nbuild-backend = "nowhere"\n')
    options = ["--variants", "cpu", "--source", str(tmp_path), "--out", str(tmp_path / "out"), "--imports", "1"]
    assert bench_install.main(options) == 1
    assert "wheel failed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- refusing


def half_a_percent_off(monkeypatch: pytest.MonkeyPatch) -> None:
    right, right_mlp = fastgan.discriminator_loss, fastgan.ops.mlp
    monkeypatch.setattr(fastgan, "discriminator_loss", lambda *a, **k: 1.005 * right(*a, **k))
    monkeypatch.setattr(fastgan.ops, "mlp", lambda *a, **k: 1.005 * right_mlp(*a, **k))


def as_inaccurate_as_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def bce(real: torch.Tensor, fake: torch.Tensor, **_: Any) -> Any:
        losses = F.binary_cross_entropy_with_logits
        return losses(real, torch.ones_like(real), reduction="none"), losses(
            fake, torch.zeros_like(fake), reduction="none"
        )

    monkeypatch.setattr(fastgan, "discriminator_loss", bce)


def other_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_install, "TRUE_LOSS", 1.0)


@pytest.mark.parametrize(("script", "side"), [(bench_losses, "fastgan"), (bench_mlp, bench_mlp.MLP)])
def test_a_wrong_side_has_no_time_and_the_others_have(
    script: ModuleType,
    side: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    half_a_percent_off(monkeypatch)
    assert run(script, tmp_path) == 1
    assert f"of {side} departs from a float64 run" in capsys.readouterr().err
    (record,) = tmp_path.glob("*.json")
    wrong = [case for case in json.loads(record.read_text())["cases"] if side in case["wrong"]]
    assert wrong and all(side not in case["sides"] and len(case["sides"]) > 1 for case in wrong)


@pytest.mark.parametrize(
    ("script", "breakage"),
    [
        (loss_table, as_inaccurate_as_torch),
        (bench_install, other_truth),
    ],
)
def test_wrong_results_give_no_time(
    script: ModuleType,
    breakage: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    breakage(monkeypatch)
    assert run(script, tmp_path) == 1
    out, err = capsys.readouterr()
    assert "results differ, so no result is given" in err
    assert script is loss_table or out == ""
    assert list(tmp_path.iterdir()) == []


def test_gradients_are_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss of the right value with a wrong gradient."""
    right = fastgan.discriminator_loss

    def wrong_derivative(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        return right(real, fake) + 0.1 * (fake - fake.detach()).mean()

    monkeypatch.setattr(fastgan, "discriminator_loss", wrong_derivative)
    assert run(bench_losses, tmp_path) == 1
    (record,) = tmp_path.glob("*.json")
    cases = [case for case in json.loads(record.read_text())["cases"] if case["loss"] == "discriminator"]
    assert cases and all("grad_fake of fastgan departs" in case["wrong"]["fastgan"] for case in cases)
