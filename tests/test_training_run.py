"""train(): callbacks, interruptions, the guard against non-finite numbers, the history."""

import json
import logging
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastgan import _backend, data
from fastgan.models import GAN
from fastgan.training import Adam, Callback, Run, TrainConfig, TrainResult, checkpoint, train
from fastgan.training.history import COLUMNS, read_history, read_rows
from fastgan.training.session import ChunkSizer

DATA = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
CONFIG = TrainConfig(steps=12, batch_size=4, seed=3)


def new_gan() -> GAN:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    return GAN(generator, nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1)), latent_dim=2)


def state(gan: GAN) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in gan.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


# ------------------------------------------------------------ history, callbacks


class Log(Callback):
    def __init__(self, every: int = 0) -> None:
        self.every = every
        self.calls: list[tuple] = []

    def on_start(self, run: Run) -> None:
        self.calls.append(("start", run.step, run.engine))

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        self.calls.append(("chunk", run.step, rows["step"].tolist()))

    def on_checkpoint(self, run: Run, path: Path) -> None:
        self.calls.append(("checkpoint", run.step, path.name))

    def on_end(self, run: Run, result: TrainResult) -> None:
        self.calls.append(("end", run.step, result.step))


def test_callbacks_hear_everything_in_order(tmp_path: Path) -> None:
    log = Log(every=4)
    result = train(new_gan(), DATA, replace(CONFIG, checkpoint_every=6), callbacks=[log], run_dir=tmp_path)
    engine = "cpu" if _backend.native is not None else "eager"
    assert log.calls[0] == ("start", 0, engine) and log.calls[-1] == ("end", 12, 12)
    chunks = [call for call in log.calls if call[0] == "chunk"]
    assert [step for _, _, rows in chunks for step in rows] == list(range(1, 13))
    assert all(step == rows[-1] for _, step, rows in chunks)
    assert {4, 6, 8, 12} <= {step for _, step, _ in chunks}
    assert [call for call in log.calls if call[0] == "checkpoint"] == [
        ("checkpoint", 6, "step-000000000006.json"),
        ("checkpoint", 12, "step-000000000012.json"),
    ]
    assert result.engine_reason and result.steps_per_second > 0


def test_the_history_is_complete_and_reads_back_exactly(tmp_path: Path) -> None:
    result = train(new_gan(), DATA, CONFIG, run_dir=tmp_path)
    assert tuple(result.history) == COLUMNS
    assert result.history["step"].dtype == np.int64 and result.history["step"].tolist() == list(range(1, 13))
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS) and len(lines) == 13
    assert np.array_equal(read_rows(tmp_path / "history.csv", 12), np.stack(list(result.history.values()), 1))
    assert len(read_rows(tmp_path / "history.csv", 5)) == 5
    found = read_history(tmp_path)
    assert found.keys() == result.history.keys()
    assert all(np.array_equal(found[name], result.history[name]) for name in found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "config.json", "history.csv"]


def config_json(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


def test_config_json_names_digits_only_where_the_rows_are_the_first_of_them(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    digits = data.load("digits")
    config = TrainConfig(steps=1, batch_size=10)
    mixed = digits.take(torch.randperm(1797, generator=torch.Generator().manual_seed(0))[:50])
    scaled = data.Standardizer.fit(digits).transform(digits)
    relabelled = replace(digits.head(50), labels=digits.labels[:50].flip(0))
    for name, rows, source, n in (
        ("all", digits, "digits", 1797),
        ("head", digits.head(50), "digits", 50),
        ("mixed", mixed, None, None),
        ("scaled", scaled, None, None),
        ("relabelled", relabelled, None, None),
    ):
        gan = GAN(nn.Linear(2, 64), nn.Linear(64, 1), latent_dim=2)
        train(gan, rows, config, run_dir=tmp_path / name)
        body = config_json(tmp_path / name)
        assert (body["source"], body["n"]) == (source, n), name


def test_config_json_is_of_the_run_that_the_folder_holds(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError):
        train(poisoned("batch", at=1), DATA, replace(CONFIG, optimizer=Adam(1.0)), run_dir=tmp_path)
    assert config_json(tmp_path)["train"]["optimizer"]["lr"] == 1.0
    config = replace(CONFIG, batch_size=5, optimizer=Adam(1e-4))
    gan = new_gan()
    train(gan, DATA, config, run_dir=tmp_path)
    kept = config_json(tmp_path)["train"]
    assert (kept["batch_size"], kept["optimizer"]["lr"]) == (5, 1e-4)
    (tmp_path / "config.json").write_text(json.dumps(config_json(tmp_path) | {"source": "mine"}))
    later = replace(config, steps=14, optimizer=Adam(2e-4))
    train(gan, DATA, later, run_dir=tmp_path, resume=True, change=("lr",))
    body = config_json(tmp_path)
    assert (body["train"]["optimizer"]["lr"], body["train"]["steps"], body["source"]) == (2e-4, 14, "mine")


def test_M67_monitors_are_what_their_names_say() -> None:
    gan = new_gan()
    nn.init.zeros_(gan.discriminator[2].weight)
    nn.init.constant_(gan.discriminator[2].bias, 2.0)  # D is sure that everything is real
    history = train(gan, DATA, replace(CONFIG, steps=1, optimizer=Adam(0.0))).history
    values = {name: column[0] for name, column in history.items()}
    sure = 1 / (1 + np.exp(-2))
    expected = {
        "step": 1,
        "loss_d": -np.log(sure) - np.log(1 - sure),
        "loss_g": -np.log(sure),
        "d_real": sure,
        "d_fake": sure,
        "accuracy_real": 1.0,
        "accuracy_fake": 0.0,
    }
    assert values == pytest.approx(expected, abs=1e-6)


# ------------------------------------------------------------ interruptions


def raising(number: signal.Signals, times: int, at: int) -> GAN:
    """A GAN whose generator, in its call number `at`, lets a signal arrive: in the middle of an iteration."""
    gan, calls = new_gan(), [0]

    def hook(*_: object) -> None:
        calls[0] += 1
        if calls[0] == at:
            for _ in range(times):
                signal.raise_signal(number)

    gan.generator.register_forward_hook(hook)
    return gan


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_finishes_its_iteration_and_saves(number: signal.Signals, tmp_path: Path) -> None:
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    result = train(raising(number, 1, at=8), DATA, CONFIG, run_dir=tmp_path / "b")  # call 1 is the check's
    assert result.interrupted and result.step == 4 and len(result.history["step"]) == 4
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers
    assert checkpoint.load(tmp_path / "b").step == 4
    gan, other = new_gan(), new_gan()
    eager = replace(CONFIG, engine="eager")  # as the hook made it
    train(gan, DATA, eager, run_dir=tmp_path / "b", resume=True)
    train(other, DATA, eager)
    assert same(state(gan), state(other))


def test_an_interrupt_without_a_run_folder_returns_what_there_is() -> None:
    result = train(raising(signal.SIGINT, 1, at=6), DATA, CONFIG)
    assert result.interrupted and result.step == 3


def test_the_second_interrupt_aborts_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(raising(signal.SIGINT, 2, at=6), DATA, CONFIG, run_dir=tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert checkpoint.checkpoints(tmp_path / "checkpoint") == []


@pytest.mark.parametrize("how", ["stop", "KeyboardInterrupt"])
def test_a_callback_can_end_the_run(how: str, tmp_path: Path) -> None:
    class Stopper(Callback):
        every = 5

        def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
            if run.step == 5:
                if how == "KeyboardInterrupt":
                    raise KeyboardInterrupt
                run.stop = True

    result = train(new_gan(), DATA, CONFIG, callbacks=[Stopper()], run_dir=tmp_path)
    assert result.interrupted and result.step == 5 and checkpoint.load(tmp_path).step == 5


def test_a_callback_may_look_at_every_iteration() -> None:
    seen: list[int] = []

    class Each(Callback):
        every = 1

        def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
            seen.append(run.step)

    result = train(new_gan(), DATA, replace(CONFIG, steps=5), callbacks=[Each()])
    assert seen == [1, 2, 3, 4, 5] and not result.interrupted


def test_training_works_on_another_thread(tmp_path: Path) -> None:
    results: list[TrainResult] = []
    thread = threading.Thread(target=lambda: results.append(train(new_gan(), DATA, CONFIG, run_dir=tmp_path)))
    thread.start()
    thread.join()
    assert results[0].step == 12


# ------------------------------------------------------------ not finite


def poisoned(where: str, at: int) -> GAN:
    """A GAN in whose iteration `at` (from 1) one number is NaN."""
    gan, calls = new_gan(), {"g": 0}

    def before(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        calls["g"] += 1
        if calls["g"] - 1 == 2 * at - 1 and where == "batch":  # call 1 is the check's, then two an iteration
            return (inputs[0].index_fill(0, torch.tensor([1]), torch.nan),)
        if calls["g"] - 1 == 2 * at - 1 and where == "parameter":
            gan.generator[3].bias.data[0] = torch.nan
        return None

    gan.generator.register_forward_pre_hook(before)
    if where == "gradient":
        seen = [0]

        def spoil(grad: Tensor) -> Tensor:
            seen[0] += 1
            return grad * torch.nan if seen[0] == at else grad

        gan.discriminator[0].weight.register_hook(spoil)
    return gan


@pytest.mark.parametrize("where", ["batch", "parameter", "gradient"])
def test_R33_raise_names_the_loss_the_iteration_and_the_last_checkpoint(where: str, tmp_path: Path) -> None:
    config = replace(CONFIG, checkpoint_every=3)
    with pytest.raises(FloatingPointError) as caught:
        train(poisoned(where, at=5), DATA, config, run_dir=tmp_path)
    # A spoilt gradient of D shows in the same iteration's G loss, everything else in D's own.
    name = "loss_g" if where == "gradient" else "loss_d"
    assert str(caught.value).startswith(
        f"train: {name} is not finite (nan) at iteration 5; last checkpoint: {tmp_path}"
    )
    assert str(caught.value).endswith("step-000000000003.json")
    found = checkpoint.load(tmp_path)
    assert found.step == 3 and all(torch.isfinite(t).all() for t in found.gan_state().values())
    assert train(new_gan(), DATA, config, run_dir=tmp_path, resume=True).step == 12


def test_R33_a_last_update_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    gan = new_gan()
    gan.generator[0].weight.register_hook(lambda grad: grad * torch.nan)
    with pytest.raises(FloatingPointError, match="generator.0.weight is not finite after iteration 1"):
        train(gan, DATA, replace(CONFIG, steps=1), run_dir=tmp_path)
    assert checkpoint.checkpoints(tmp_path / "checkpoint") == []


@pytest.mark.parametrize("mode", ["alternating", "simultaneous"])
def test_R33_skip_leaves_everything_as_it_was(mode: str, tmp_path: Path) -> None:
    """With a NaN in every D step nothing of D ever changes; in simultaneous mode, nothing at all."""
    gan = new_gan()
    gan.discriminator[0].weight.register_hook(lambda grad: grad * torch.nan)
    before = state(gan)
    result = train(gan, DATA, replace(CONFIG, nonfinite="skip", mode=mode), run_dir=tmp_path)
    assert result.step == 12
    changed = {name.split(".")[0] for name, value in state(gan).items() if not torch.equal(before[name], value)}
    assert changed == ({"generator"} if mode == "alternating" else set())
    stored = checkpoint.load(tmp_path).tensors
    steps = {name.split("_")[0]: int(value) for name, value in stored.items() if name.endswith(".step")}
    assert steps == {"discriminator": 0, "generator": 12 if mode == "alternating" else 0}


def test_R33_skip_goes_on_after_one_bad_batch_with_clean_statistics() -> None:
    gan = poisoned("batch", at=5)
    result = train(gan, DATA, replace(CONFIG, nonfinite="skip"))
    assert result.step == 12
    bad = ~np.isfinite(result.history["loss_d"])
    assert bad.tolist() == [step == 5 for step in range(1, 13)]
    assert all(torch.isfinite(value).all() for value in state(gan).values())
    # 24 passes of G, one of them taken back
    assert gan.generator[1].num_batches_tracked == 23


@pytest.mark.parametrize("policy", ["log", "skip"])
def test_R33_log_warns_once_and_goes_on(policy: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fastgan"):
        result = train(poisoned("batch", at=5), DATA, replace(CONFIG, nonfinite=policy))
    assert result.step == 12
    assert [record.getMessage() for record in caplog.records] == [
        "train: loss_d is not finite (nan) at iteration 5; there is no checkpoint"
    ]


def test_R33_skip_computes_the_same_numbers_where_all_is_finite() -> None:
    gan, other = new_gan(), new_gan()
    train(gan, DATA, CONFIG)
    train(other, DATA, replace(CONFIG, nonfinite="skip"))
    assert same(state(gan), state(other))


def test_what_a_callback_holds_a_run_up_is_no_part_of_its_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    class Holding(Callback):
        def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
            run.held += 1000.0

    learned: list[float] = []
    monkeypatch.setattr(ChunkSizer, "learn", lambda self, iterations, seconds: learned.append(seconds))
    for callbacks in ([], [Holding()]):
        train(new_gan(), DATA, CONFIG, callbacks=callbacks)
    half = len(learned) // 2
    assert all(s >= 0 for s in learned[:half]) and all(s < -900 for s in learned[half:])  # 1000 each, not summed up
    assert all(s > -1001 for s in learned)
