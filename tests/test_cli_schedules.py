"""fastgan train --schedule: which schedule each network gets, what a file and a resume make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Run, check_refusal, check_success

import fastgan
from fastgan.apps.cli import main, runs
from fastgan.training import CosineDecay, LinearDecay, StepDecay, TrainConfig, train

FAST = ("--width", "8", "--batch-size", "8", "--rows", "64", "--threads", "1", "--quiet", "--no-pictures")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def trained(*flags: str, out: str = "r") -> TrainConfig:
    assert main(["train", "gaussian", *FAST, "--out", out, *flags]) == 0
    return runs.read(Path(out)).train


@pytest.mark.parametrize(
    ("flags", "generator", "discriminator"),
    [
        ("--schedule cosine --lr 1e-3", CosineDecay(12), CosineDecay(24)),
        ("--schedule cosine --lr 1e-2 --schedule-factor 0.1 --k 1", CosineDecay(12, 1e-3), CosineDecay(12, 1e-3)),
        (
            "--schedule cosine --generator-lr 1e-2 --discriminator-lr 2e-2 --schedule-factor 0.5 --k 1",
            CosineDecay(12, 5e-3),
            CosineDecay(12, 1e-2),
        ),
        ("--schedule linear --schedule-steps 6", LinearDecay(6), LinearDecay(12)),
        ("--schedule linear --schedule-factor 0.2 --k 1", LinearDecay(12, last=0.2), LinearDecay(12, last=0.2)),
        ("--schedule step", StepDecay(4), StepDecay(8)),
        ("--schedule step --schedule-steps 5 --schedule-factor 0.5", StepDecay(5, 0.5), StepDecay(10, 0.5)),
        ("--schedule none", None, None),
        ("", None, None),
    ],
)
def test_each_network_has_the_schedule_of_its_own_updates(flags: str, generator: Any, discriminator: Any) -> None:
    """The preset makes two updates of D an iteration."""
    config = trained("--steps", "12", *flags.split())
    assert config.scheduler_of("generator")[1] == generator
    assert config.scheduler_of("discriminator")[1] == discriminator
    if generator == discriminator:
        assert config.scheduler == generator and config.generator_scheduler is None


def test_the_rates_are_those_of_torch() -> None:
    """The run of the command line is the run in Python with that scheduler, and not the one without."""
    trained("--steps", "12", "--schedule", "cosine", "--lr", "1e-2", "--checkpoint-every", "0")
    stored = runs.read(Path("r"))
    data = stored.load_data()
    with_it, without = stored.build(), stored.build()
    rows = stored.training_rows(data)
    config = stored.train
    result = train(with_it, rows, config)
    history = np.genfromtxt("r/history.csv", delimiter=",", names=True)
    assert np.allclose(history["loss_d"], result.history["loss_d"], rtol=1e-6)
    plain = fastgan.TrainConfig.from_dict(
        {**config.as_dict(), "scheduler": None, "generator_scheduler": None, "discriminator_scheduler": None}
    )
    train(without, rows, plain)
    assert not torch.equal(next(without.parameters()), next(with_it.parameters()))


def test_a_file_has_the_flags_and_a_run_is_done_again() -> None:
    Path("c.toml").write_text('schedule = "step"\nschedule_steps = 3\nschedule_factor = 0.5\nsteps = 12\n')
    config = trained("--config", "c.toml")
    assert config.scheduler_of("generator")[1] == StepDecay(3, 0.5)
    again = trained("--config", "r/config.json", out="again")
    assert again == config
    read = [json.loads(Path(f"{name}/config.json").read_text())["train"] for name in ("r", "again")]
    assert read[0] == read[1] and read[0]["generator_scheduler"]["type"] == "StepDecay"
    assert trained("--config", "r/config.json", "--schedule", "none", out="none").scheduler_of("generator")[1] is None
    assert trained("--config", "c.toml", "--schedule-steps", "2", out="over").generator_scheduler == StepDecay(2, 0.5)


def test_a_resume_keeps_the_schedule_and_refuses_another(run: Run) -> None:
    config = trained("--steps", "12", "--schedule", "linear", "--k", "1")
    resume = ("train", "--resume", "--out", "r", "--steps", "14", "--quiet", "--no-pictures")
    check_refusal(run(*resume, "--schedule", "cosine"), ": scheduler must be")
    check_refusal(run(*resume, "--lr", "1e-3"), "change must be empty where")
    check_success(run(*resume))
    assert runs.read(Path("r")).train.scheduler == config.scheduler == LinearDecay(12)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--schedule cosin", "--schedule invalid choice: 'cosin'"),
        ("--schedule-steps 5", "--schedule-steps must come with --schedule cosine, linear, step, got 5"),
        ("--schedule none --schedule-factor 0.5", "--schedule-factor must come with --schedule"),
        ("--schedule linear --schedule-factor 2", "--schedule-factor must lie in [0, 1], got 2"),
        ("--schedule step --schedule-factor 0", "--schedule-factor must lie in (0, 1], got 0"),
        ("--config c.toml", "--schedule must be one of none, cosine, linear, step, got 'cosin'"),
    ],
)
def test_a_mistake_ends_in_one_line(run: Run, flags: str, message: str) -> None:
    Path("c.toml").write_text('schedule = "cosin"\n')
    check_refusal(run("train", "gaussian", *FAST, *flags.split()), message)
    assert not Path("runs").exists()


def test_a_population_goes_on_at_another_rate() -> None:
    command = ["train", "gaussian", *FAST, "--seeds", "0:2", "--steps", "6", "--out", "many"]
    assert main(command) == 0
    resume = ["train", "--resume", "--out", "many", "--steps", "9", "--quiet", "--no-pictures", "--threads", "1"]
    assert main([*resume, "--lr", "0.5"]) == 0
    for member in ("member-0000", "member-0001"):
        assert runs.read(Path("many") / member).train.optimizer_of("discriminator").lr == 0.5  # type: ignore[union-attr]
