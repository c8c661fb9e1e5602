"""Populations of TabularGANs: from Python and on the command line."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastgan.tabular import TableTransformer, TabularGAN
from fastgan.training.callbacks import Callback

pd = pytest.importorskip("pandas")
pytest.importorskip("sklearn")

SMALL: dict[str, Any] = {
    "batch_size": 60, "pack": 5, "latent_dim": 8, "generator_hidden": (16,), "discriminator_hidden": (16,),
    "threads": 1, "steps": 4,
}  # fmt: skip
FAST = ("--steps", "3", "--batch-size", "60", "--width", "16", "--latent-dim", "8", "--threads", "1")
Run = Callable[..., tuple[int, str, str]]


def people(n: int = 200) -> Any:
    rng = np.random.default_rng(0)
    spent = np.where(rng.random(n) < 0.2, np.nan, rng.lognormal(3, 1, n).round(2))
    return pd.DataFrame({"age": rng.integers(18, 80, n), "city": rng.choice(["Rome", "Oslo"], n), "spent": spent})


def same(one: TabularGAN, other: TabularGAN) -> bool:
    assert one.gan is not None and other.gan is not None
    states = zip(one.gan.state_dict().values(), other.gan.state_dict().values(), strict=True)
    histories = (np.array_equal(values, other.history[name]) for name, values in one.history.items())
    return all(torch.equal(a, b) for a, b in states) and all(histories)


def test_members_have_the_bits_of_a_fit_alone(tmp_path: Path) -> None:
    """For the same columns, which the seed of the population fits."""
    population = TabularGAN(seed=3, **SMALL)
    grid = {"generator_hidden": [(16,), (9, 8)], "lr": [1e-3, 1e-2]}
    found = population.fit_population(people(), seeds=[3, 5], grid=grid, run_dir=tmp_path)
    points = [(member.config.generator_hidden, member.config.lr, member.config.seed) for member in found]
    assert points == [(hidden, lr, seed) for hidden in ((16,), (9, 8)) for lr in (1e-3, 1e-2) for seed in (3, 5)]
    assert same(found[0], TabularGAN(seed=3, **SMALL | {"lr": 1e-3}).fit(people()))
    alone = TabularGAN(seed=5, **SMALL | {"lr": 1e-2, "generator_hidden": (9, 8)})
    alone.transformer = TableTransformer(seed=3, threads=1)
    assert same(found[7], alone.fit(people())) and not same(found[7], found[6])
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"member-{number:04d}" for number in range(8)]
    assert TabularGAN.load(tmp_path / "member-0007").sample(30).equals(found[7].sample(30))
    assert population.gan is None and repr(found[7]).startswith("TabularGAN(4 iterations")


def test_a_member_that_fails_ends_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fastgan"):
        found = TabularGAN(**SMALL).fit_population(people(), grid={"lr": [1e30, 1e-3]}, run_dir=tmp_path)
    assert [bool(member.failed) for member in found] == [True, False]
    assert [path.name for path in tmp_path.iterdir()] == ["member-0001"]


def test_ctrl_c_keeps_what_began(tmp_path: Path) -> None:
    class CtrlC(Callback):
        every = 2

        def on_chunk(self, run: Any, rows: dict[str, np.ndarray]) -> None:
            if run.step == 2:
                signal.raise_signal(signal.SIGINT)

    grid = {"latent_dim": [8, 9]}  # one after another
    found = TabularGAN(**SMALL).fit_population(people(), grid=grid, callbacks=[CtrlC()], run_dir=tmp_path)
    assert len(found) == 1 and found[0].interrupted and 2 <= len(found[0].history["loss_d"]) < 4
    assert TabularGAN.load(tmp_path / "member-0000").interrupted


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"grid": {"width": [3]}}, r"grid must name options \(epochs, .*\), got 'width'"),
        ({"grid": {"seed": [3]}}, "grid must name options .*, got 'seed'"),
        ({"grid": {"lr": 3}}, r"grid\['lr'\] must be a list of values, got 3"),
        ({"grid": {"lr": []}}, r"grid\['lr'\] must be a list of values, got \[\]"),
        ({"grid": {"lr": [-1.0]}}, "lr must be above 0, got -1.0"),
        ({"seeds": []}, "seeds must hold at least one seed, got none"),
        ({"seeds": [1, 1]}, "must differ, got one with seed 1 twice"),
    ],
)
def test_a_mistake_is_named(arguments: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        TabularGAN(**SMALL).fit_population(people(), **arguments)


def test_seeds_and_a_grid_on_the_command_line(run: Run, tmp_path: Path) -> None:
    people().to_csv(tmp_path / "c.csv", index=False)
    grid = ("--seeds", "0:2", "--grid", "lr=1e-3,1e-2", "--grid", "temperature=0.2,0.5")
    code, out, error = run("train", "c.csv", *FAST, *grid, "--out", "many")
    assert code == 0, error
    assert out.startswith("trained c.csv: 8 of 8 GANs done, engine ")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    (begin,) = (i for i, line in enumerate(lines) if line.split() == "grid point GANs loss_d loss_g".split())
    table = lines[begin : begin + 5]
    assert [line.split()[:5] for line in table[1:3]] == [
        ["lr", "0.001,", "temperature", "0.2", "2"], ["lr", "0.001,", "temperature", "0.5", "2"],
    ]  # fmt: skip
    assert all(line.count("+-") == 2 for line in table[1:])
    assert json.loads((tmp_path / "many/population.json").read_text())["seeds"] == [0, 1]
    code, _, error = run("train", "c.csv", "--resume", "--out", "many")
    assert code == 2 and "a population of TabularGANs must be trained again, it has no checkpoints, got " in error
    assert run("sample", "many/member-0003", "--n", "20", "--out", "s.csv")[0] == 0
    options = ("--lr", "1e-3", "--out", "alone", "--no-pictures", "--quiet")
    assert run("train", "c.csv", *FAST, *options)[0] == 0
    samples = [TabularGAN.load(tmp_path / folder).sample(20) for folder in ("alone", "many/member-0000")]
    assert samples[0].equals(samples[1])


def test_the_next_command_names_a_member_that_was_saved(run: Run, tmp_path: Path) -> None:
    people().to_csv(tmp_path / "c.csv", index=False)
    code, out, error = run("train", "c.csv", *FAST, "--grid", "lr=1e30,1e-3", "--out", "many")
    assert code == 0, error
    assert f"measure:  fastgan evaluate {Path('many/member-0001')}" in out


def test_what_cannot_be_is_one_line(run: Run, tmp_path: Path) -> None:
    people().to_csv(tmp_path / "c.csv", index=False)
    for argv, rule in (
        (("--seeds", "0:2", "--seed", "1"), "--seed must not be given with --seeds"),
        (("--seeds", "0:2", "--json"), "--json must be used with one GAN, got --seeds or --grid"),
        (("--grid", "k=1,2"), "grid must name options (epochs, "),
        (("--grid", "lr=1", "--grid", "lr=2"), "--grid must name each field once"),
    ):
        code, _, error = run("train", "c.csv", *FAST, *argv)
        assert code == 2 and error.count("\n") == 1 and rule in error, (argv, error)
    assert not (tmp_path / "runs").exists()
