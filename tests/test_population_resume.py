"""Populations that are stopped and resumed: the bits are those of an uninterrupted training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fused_rows import same_bits, same_runs
from test_population import CONFIG, DATA, assert_as_alone, make_gan, needs_native
from torch import Tensor

import fastgan
from fastgan import Adam, Callback, CheckpointError, PopulationResult
from fastgan.training import Run, checkpoint
from fastgan.training.engines import cpu


def tensors(folder: Path) -> dict[str, Tensor]:
    return checkpoint.load(folder).tensors


class StopAt(Callback):
    """Ctrl-C, once member `member` has done `step` iterations."""

    def __init__(self, member: int, step: int) -> None:
        self.member, self.every = member, step

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        if run.member == self.member and run.step >= self.every:
            raise KeyboardInterrupt


@pytest.mark.parametrize("engine", [pytest.param("fused", marks=needs_native), "eager"])
@pytest.mark.parametrize("stop", [(0, 1), (2, 5), (3, 11)])
def test_resume_after_a_stop_is_exact(
    stop: tuple[int, int], engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "_A_THREAD", 2)
    config = replace(CONFIG, engine=engine, checkpoint_every=4)

    def run(folder: str, **more: Any) -> PopulationResult:
        return fastgan.train_population(
            make_gan, DATA, config, seeds=range(5), run_dir=tmp_path / folder, threads=1, **more
        )

    through = run("through")
    stopped = run("stopped", callbacks=[StopAt(*stop)])
    assert stopped.interrupted and [member.step for member in stopped.members] != [12] * 5
    assert stopped.members[4].step == 0 and stopped.members[4].history["loss_d"].shape == (0,)
    with pytest.raises(ValueError, match="run_dir must be new or be resumed"):
        run("stopped")
    again = run("stopped", callbacks=[StopAt(4, 3)], resume=True)  # a second stop
    for before, after in zip(stopped.members, again.members, strict=True):
        assert after.step >= before.step
    resumed = run("stopped", resume=True)
    assert not resumed.interrupted
    for number, (a, b) in enumerate(zip(through.members, resumed.members, strict=True)):
        assert same_runs((a.gan, a), (b.gan, b))
        folders = [tmp_path / name / f"member-{number:04d}" for name in ("through", "stopped")]
        one, two = (tensors(folder) for folder in folders)
        assert one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())
        assert folders[0].joinpath("history.csv").read_bytes() == folders[1].joinpath("history.csv").read_bytes()
    assert run("stopped", resume=True).steps_per_second == 0.0  # nothing is left to do


@pytest.mark.parametrize("engine", [pytest.param("fused", marks=needs_native), "eager"])
def test_a_stop_leaves_members_that_had_no_turn_at_their_checkpoints(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "_A_THREAD", 1)
    config = replace(CONFIG, engine=engine)

    def run(steps: int, **more: Any) -> PopulationResult:
        return fastgan.train_population(
            make_gan, DATA, replace(config, steps=steps), seeds=range(3), run_dir=tmp_path, threads=1, **more
        )

    before = run(5)
    stopped = run(12, resume=True, callbacks=[StopAt(0, 7)])
    assert [member.step for member in stopped.members] == [7, 5, 5] and stopped.interrupted
    for a, b in zip(before.members[1:], stopped.members[1:], strict=True):
        assert b.interrupted
        assert same_runs((a.gan, a), (b.gan, b))


def test_a_member_resumes_alone_and_more_seeds_join(tmp_path: Path) -> None:
    config = replace(CONFIG, checkpoint_every=5)
    fastgan.train_population(make_gan, DATA, config, seeds=range(2), run_dir=tmp_path)
    longer = replace(config, steps=20, seed=1)
    gan = make_gan()
    fastgan.train(gan, DATA, longer, run_dir=tmp_path / "member-0001", resume=True)
    result = fastgan.train_population(
        make_gan, DATA, replace(config, steps=20), seeds=range(3), run_dir=tmp_path, resume=True
    )
    assert same_bits(result.members[1].gan, gan)
    assert_as_alone(result, [replace(longer, seed=seed, checkpoint_every=0) for seed in range(3)])


@pytest.mark.parametrize("engine", [pytest.param("fused", marks=needs_native), "eager"])
def test_a_resume_may_change_the_rate(engine: str, tmp_path: Path) -> None:
    """As `train` does, member by member; one that joins begins with the new rate."""
    first = replace(CONFIG, engine=engine)
    fastgan.train_population(make_gan, DATA, first, seeds=range(2), run_dir=tmp_path / "many")
    second = replace(first, steps=20, optimizer=Adam(3e-2))
    options: dict[str, Any] = {"run_dir": tmp_path / "many", "resume": True}
    with pytest.raises(ValueError, match="config.optimizer must be"):
        fastgan.train_population(make_gan, DATA, second, seeds=range(3), **options)
    with pytest.raises(ValueError, match=r"change must be \(\) or \('lr',\), got \('k',\)"):
        fastgan.train_population(make_gan, DATA, second, seeds=range(3), change=("k",), **options)
    result = fastgan.train_population(make_gan, DATA, second, seeds=range(3), change=("lr",), **options)
    for seed in range(2):
        folder = tmp_path / f"solo-{seed}"
        fastgan.train(make_gan(seed), DATA, replace(first, seed=seed), run_dir=folder)
        solo = make_gan(seed)
        fastgan.train(solo, DATA, replace(second, seed=seed), run_dir=folder, resume=True, change=("lr",))
        assert same_bits(result.members[seed].gan, solo)
        other = make_gan(seed)
        fastgan.train(other, DATA, replace(second, seed=seed, optimizer=first.optimizer))
        assert not torch.equal(next(other.parameters()), next(solo.parameters()))
    new = make_gan(2)
    fastgan.train(new, DATA, replace(second, seed=2))
    assert same_bits(result.members[2].gan, new)


def test_resume_refuses_other_members_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="checkpoint: no member has one in"):
        fastgan.train_population(make_gan, DATA, CONFIG, seeds=[0], run_dir=tmp_path / "no", resume=True)
    fastgan.train_population(make_gan, DATA, CONFIG, seeds=[0, 1], run_dir=tmp_path)
    with pytest.raises(ValueError, match="config.seed must be 1 as in"):
        fastgan.train_population(make_gan, DATA, CONFIG, seeds=[0, 2], run_dir=tmp_path, resume=True)
    assert not (tmp_path / "no").exists()
