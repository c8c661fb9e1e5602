"""Run folders in a hostile world: odd names, terminals without letters, data that moved, configs edited by hand."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, check_refusal, check_success

from fastgan.apps.cli import main
from fastgan.training import lock

pytest.importorskip("matplotlib", reason="a run draws pictures")

TINY = ("--batch-size", "16", "--width", "4", "--steps", "4", "--quiet", "--no-pictures")


def write_table(path: Path, seed: int = 0) -> Path:
    rows = np.random.default_rng(seed).normal(size=(60, 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a,b\n" + "".join(f"{x},{y}\n" for x, y in rows))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on table.csv beside its folder, that tests only read."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", str(write_table(folder / "table.csv")), *TINY, "--out", str(folder / "run")]) == 0
    return folder / "run"


def copied(trained: Path, **changes: Any) -> Path:
    """Its files in ./run; the config changed by dotted field."""
    config = json.loads((trained / "config.json").read_text())
    for name, value in changes.items():
        *path, last = name.split(".")
        part = config
        for key in path:
            part = part[key]
        part[last] = value
    for file in trained.rglob("*"):
        if file.is_file():
            target = Path("run") / file.relative_to(trained)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    Path("run/config.json").write_text(json.dumps(config))
    return Path("run")


# ---------------------------------------------------------------- names


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_a_folder_whose_name_is_no_utf8_is_read_again(run: Run) -> None:
    odd = os.fsdecode(b"r\xff\xfe")
    source = str(write_table(Path(os.fsdecode(b"t\xfe")) / "x.csv"))
    assert run("train", source, *TINY, "--out", odd)[0] == 0
    out = check_success(run("sample", odd, "--out", str(Path(odd) / "x.npy")))
    out = check_success(run("train", "--resume", "--out", odd, "--steps", "6", "--batch-size", "16"))
    assert "iteration 6" in out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_the_letters_does_not_end_a_run(
    run: Run, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    name = os.fsdecode("Ł-".encode() + b"\xff")
    assert main(["train", "ring", "--rows", "100", *TINY[:-2], "--no-pictures", "--out", name]) == 0
    terminal.flush()
    assert "samples:  fastgan sample" in terminal.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


# ---------------------------------------------------------------- data that moved


def test_data_that_moved_are_found_by_their_new_path(run: Run, trained: Path) -> None:
    folder, new = str(copied(trained, source="/gone/table.csv")), str(write_table(Path("new/elsewhere.csv")))
    for command in (("evaluate", folder), ("sample", folder, "--out", "x.png"), ("plot", folder, "--out", "p")):
        check_refusal(run(*command), "/gone/table.csv", "where the data have moved, give their new path: --data")
        check_success(run(*command, "--data", new))
    check_refusal(run("train", "--resume", "--out", folder, "--steps", "6"), "/gone/table.csv")
    out = check_success(run("train", new, "--resume", "--out", folder, "--steps", "6", "--no-pictures"))
    assert "iteration 6" in out
    assert json.loads(Path(folder, "config.json").read_text())["source"] == str(Path(new).absolute())


def test_other_data_are_refused_at_the_new_path_and_at_the_old(run: Run, trained: Path) -> None:
    other = str(write_table(Path("other.csv"), seed=1))
    message = "other.csv must hold the rows that the run was trained on, got others"
    moved, changed = str(copied(trained)), ("train", "--resume", "--steps", "6", "--out")
    for command in (("evaluate", moved), ("sample", moved, "--out", "x.png"), ("plot", moved)):
        check_refusal(run(*command, "--data", other), message)
    check_refusal(run("train", other, *changed[1:], moved), message)
    check_refusal(run(*changed, str(copied(trained, source=str(Path(other).absolute())))), message)
    wide = Path("wide.csv")
    wide.write_text("1,2,3\n" * 60)
    check_refusal(run("evaluate", moved, "--data", str(wide)), "wide.csv must have 2 features a row, got 3")


def test_a_run_from_before_fingerprints_goes_on(run: Run, trained: Path) -> None:
    folder = str(copied(trained, fingerprint=None))
    assert run("evaluate", folder, "--data", str(write_table(Path("t.csv"))))[0] == 0


def test_named_data_cannot_have_moved(run: Run) -> None:
    assert run("train", "ring", "--rows", "100", *TINY, "--out", "r")[0] == 0
    check_refusal(run("evaluate", "r", "--data", "x.csv"), "--data must be left out for a run on ring")


# ---------------------------------------------------------------- two at once


def test_a_folder_in_use_is_refused_and_kept(run: Run, trained: Path) -> None:
    held = lock.FolderLock(copied(trained))
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    resume = ("train", "--resume", "--out", "run", "--steps", "6", "--quiet")
    check_refusal(run(*resume), "run must be used by one process at a time")
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    held.release()


# ---------------------------------------------------------------- configs edited by hand


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("columns.mean", [0.0, float("nan")], "columns.mean.1 must be a finite number, got nan"),
        ("columns.std", [1.0, float("inf")], "columns.std.1 must be a finite number, got inf"),
        ("columns.std", [1.0, -1.0], "columns.std must hold a number of at least 0"),
        ("columns.mean", [0.0], "columns.mean must be a list of 2, got a list of 1"),
        ("columns.std", [1.0, 1.0, 1.0], "columns.std must be a list of 2, got a list of 3"),
        ("columns.std", ["1", 1.0], "columns.std must hold a number"),
        ("columns", {"mean": [0.0, 0.0]}, "'std' is missing"),
        ("columns", [], "columns must be an object"),
        ("image_shape", [-2, -1], "image_shape must be an integer of at least 1, got -2"),
        ("image_shape", [2, 2], "image_shape must divide the 2 features of a sample, got 2 x 2"),
        ("image_shape", [2], "image_shape must be a list of 2"),
        ("image_shape", [1.0, 2.0], "image_shape must be an integer"),
        ("value_range", [1.0, 0.0], "value_range must be the lowest and the highest value, got 1 and 0"),
        ("value_range", [0.0, "1"], "value_range must hold a number"),
        ("data_seed", -1, "data_seed must be an integer of at least 0, got -1"),
        ("data_seed", 0.5, "data_seed must be an integer"),
        ("data_seed", "0", "data_seed must be an integer"),
        ("n", 0, "n must be an integer of at least 1, got 0"),
        ("n", True, "n must be an integer"),
        ("source", "", "source must be a text"),
        ("source", None, "source must be a text"),
        ("column_names", ["a"], "column_names must be one for each of 2 columns, got 1"),
        ("column_names", [1, 2], "column_names must be a list of texts"),
        ("fingerprint", 7, "fingerprint must be a text"),
        ("networks", [], "networks must be an object"),
        ("networks.data_dim", 3, "columns.mean must be a list of 3, got a list of 2"),
        ("networks.latent_dim", True, "latent_dim must be at least 1"),
        ("networks.generator_hidden", 8, "generator_hidden must be widths, got 8"),
        ("networks.latent_dim", [8], "latent_dim must be a size, got (8,)"),
        ("networks.prior", "cauchy", "prior must be one of"),
        ("networks.dropout", 2.0, "dropout must lie in [0, 1], got 2.0"),
        ("networks.dropout", "0", "dropout must lie in [0, 1]"),
        ("train", [], "it must be described by an object"),
        ("train.seed", -1, "seed must be at least 0, got -1"),
        ("train.real_label", "1", "real_label must be a number, got '1'"),
        ("train.penalty_weight", None, "penalty_weight must be a number, got None"),
        ("train.ema_decay", "0.9", "ema_decay must be a number"),
        ("train.optimizer.lr", float("nan"), "train.optimizer.lr must be a finite number, got nan"),
        ("train.optimizer.betas", ["a", 0.9], "betas must be two numbers in [0, 1), got ('a', 0.9)"),
        ("train.optimizer.speed", 1, "optimizer must have fields of Adam: lr, betas, eps, weight_decay, got 'speed'"),
    ],
)
def test_a_config_edited_by_hand_is_refused_by_file_and_field(
    run: Run, trained: Path, name: str, value: Any, says: str
) -> None:
    folder = copied(trained, **{name: value})
    of_file = "fastgan sample: run/config.json must be the config of a run, got: "
    check_refusal(run("sample", str(folder), "--out", "x.npy"), of_file, says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"seeds": "01", "grid": {}}', "seeds must be a list of integers"),
        ('{"seeds": [0, 1.5], "grid": {}}', "seeds must be a list of integers"),
        ('{"seeds": null, "grid": {"k": 2}}', "grid must have a list of values"),
        ('{"seeds": null, "grid": {"optimizer.lr": [NaN]}}', "grid.optimizer.lr.0 must be a finite number"),
        ("[]", "must be an object"),
    ],
)
def test_a_population_edited_by_hand_is_refused(run: Run, trained: Path, text: str, says: str) -> None:
    (copied(trained) / "population.json").write_text(text)
    of_file = "fastgan train: run/population.json must describe a population"
    check_refusal(run("train", "--resume", "--out", "run"), of_file, says)


# ---------------------------------------------------------------- Ctrl-C before there is anything to save

IMPORTS = """
import os, signal, sys
sys.argv[0] = "/usr/bin/fastgan"

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "fastgan.random":
            for _ in range({times}):
                os.kill(os.getpid(), signal.SIGINT)
        return None

sys.meta_path.insert(0, Interrupts())
from fastgan.apps.cli import main
sys.exit(main(["info"]))
"""
COMMAND = """
import os, signal, sys
sys.argv[0] = "/usr/bin/fastgan"
from fastgan.apps import cli
from fastgan.apps.cli import runs, train

def interrupted(*_, **__):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        os.kill(os.getpid(), signal.SIGINT)  # while what was begun is undone
        open("undone", "w").close()

train.data.load = interrupted
code = cli.main(["train", "ring"])
os.kill(os.getpid(), signal.SIGINT)  # while the interpreter goes
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("program", "line"),
    [
        pytest.param(IMPORTS.format(times=1), "fastgan: interrupted\n", id="during imports"),
        pytest.param(IMPORTS.format(times=2), "fastgan: interrupted\n", id="twice during imports"),
        pytest.param(COMMAND, "fastgan train: interrupted\n", id="three times in a command"),
    ],
)
def test_ctrl_c_before_training_is_one_line(tmp_path: Path, program: str, line: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr, done.stdout) == (130, line, "")
    assert (tmp_path / "undone").exists() == (program == COMMAND)


def test_ctrl_c_in_a_program_that_imports_fastgan_is_the_programs(tmp_path: Path) -> None:
    program = IMPORTS.format(times=1).replace("/usr/bin/fastgan", "mine.py")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "KeyboardInterrupt" in done.stderr and done.returncode == -signal.SIGINT


def test_ctrl_c_at_the_module_is_one_line(tmp_path: Path) -> None:
    started = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "fastgan", "info"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stderr is not None
    while (line := started.stderr.readline()) and " torch." not in line:  # some part of it: the rest takes longer
        pass
    started.send_signal(signal.SIGINT)
    rest = [line for line in started.stderr.read().splitlines() if not line.startswith("import time:")]
    assert started.wait(60) == 130 and rest == ["fastgan: interrupted"]
    started.stderr.close()


COLLECTING = """
import gc, sys
sys.argv[0] = "/usr/bin/{program}"

class Imports:
    def find_spec(self, name, path=None, target=None):
        if name == "torch.nn.functional":
            print(gc.isenabled())

sys.meta_path.insert(0, Imports())
import fastgan
print(gc.isenabled(), gc.get_freeze_count() > 0)
"""


@pytest.mark.parametrize(("program", "expected"), [("fastgan", "False True True"), ("mine", "True True False")])
def test_a_command_collects_no_garbage_while_it_imports(program: str, expected: str) -> None:
    """Of what imports make hardly anything is garbage. Other programs' settings are theirs."""
    run = subprocess.run([sys.executable, "-c", COLLECTING.format(program=program)], capture_output=True, text=True)
    assert run.stdout.split() == expected.split(), run.stderr


# ---------------------------------------------------------------- too wide, too deep


def test_networks_that_do_not_fit_are_refused_before_they_are_built(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastgan.apps.cli import train as command

    monkeypatch.setattr(command, "_memory", lambda: 1 << 30)
    argv = ("train", str(write_table(Path("t.csv"))), "--batch-size", "16", "--steps", "1", "--out", "r", "--quiet")
    says = "--width must be so small that the networks fit into memory, got 2 columns and"
    check_refusal(run(*argv, "--width", "20000"), says, "GB of 1\n")
    assert not Path("r").exists()
    assert run(*argv, "--width", "4", "--no-pictures")[0] == 0


def test_the_rows_of_a_picture_fit_into_memory(trained: Path) -> None:
    import dataclasses

    from fastgan.apps.cli import pictures, runs

    config = runs.read(trained)

    def rows(columns: int) -> int:
        wide = dataclasses.replace(config, networks=dataclasses.replace(config.networks, data_dim=columns))
        return pictures._rows_for(wide)

    assert rows(2) == rows(784) == 10_000
    assert rows(1_000_000) == 100 and 100 < rows(20_000) < 1000
