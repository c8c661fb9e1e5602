"""Resume: the bits of an uninterrupted run, wherever and however the first one ended."""

import functools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from resuming import check_resumed
from torch import Tensor, nn

import fastgan.nn
from fastgan.models import GAN
from fastgan.training import (
    Adam,
    Callback,
    CheckpointError,
    Momentum,
    TrainConfig,
    TrainResult,
    checkpoint,
    resume,
    session,
    train,
)

DATA = torch.randn(23, 3, generator=torch.Generator().manual_seed(1))
DECAYING = Momentum(0.05, 0.5, "pylearn2", lr_decay=1.01, min_lr=1e-3, momentum_final=0.7, saturate_epochs=4)
BASE = TrainConfig(steps=14, batch_size=4, seed=3, checkpoint_every=0)
CONFIGS = {
    "adam, k=2": replace(BASE, k=2, optimizer=Adam(0.01)),
    "pylearn2 momentum, schedules": replace(BASE, optimizer=DECAYING, max_col_norm=1.0),
    "torch momentum, schedules": replace(
        BASE, optimizer=replace(DECAYING, convention="torch"), gradient_penalty="wgan-gp"
    ),
    "simultaneous, two optimisers": replace(
        BASE, mode="simultaneous", optimizer=Adam(0.01), generator_optimizer=DECAYING, nonfinite="skip"
    ),
}


def new_gan() -> GAN:
    """Everything that could carry state: running statistics, torch's dropout and the keyed one."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    discriminator = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.3), fastgan.nn.Dropout(0.2), nn.Linear(8, 1))
    return GAN(generator, discriminator, latent_dim=2)


def whole_state(folder: Path) -> dict[str, Tensor]:
    return checkpoint.load(folder).tensors


def assert_same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys() and len(a) > 20
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def assert_same_history(a: TrainResult, b: TrainResult) -> None:
    for name, column in a.history.items():
        assert np.array_equal(column, b.history[name]), name


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stop", [1, 8])  # an epoch has 5 batches: both in mid-epoch
def test_R30_resumed_equals_uninterrupted_to_the_bit(name: str, stop: int, tmp_path: Path) -> None:
    check_resumed(new_gan, DATA, CONFIGS[name], stop, tmp_path)
    assert len(checkpoint.load(tmp_path / "whole").tensors) > 20


def test_R30_a_run_can_be_forked_from_a_checkpoint(tmp_path: Path) -> None:
    config = replace(CONFIGS["adam, k=2"], checkpoint_every=7)
    through = train(new_gan(), DATA, config, run_dir=tmp_path / "a")
    middle = tmp_path / "a/checkpoint/step-000000000007.json"
    forked = train(new_gan(), DATA, config, run_dir=tmp_path / "b", resume=middle)
    assert_same_history(through, forked)
    assert_same_bits(whole_state(tmp_path / "a"), whole_state(tmp_path / "b"))
    bare = train(new_gan(), DATA, CONFIGS["adam, k=2"], resume=tmp_path / "a")  # nothing left to do, nothing written
    assert bare.step == 14 and len(bare.history["step"]) == 14 and not bare.interrupted
    with pytest.raises(ValueError, match="train: run_dir must not hold other or newer checkpoints than resume"):
        train(new_gan(), DATA, config, run_dir=tmp_path / "a", resume=middle)


def test_R30_rows_behind_the_checkpoint_do_not_appear_twice(tmp_path: Path) -> None:
    through = train(new_gan(), DATA, BASE, run_dir=tmp_path / "a")
    train(new_gan(), DATA, replace(BASE, steps=6), run_dir=tmp_path / "b")
    with (tmp_path / "b/history.csv").open("a") as file:  # what a killed run leaves: rows, and one cut short
        file.write("7,1.0,1.0,0.5,0.5,0.5,0.5\n8,1.0,1.0,0.5")
    resumed = train(new_gan(), DATA, BASE, run_dir=tmp_path / "b", resume=True)
    assert_same_history(through, resumed)
    assert (tmp_path / "a/history.csv").read_bytes() == (tmp_path / "b/history.csv").read_bytes()


def test_a_lost_history_is_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(new_gan(), DATA, replace(BASE, steps=6), run_dir=tmp_path)
    lines = (tmp_path / "history.csv").read_text().splitlines(keepends=True)
    (tmp_path / "history.csv").write_text("".join(lines[:5]))
    resumed = train(new_gan(), DATA, BASE, run_dir=tmp_path, resume=True)
    assert list(resumed.history["step"]) == [1, 2, 3, 4, *range(7, 15)]
    says = f"train: {tmp_path / 'history.csv'} lacks 2 of the 6 iterations done: their metrics are lost"
    assert [record.getMessage() for record in caplog.records] == [says]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(new_gan(), DATA, replace(BASE, steps=6), run_dir=folder)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "train: config.seed must be 3 as in .*, got 4"),
        ({"batch_size": 5}, "train: config.batch_size must be 4 as in"),
        ({"optimizer": Adam(1e-3)}, "train: config.optimizer must be"),
        ({"k": 2}, "train: config.k must be 1 as in"),
        ({"loss": "hinge"}, "train: config.loss must be 'non_saturating' as in .*, got 'hinge'"),
        ({"steps": 5}, "train: config.steps must be at least the 6 of"),
    ],
)
def test_R30_another_config_is_refused_by_field(stopped: Path, change: dict, message: str) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in stopped.rglob("*"))
    with pytest.raises(ValueError, match=message):
        train(new_gan(), DATA, replace(BASE, **change), run_dir=stopped, resume=True)
    assert sorted((path, path.stat().st_mtime_ns) for path in stopped.rglob("*")) == before


def test_R32_a_checkpoint_from_before_a_field_existed_goes_on_with_its_default(stopped: Path) -> None:
    """Only there: a run that uses the new field is another run."""
    held = checkpoint.load(stopped)
    for part, name in (("config", "unroll"), ("config", "inner"), ("gan", "classes")):
        del held.meta[part][name]
    rows = session.rows_for(DATA, new_gan(), BASE)
    resume.check_same_run(held, resume.describe_run(new_gan(), rows, BASE))
    with pytest.raises(ValueError, match="train: config.unroll must be 0 as in .*, got 2"):
        resume.check_same_run(held, resume.describe_run(new_gan(), rows, replace(BASE, unroll=2)))


def test_R30_other_data_or_another_prior_is_refused(stopped: Path) -> None:
    with pytest.raises(ValueError, match="train: data.rows must be 23 as in .*, got 22"):
        train(new_gan(), DATA[1:], BASE, resume=stopped)
    gan = new_gan()
    gan.prior = "uniform"
    with pytest.raises(ValueError, match="train: gan.prior must be 'normal' as in"):
        train(gan, DATA, BASE, resume=stopped)


def test_a_run_is_not_overwritten_and_not_invented(stopped: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train: run_dir must be new or be resumed \(resume=True\), got"):
        train(new_gan(), DATA, BASE, run_dir=stopped)
    with pytest.raises(CheckpointError, match="checkpoint: there is none in"):
        train(new_gan(), DATA, BASE, run_dir=tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="train: run_dir must be given where resume is True"):
        train(new_gan(), DATA, BASE, resume=True)


def test_R30_the_optimiser_state_of_a_run_loads_into_torch_optim(stopped: Path) -> None:
    gan = new_gan()
    optimizer = torch.optim.Adam(gan.discriminator.parameters())
    optimizer.load_state_dict(checkpoint.load(stopped).optimizer_state("discriminator"))
    assert all(entry["step"] == 6 for entry in optimizer.state.values())
    assert optimizer.param_groups[0]["betas"] == [0.5, 0.999]


def test_callbacks_do_not_change_the_run(tmp_path: Path) -> None:
    class Sampler(Callback):
        every = 2

        def on_chunk(self, run: object, rows: object) -> None:
            torch.rand(5)
            run.gan.sample(3)
            run.gan.logits(DATA)

    plain, watched = new_gan(), new_gan()
    train(plain, DATA, BASE)
    train(watched, DATA, BASE, callbacks=[Sampler()])
    assert all(torch.equal(value, watched.state_dict()[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("threads", [(1, 2), (2, 1)])
def test_R30_an_eager_run_keeps_its_number_of_threads(threads: tuple[int, int], tmp_path: Path) -> None:
    """torch's sums depend on it, so that the run is resumed with the number that it began with."""
    torch.manual_seed(0)
    data = torch.randn(4096, 3)
    config = TrainConfig(steps=4, batch_size=4096, engine="eager", optimizer=Adam(0.01))
    begun, later = threads
    torch.set_num_threads(begun)
    through = train(new_gan(), data, config, run_dir=tmp_path / "a")
    train(new_gan(), data, replace(config, steps=2), run_dir=tmp_path / "b")
    torch.set_num_threads(later)
    resumed = train(new_gan(), data, config, run_dir=tmp_path / "b", resume=True)
    assert torch.get_num_threads() == later
    assert checkpoint.load(tmp_path / "b").meta["threads"] == begun
    assert_same_bits(whole_state(tmp_path / "a"), whole_state(tmp_path / "b"))
    assert_same_history(through, resumed)
    other = train(new_gan(), data, config)  # the control: here the number decides
    assert any((other.history[name] != column).any() for name, column in through.history.items())


def test_R32_a_run_whose_threads_are_not_known_goes_on_with_those_there_are(stopped: Path) -> None:
    held = checkpoint.load(stopped)
    for meta, expected in ({}, None), ({"threads": 3}, 3), ({"threads": "3"}, None), ({"threads": 0}, None):
        source = replace(held, meta={**{n: v for n, v in held.meta.items() if n != "threads"}, **meta})
        assert resume.threads_of(source) == expected
    assert resume.threads_of(None) is None


# ---------------------------------------------------------------- what a resume may change


@pytest.mark.parametrize("engine", ["eager", "auto"])
@pytest.mark.parametrize("rule", [Adam(0.01), Momentum(0.05), functools.partial(torch.optim.AdamW, lr=0.01)])
def test_the_rate_changes_on_request_alone(rule: Any, engine: str, tmp_path: Path) -> None:
    """Two rates one after the other; the engine reads the second one from its optimiser."""
    new = replace(rule, lr=0.03) if isinstance(rule, Adam | Momentum) else functools.partial(rule, lr=0.03)
    first = TrainConfig(5, 4, optimizer=rule, engine=engine)
    second = replace(first, steps=9, optimizer=new)

    def mlp() -> GAN:
        torch.manual_seed(0)
        return GAN(
            fastgan.nn.MLP([2, 8, 3], activation="tanh"), fastgan.nn.MLP([3, 8, 1], activation="tanh"), latent_dim=2
        )

    train(mlp(), DATA, first, run_dir=tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "same")
    for refused in ((), ("betas",), "lr"):
        with pytest.raises(ValueError, match="config.optimizer|discriminator's groups|change must be"):
            train(mlp(), DATA, second, run_dir=tmp_path / "run", resume=True, change=refused)
    with pytest.raises(ValueError, match="change must be empty where no run is resumed"):
        train(mlp(), DATA, second, change=("lr",))
    train(faster := mlp(), DATA, second, run_dir=tmp_path / "run", resume=True, change=("lr",))
    train(usual := mlp(), DATA, replace(first, steps=9), run_dir=tmp_path / "same", resume=True)
    assert any(not torch.equal(a, b) for a, b in zip(faster.parameters(), usual.parameters(), strict=True))
    train(twice := mlp(), DATA, second, run_dir=tmp_path / "again")
    assert any(not torch.equal(a, b) for a, b in zip(faster.parameters(), twice.parameters(), strict=True))
    train(on := mlp(), DATA, replace(second, steps=11), run_dir=tmp_path / "run", resume=True)  # the new rate is kept
    assert checkpoint.load(tmp_path / "run").step == 11 and on is not None


@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_the_changed_rate_is_that_of_the_updates(engine: str, tmp_path: Path) -> None:
    """At a rate of 0 nothing moves; with the old rate it would."""
    torch.manual_seed(0)
    gan = GAN(fastgan.nn.MLP([2, 8, 3], activation="tanh"), fastgan.nn.MLP([3, 8, 1], activation="tanh"), latent_dim=2)
    config = TrainConfig(5, 4, optimizer=Adam(0.01), engine=engine)
    train(gan, DATA, config, run_dir=tmp_path)
    before = [p.detach().clone() for p in gan.parameters()]
    still = replace(config, steps=9, optimizer=Adam(0.0))
    train(gan, DATA, still, run_dir=tmp_path, resume=True, change=("lr",))
    assert all(torch.equal(a, b) for a, b in zip(before, gan.parameters(), strict=True))


def test_a_checkpoint_knows_optimisers_with_fewer_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that an optimiser got since takes its default."""
    config = TrainConfig(5, 4, optimizer=Adam(0.01))
    with monkeypatch.context() as before:
        described = config.as_dict()
        del described["optimizer"]["weight_decay"]
        before.setattr(TrainConfig, "as_dict", lambda self: described)
        train(new_gan(), DATA, config, run_dir=tmp_path)
    train(new_gan(), DATA, replace(config, steps=6), run_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match="config.optimizer must be"):
        decayed = replace(config, steps=7, optimizer=Adam(0.01, weight_decay=0.1))
        train(new_gan(), DATA, decayed, run_dir=tmp_path, resume=True)
