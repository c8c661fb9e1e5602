"""The command line: a mistake gets one line and leaves nothing behind."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import TINY, Run, check_refusal

from fastgan._errors import Invalid
from fastgan.apps.cli import train as train_command
from fastgan.apps.cli.arguments import Parser, explain

pytest.importorskip("matplotlib", reason="a run draws pictures")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("train ring --batch-size 0", "fastgan train: --batch-size must be at least 1, got 0"),
        ("train ring --batch-size many", "fastgan train: --batch-size must be an integer, got 'many'"),
        ("train ring --steps -1", "fastgan train: --steps must be at least 0, got -1"),
        ("train ring --steps 0", "fastgan train: --steps must be at least 1, got 0"),
        ("train ring --k 0", "fastgan train: --k must be at least 1, got 0"),
        ("train ring --loss mse", "fastgan train: --loss must be one of"),
        ("train ring --lr -1", "fastgan train: --lr must be"),
        ("train ring --beta1 1", "fastgan train: --beta1 must lie in [0, 1), got 1.0"),
        ("train ring --beta2 nan", "fastgan train: --beta2 must lie in [0, 1), got nan"),
        ("train ring --real-label 2", "fastgan train: --real-label must lie in"),
        ("train ring --engine fused --rows 0", "fastgan train: --rows must be at least 1"),
        ("train ring --prior cauchy", "fastgan train: --prior must be one of"),
        ("train ring --latent-dim 0", "fastgan train: --latent-dim must be at least 1, got 0"),
        ("train ring --generator-hidden 8,0", "fastgan train: --generator-hidden must be at least 1, got 0"),
        ("train ring --generator-hidden 8,x", "--generator-hidden must be integers joined by commas"),
        ("train ring --dropout 1.5", "fastgan train: --dropout must"),
        ("train ring --generator-activation cube", "fastgan train: --generator-activation must be one of none, relu"),
        ("train ring --output-activation cube", "fastgan train: --output-activation must be one of none, relu"),
        ("train ring --device mars", "fastgan train: --device must"),
        ("train ring --momentum 0.5", "--momentum must come with --optimizer momentum"),
        ("train ring --rows 10 --batch-size 20", "--batch-size must be at most the 10 rows"),
        ("train ring --speed 3", "unrecognized arguments: --speed 3"),
        ("train ring --bat 3", "unrecognized arguments: --bat 3"),
        ("train ring --steps", "fastgan train: --steps expected one argument"),
        ("train", "fastgan train: SOURCE must be given"),
        ("train rign", "no data set or file 'rign'; did you mean 'ring'?"),
        ("train no/such/file.csv", "no data set or file 'no/such/file.csv'"),
        ("train text.csv", "text.csv"),
        ("train cut.npy", "truncated"),
        ("train nan.npy", "nan.npy"),
        ("train empty.csv", "empty.csv"),
        ("train ring --out file/run", "--out must be a folder that can be made, got file/run"),
        ("train ring --out full", "--out must be new or empty"),
        ("train --resume --out nowhere", "nowhere is no run folder"),
        ("train ring --resume", "--out must be given with --resume"),
        ("sample nowhere --out x.npy", "fastgan sample: nowhere is no run folder"),
        ("sample full --out x.npy", "full is no run folder"),
        ("sample nowhere --out x.doc", "--out must end in .npy, .csv, .png"),
        ("sample nowhere --out no/such/x.npy", "--out must lie in an existing folder"),
        ("sample nowhere --out x.npy --n 0", "fastgan sample: --n must be at least 1, got 0"),
        ("sample nowhere", "the following arguments are required: --out"),
        ("plot nowhere", "RUN_DIR must be a run folder, or a picture: losses"),
        ("plot losses --out costs.doc", "must end in .png, .svg or .pdf"),
        ("plot losses --out no/such/costs.png", "no/such/costs.png"),
        ("dance", "invalid choice: 'dance'"),
    ],
)
def test_M80_mistakes_get_one_line_and_leave_nothing(run: Run, argv: str, says: str) -> None:
    Path("file").write_text("not a folder")
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    Path("text.csv").write_text("a,b\n1,2\n3,four\n")
    Path("empty.csv").write_text("")
    np.save("whole.npy", np.zeros((50, 3), np.float32))
    Path("cut.npy").write_bytes(Path("whole.npy").read_bytes()[:-40])
    np.save("nan.npy", np.array([[1.0, np.nan]] * 200))
    before = {path: path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}
    check_refusal(run(*argv.split()), says)
    after = {path: path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}
    assert after == before


def test_a_refusal_by_training_itself_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, run_dir: Path, **options: Any) -> None:
        (run_dir / "checkpoint").mkdir()
        (run_dir / "history.csv").write_text("step,loss_d\n")
        raise Invalid("train").value("config.engine", "must be\n'eager', got 'fused'")

    monkeypatch.setattr(train_command, "train", refuse)
    check_refusal(run("train", "ring", *TINY, "--out", "a/b"), "train: --engine must be 'eager', got 'fused'")
    assert list(Path().iterdir()) == []


def test_an_error_of_the_library_is_said_in_the_words_of_the_command_line() -> None:
    command = Parser(description="train")
    command.add_argument("--batch-size")
    for subject, said in (("config.batch_size", "--batch-size"), ("config.k", "k"), ("gan.classes", "gan.classes")):
        error = Invalid("train").value(subject, "must be at least 1,\ngot 0")
        assert str(error) == f"train: {subject} must be at least 1,\ngot 0"
        assert explain(error, command) == f"{said} must be at least 1, got 0"
        assert explain(pickle.loads(pickle.dumps(error)), command) == explain(error, command)
    assert explain(Invalid("read")(FileNotFoundError, "no such file: x.csv")) == "no such file: x.csv"
    assert explain(FileNotFoundError(2, "No such file", "x.csv")) == "x.csv: No such file"
    assert explain(KeyError()) == "KeyError"


def test_resume_refuses_another_run(run: Run, ring: Path) -> None:
    before = {path: path.read_bytes() for path in ring.rglob("*") if path.is_file()}
    out = ("--out", str(ring), "--resume")
    check_refusal(run("train", "grid", *out), "SOURCE must be ring")
    check_refusal(run("train", *out, "--rows", "100"), "--rows must be 200")
    check_refusal(run("train", *out, "--beta1", "0.1"), "optimizer must be")
    check_refusal(run("train", *out, "--width", "9"), "networks must be")
    check_refusal(run("train", *out, "--steps", "3"), "--steps must be at least")
    check_refusal(run("train", "ring", "--out", str(ring)), "--out must be new or empty")
    assert {path: path.read_bytes() for path in ring.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"format": 2}', '{"format": 1}', "\x00", "[" * 100_000])
def test_a_damaged_config_is_named(run: Run, text: str) -> None:
    Path("r").mkdir()
    Path("r/config.json").write_text(text)
    check_refusal(run("sample", "r", "--out", "x.npy"), "r/config.json must be the config of a run")
    assert not Path("x.npy").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("networks", {"data_dim": 2, "evil": 1}), ("train", {"steps": "x"}), ("columns", {})]
)
def test_a_config_with_wrong_parts_is_named(run: Run, ring: Path, name: str, value: Any) -> None:
    config = json.loads((ring / "config.json").read_text()) | {name: value}
    Path("r").mkdir()
    Path("r/config.json").write_text(json.dumps(config))
    check_refusal(run("sample", "r", "--out", "x.npy"), "r/config.json must be the config of a run")


def test_a_damaged_checkpoint_is_refused(run: Run, ring: Path) -> None:
    Path("r/checkpoint").mkdir(parents=True)
    Path("r/config.json").write_bytes((ring / "config.json").read_bytes())
    check_refusal(run("sample", "r", "--out", "x.npy"), "checkpoint")
    for path in (ring / "checkpoint").iterdir():
        blob = bytearray(path.read_bytes())
        if path.suffix == ".safetensors":
            blob[len(blob) // 2] ^= 1
        Path("r/checkpoint", path.name).write_bytes(blob)
    check_refusal(run("sample", "r", "--out", "x.npy"), "checkpoint")
    check_refusal(run("train", "--resume", "--out", "r", "--steps", "30"), "checkpoint")
    assert not Path("x.npy").exists()
