"""Progress, loggers, the best weights, and how many checkpoints remain."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastgan import GAN, models
from fastgan.training import (
    Best,
    JSONLines,
    Logger,
    MLflow,
    Run,
    TensorBoard,
    TrainConfig,
    WandB,
    checkpoint,
    train,
    train_population,
)

DATA = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))


def config(**fields: Any) -> TrainConfig:
    return TrainConfig(**{"steps": 25, "batch_size": 8, "seed": 3, **fields})


def new_gan() -> GAN:
    torch.manual_seed(0)
    return models.mlp_gan(2, latent_dim=2, hidden=(8,))


def test_lines_of_json_hold_the_means_of_the_history(tmp_path: Path) -> None:
    result = train(new_gan(), DATA, config(), callbacks=[JSONLines(tmp_path / "new" / "log.jsonl", every=10)])
    lines = [json.loads(line) for line in (tmp_path / "new" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 25]
    for first, line in zip((0, 10, 20), lines, strict=True):
        for name in ("loss_d", "loss_g", "d_real", "accuracy_fake"):
            assert line[name] == pytest.approx(result.history[name][first : line["step"]].mean(), rel=1e-12)


def test_a_logger_of_ones_own_needs_one_method() -> None:
    class Own(Logger):
        def __init__(self) -> None:
            super().__init__(every=5)
            self.seen: list[tuple[int, float]] = []

        def write(self, run: Run, means: dict[str, float]) -> None:
            self.seen.append((run.step, means["loss_g"]))

    own = Own()
    result = train(new_gan(), DATA, config(), callbacks=[own])
    assert [step for step, _ in own.seen] == [5, 10, 15, 20, 25]
    assert np.allclose([value for _, value in own.seen], result.history["loss_g"].reshape(5, 5).mean(1), rtol=1e-12)


def test_tensorboard_gets_every_column(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(new_gan(), DATA, config(steps=20), callbacks=[TensorBoard(tmp_path, every=10)])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(result.history) - {"step"}
    assert [event.step for event in events.Scalars("loss_d")] == [10, 20]
    assert events.Scalars("loss_d")[1].value == pytest.approx(result.history["loss_d"][10:].mean(), rel=1e-6)


def test_without_tensorboard_its_callback_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="TensorBoard needs the package tensorboard: pip install tensorboard"):
        TensorBoard(tmp_path)


@pytest.mark.parametrize("maximize", [False, True])
def test_the_best_weights_are_kept_and_the_run_ends_in_time(maximize: bool, tmp_path: Path) -> None:
    values = iter([3.0, math.nan, 1.0, 2.0, 1.0, 0.0])
    weights: list[torch.Tensor] = []

    def metric(gan: GAN) -> float:
        weights.append(next(gan.parameters()).detach().clone())
        return next(values) * (-1.0 if maximize else 1.0)

    best = Best(metric, every=3, patience=2, maximize=maximize, folder=tmp_path)
    result = train(gan := new_gan(), DATA, config(), callbacks=[best])
    assert result.interrupted and result.step == 15 == best.history[-1][0]  # 2.0 and 1.0 are no improvement
    assert (best.step, abs(best.value)) == (9, 1.0)
    best.restore(gan)
    assert torch.equal(next(gan.parameters()), weights[2]) and not torch.equal(weights[2], weights[4])
    kept = checkpoint.load(tmp_path)
    assert kept.step == 9 and kept.meta["metric"] == best.value and len(checkpoint.checkpoints(tmp_path)) == 1
    other = new_gan()
    kept.restore(other)
    assert torch.equal(next(other.parameters()), weights[2])


def test_the_best_weights_replace_those_of_an_earlier_run_and_of_any_step(tmp_path: Path) -> None:
    for step in (5, 900):
        checkpoint.save(tmp_path, models.mlp_gan(2, latent_dim=2, hidden=(8,)), {}, step=step)
    train(gan := new_gan(), DATA, config(steps=5), callbacks=[best := Best(lambda _: 1.0, every=5, folder=tmp_path)])
    kept = checkpoint.load(tmp_path)
    assert kept.step == best.step == 5 and len(list(tmp_path.iterdir())) == 2
    assert torch.equal(kept.gan_state()["generator.0.weight"], gan.state_dict()["generator.0.weight"])


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinite_metric_is_written_as_text(value: float, tmp_path: Path) -> None:
    train(new_gan(), DATA, config(steps=5), callbacks=[best := Best(lambda _: value, every=5, folder=tmp_path)])
    assert best.value == value and checkpoint.load(tmp_path).meta["metric"] == str(value)


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_as_many_checkpoints_remain_as_are_wanted(keep: int, tmp_path: Path) -> None:
    one = config(checkpoint_every=5, keep_checkpoints=keep)
    train(new_gan(), DATA, one, run_dir=tmp_path)
    numbers = [int(path.stem.removeprefix("step-")) for path in checkpoint.checkpoints(tmp_path / "checkpoint")]
    assert numbers == [5, 10, 15, 20, 25][-keep:]
    assert len(list((tmp_path / "checkpoint").glob("*.safetensors"))) == keep
    train(new_gan(), DATA, config(steps=26, keep_checkpoints=1), run_dir=tmp_path, resume=True)
    assert len(checkpoint.checkpoints(tmp_path / "checkpoint")) == 1


def test_progress_says_how_far_the_run_is(capsys: pytest.CaptureFixture[str]) -> None:
    train(new_gan(), DATA, config(steps=20), progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10 and lines[0].split()[0] == "2/20" and lines[-1].split()[0] == "20/20"
    train(new_gan(), DATA, config(steps=20))
    assert capsys.readouterr().err == ""


def test_the_bar_gives_the_terminal_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastgan.training import display

    bar = display.Bar(1, 20)
    closed: list[bool] = []
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(display, "Bar", lambda members, steps: bar)
    monkeypatch.setattr(bar, "close", lambda: closed.append(True))
    gan = new_gan()
    with torch.no_grad():
        next(gan.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError):
        train(gan, DATA, config(), progress=True)
    assert closed == [True]


def test_members_of_a_population_cannot_share_what_is_for_one_run(tmp_path: Path) -> None:
    for callback in (JSONLines(tmp_path / "log"), Best(lambda gan: 0.0, every=2)):
        with pytest.raises(ValueError, match=f"callbacks must be for many runs, got {type(callback).__name__}"):
            train_population(lambda seed: new_gan(), DATA, config(), seeds=range(2), callbacks=[callback])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JSONLines("x", every=0), "JSONLines: every must be an integer of at least 1, got 0"),
        (lambda: Best(lambda gan: 0.0, every=10, patience=0), "Best: patience must be an integer of at least 1, got 0"),
        (lambda: Best("fid", every=10), "Best: metric must be a function of a GAN, got 'fid'"),
        (
            lambda: train(new_gan(), DATA, config(), callbacks=[Best(lambda gan: "low", every=10)]),  # type: ignore
            "Best: metric must give one number, got 'low'",
        ),
        (
            lambda: train(new_gan(), DATA, config(), callbacks=[Best(lambda gan: torch.ones(2), every=10)]),  # type: ignore
            r"Best: metric must give one number, got tensor\(\[1., 1.\]\)",
        ),
        (lambda: Best(lambda gan: 0.0, every=10).restore(new_gan()), "Best: there must be a measurement"),
        (lambda: config(keep_checkpoints=0), "TrainConfig: keep_checkpoints must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_one_sentence(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


class Recorder:
    """A package that keeps what is called. Tests beside run the real ones where they are installed."""

    def __init__(self, active: object = None) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.active = active

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self.calls.append((name, arguments, keywords))
            return self.active if name == "active_run" else self

        return self if name == "config" else call

    def named(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(arguments, keywords) for called, arguments, keywords in self.calls if called == name]


def check_points(points: list[tuple[tuple[Any, ...], dict[str, Any]]], history: dict[str, Any]) -> None:
    assert [keywords["step"] for _, keywords in points] == [10, 20, 25]
    for first, ((means,), keywords) in zip((0, 10, 20), points, strict=True):
        assert means.keys() == history.keys() - {"step"}
        assert means["loss_g"] == pytest.approx(history["loss_g"][first : keywords["step"]].mean(), rel=1e-12)


def test_weights_and_biases_gets_config_and_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    package = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", package)
    result = train(new_gan(), DATA, config(), callbacks=[WandB(every=10, project="digits")])
    assert package.named("init") == [((), {"project": "digits"})]
    assert package.named("update")[0][0][0]["batch_size"] == 8
    check_points(package.named("log"), result.history)
    assert package.calls[-1][0] == "finish"
    own = Recorder()
    train(new_gan(), DATA, config(), callbacks=[WandB(run=own)])
    assert not own.named("finish") and not own.named("init") and own.named("log")
    with pytest.raises(ValueError, match="settings must be left out beside a run, got project"):
        WandB(run=own, project="digits")


def test_mlflow_gets_parameters_and_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    package = Recorder()
    monkeypatch.setitem(sys.modules, "mlflow", package)
    result = train(new_gan(), DATA, config(), callbacks=[MLflow(every=10, run_name="one")])
    assert package.named("start_run") == [((), {"run_name": "one"})]
    assert package.named("log_params")[0][0][0]["seed"] == 3
    check_points(package.named("log_metrics"), result.history)
    assert package.calls[-1][0] == "end_run"
    within = Recorder(active=object())  # a run of the caller's goes on
    monkeypatch.setitem(sys.modules, "mlflow", within)
    train(new_gan(), DATA, config(), callbacks=[MLflow()])
    assert within.named("log_metrics") and not within.named("start_run") and not within.named("end_run")


def test_weights_and_biases_itself_keeps_the_means(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    with wandb.init(mode="offline", dir=tmp_path) as run:
        result = train(new_gan(), DATA, config(), callbacks=[WandB(every=10, run=run)])
        assert run.config["batch_size"] == 8
    assert run.summary["loss_g"] == pytest.approx(result.history["loss_g"][20:].mean(), rel=1e-12)
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


def test_mlflow_itself_keeps_the_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the store that needs no other package
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    result = train(new_gan(), DATA, config(), callbacks=[MLflow(every=10, run_name="one")])
    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"])
    points = client.get_metric_history(run.info.run_id, "loss_g")
    assert (run.info.run_name, run.info.status, run.data.params["seed"]) == ("one", "FINISHED", "3")
    assert [point.step for point in points] == [10, 20, 25]
    assert points[-1].value == pytest.approx(result.history["loss_g"][20:].mean(), rel=1e-12)


@pytest.mark.parametrize(("logger", "name"), [(WandB, "wandb"), (MLflow, "mlflow")])
def test_a_missing_package_of_a_logger_is_named(monkeypatch: pytest.MonkeyPatch, logger: Any, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"{logger.__name__} needs {name}: pip install {name}"):
        logger()
