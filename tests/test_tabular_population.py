"""Populations of TabularGANs: from Python and on the command line."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import showing

from fastgan import CheckpointError
from fastgan.tabular import TableTransformer, TabularGAN
from fastgan.training import population as training_population
from fastgan.training.callbacks import Callback
from fastgan.training.engines import cpu

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
    assert [path.parent.name for path in tmp_path.glob("*/weights.safetensors")] == ["member-0001"]
    with pytest.raises(ValueError, match="a whole TabularGAN, got: checkpoint: there is none in .*member-0000"):
        TabularGAN.load(tmp_path / "member-0000")
    with pytest.raises(FloatingPointError, match="sample: G must give finite numbers, got others: it failed"):
        found[0].sample(3)
    assert len(found[1].sample(3)) == 3


def test_numbers_of_numpy_give_the_members_of_those_of_python(tmp_path: Path) -> None:
    decay = float(np.float32(0.9))
    plain = {"seeds": [0, 1], "grid": {"ema_decay": [decay, 0.5], "generator_hidden": [(16,)]}}
    other = {
        "seeds": np.arange(2),
        "grid": {"ema_decay": np.array([decay, 0.5], "f4"), "generator_hidden": [np.array([16])]},
    }
    options = SMALL | {"batch_size": np.int64(60), "betas": np.array([0.5, 0.75], "f4")}
    found = TabularGAN(**options).fit_population(people(), **other, run_dir=tmp_path)
    through = TabularGAN(**options | {"batch_size": 60, "betas": (0.5, 0.75)}).fit_population(people(), **plain)
    assert all(map(same, found, through)) and [one.config for one in found] == [one.config for one in through]
    assert same(TabularGAN.load(tmp_path / "member-0003"), through[3])


class CtrlC(Callback):
    every = 2

    def on_chunk(self, run: Any, rows: dict[str, np.ndarray]) -> None:
        if run.step == 2:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_keeps_what_began_and_a_resume_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_A_THREAD", 1)  # one after another
    grid = {"latent_dim": [8, 9]}
    found = TabularGAN(**SMALL).fit_population(people(), grid=grid, callbacks=[CtrlC()], run_dir=tmp_path)
    assert all(member.interrupted for member in found)
    assert [len(member.history["loss_d"]) for member in found] in ([2, 0], [3, 0])
    assert TabularGAN.load(tmp_path / "member-0000").interrupted and not (tmp_path / "member-0001").exists()
    resumed = TabularGAN(**SMALL).fit_population(people(), grid=grid, run_dir=tmp_path, resume=True)
    through = TabularGAN(**SMALL).fit_population(people(), grid=grid)
    assert all(map(same, resumed, through)) and not any(member.interrupted for member in resumed)
    loaded = [TabularGAN.load(tmp_path / f"member-{number:04d}") for number in range(2)]
    assert all(map(same, loaded, through)) and not any(member.interrupted for member in loaded)


class Copy(Callback):
    """Copies the folder of a population at an iteration of a member: what a kill at that instant leaves."""

    def __init__(self, member: int, step: int) -> None:
        self.member, self.every = member, step

    def on_chunk(self, run: Any, rows: dict[str, np.ndarray]) -> None:
        if (run.member, run.step) == (self.member, self.every):
            shutil.copytree(run.run_dir.parent, run.run_dir.parent.with_name("killed"))


GRID = {"generator_hidden": [(16,), (9, 8)]}
CHECKED = SMALL | {"seed": 7, "steps": 6, "checkpoint_every": 2}


@pytest.mark.parametrize("instant", [(0, 1), (1, 3), (3, 5), (2, 6)])
def test_a_killed_population_is_sampled_and_resumed_to_the_bits_of_a_whole_one(
    instant: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The members differ in their networks and are at different iterations; the columns are of the population's seed,
    which a resume takes from the folder."""
    monkeypatch.setattr(cpu, "_A_THREAD", 3)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options: dict[str, Any] = {"seeds": [3, 5], "grid": GRID}
    through = TabularGAN(**CHECKED).fit_population(people(), **options, run_dir=whole, callbacks=[Copy(*instant)])
    for folder in killed.glob("member-*"):
        if any(folder.glob("checkpoint/*.json")):
            left = TabularGAN.load(folder)
            count = len(left.history["loss_d"])
            assert left.interrupted and count in (2, 4, 6) and len(left.sample(20)) == 20
            alone = TabularGAN(**CHECKED | {"steps": count, "checkpoint_every": 0}).fit_population(people(), **options)
            assert same(left, alone[int(folder.name[-4:])])
    resume = any(killed.glob("*/checkpoint/*.json"))
    assert resume == (instant != (0, 1))
    resumed = TabularGAN(**CHECKED | {"seed": 8 if resume else 7}).fit_population(
        people(), **options, run_dir=killed, resume=resume
    )
    assert all(map(same, resumed, through))
    assert {p.relative_to(killed) for p in killed.rglob("*")} == {p.relative_to(whole) for p in whole.rglob("*")}
    for name in ("history.csv", "table.json", "weights.safetensors"):
        for one in whole.glob(f"*/{name}"):
            assert one.read_bytes() == (killed / one.relative_to(whole)).read_bytes(), one


def test_seeds_that_are_no_list_are_refused_in_a_sentence() -> None:
    with pytest.raises(TypeError, match=r"^fit_population: seeds must be a list of integers, got 3$"):
        TabularGAN(**CHECKED).fit_population(people(), seeds=3)  # type: ignore[arg-type]


def test_a_resume_may_be_longer_and_have_more_seeds_and_a_member_goes_on_alone(tmp_path: Path) -> None:
    TabularGAN(**CHECKED).fit_population(people(), seeds=[3, 5], run_dir=tmp_path)
    alone = TabularGAN(**CHECKED | {"seed": 5, "steps": 9}).fit(people(), run_dir=tmp_path / "member-0001", resume=True)
    longer = CHECKED | {"steps": 9, "checkpoint_every": 4}
    found = TabularGAN(**longer).fit_population(people(), seeds=[3, 5, 2], run_dir=tmp_path, resume=True)
    through = TabularGAN(**longer | {"checkpoint_every": 0}).fit_population(people(), seeds=[3, 5, 2])
    assert all(map(same, found, through)) and same(alone, through[1])


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"n": 150}, "table must hold the rows that .*member-0000 was trained on, got others"),
        ({"seeds": [3, 6]}, "fit_population: seed must be 5 as in .*member-0001.table.json, got 6"),
        ({"grid": {"lr": [1e-3, 2e-3]}}, "lr must be 0.0002 as in .*member-0000.table.json, got 0.001"),
        ({"grid": {"latent_dim": [9]}}, "latent_dim must be 8 as in .*, got 9"),
        ({"dropout": 0.1}, "dropout must be 0.5 as in .*, got 0.1"),
        ({"steps": 3}, "config.steps must be at least the 6 of .*, got 3"),
        ({"resume": False}, r"run_dir must be new or be resumed \(resume=True\), got .*member-0000"),
        ({"run_dir": None}, "fit_population: run_dir must be given where resume is True, got None"),
        ({"run_dir": "other"}, "checkpoint: no member has one in .*other"),
        ({"run_dir": None, "resume": False}, "run_dir must be given where config.checkpoint_every is set, got None"),
    ],
)
def test_a_resume_of_another_population_is_refused(change: dict[str, Any], rule: str, tmp_path: Path) -> None:
    TabularGAN(**CHECKED).fit_population(people(), seeds=[3, 5], run_dir=tmp_path / "many")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    arguments: dict[str, Any] = {"seeds": [3, 5], "run_dir": "many", "resume": True}
    arguments |= {name: change[name] for name in ("seeds", "grid", "run_dir", "resume") if name in change}
    if arguments["run_dir"] is not None:
        arguments["run_dir"] = tmp_path / arguments["run_dir"]
    options = {name: value for name, value in change.items() if name in ("dropout", "steps")}
    with pytest.raises((ValueError, CheckpointError), match=rule) as caught:
        TabularGAN(**CHECKED | options).fit_population(people(change.get("n", 200)), **arguments)
    assert "\n" not in str(caught.value)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "other",
    [
        lambda table: table.rename(columns={"age": "years"}),
        lambda table: table[["city", "age", "spent"]],
        lambda table: table.replace("Rome", "Roma"),
        lambda table: table.astype({"age": "int32"}),
    ],
    ids=["name", "order", "label", "dtype"],
)
def test_a_resume_of_a_table_with_the_same_bits_and_other_columns_is_refused(other: Any, tmp_path: Path) -> None:
    """The networks' outputs would be taken for other columns, or the samples named otherwise."""
    TabularGAN(**CHECKED).fit_population(people(), seeds=[3, 5], run_dir=tmp_path)
    rule = "table must hold the rows that .*member-0000 was trained on, got others"
    with pytest.raises(ValueError, match=rule):
        TabularGAN(**CHECKED).fit_population(other(people()), seeds=[3, 5], run_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match=rule):
        TabularGAN(**CHECKED | {"seed": 3}).fit(other(people()), run_dir=tmp_path / "member-0000", resume=True)


def test_a_member_with_a_checkpoint_must_say_what_it_was_trained_on(tmp_path: Path) -> None:
    TabularGAN(**CHECKED).fit_population(people(), seeds=[3, 5], run_dir=tmp_path)
    (tmp_path / "member-0001" / "table.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"run_dir must have a table.json to be resumed, got .*member-0001"):
        TabularGAN(**CHECKED).fit_population(people(), seeds=[3, 5], run_dir=tmp_path, resume=True)


@pytest.mark.parametrize("place", ["member-0001", "member-0001/checkpoint"])
def test_a_file_in_the_place_of_a_member_is_refused_before_anything_is_written(place: str, tmp_path: Path) -> None:
    TabularGAN(**CHECKED).fit_population(people(), seeds=[3], run_dir=tmp_path)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    longer = CHECKED | {"steps": 8, "checkpoint_every": 4}
    with pytest.raises(NotADirectoryError, match=f"run_dir must be a folder, got the file .*{place}"):
        TabularGAN(**longer).fit_population(people(), seeds=[3, 5], run_dir=tmp_path, resume=True)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"grid": {"width": [3]}}, r"grid must name options \(epochs, .*\), got 'width'"),
        ({"grid": {"seed": [3]}}, "grid must name options .*, got 'seed'"),
        ({"grid": {"lr": 3}}, r"grid\['lr'\] must be a list of values, got 3"),
        ({"grid": {"lr": []}}, r"grid\['lr'\] must be a list of values, got \[\]"),
        ({"grid": {"lr": [-1.0]}}, "lr must be above 0, got -1.0"),
        ({"grid": {"epochs": [1, 2]}}, r"grid must not have epochs where steps are given, .* got steps \[\d+\]"),
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
    assert out.startswith("trained c.csv: 8 of 8 GANs done, ") and " iterations/s in all, engine " in out
    lines = out.splitlines()
    assert f"pictures: {Path('many/losses.png')}" in lines and (tmp_path / "many/losses.png").is_file()
    assert max(map(len, lines)) <= 80
    (begin,) = (i for i, line in enumerate(lines) if line.split() == "grid point GANs loss_d loss_g".split())
    table = lines[begin : begin + 5]
    assert [line.split()[:5] for line in table[1:3]] == [
        ["lr", "0.001,", "temperature", "0.2", "2"], ["lr", "0.001,", "temperature", "0.5", "2"],
    ]  # fmt: skip
    assert all(line.count("+-") == 2 for line in table[1:])
    assert json.loads((tmp_path / "many/population.json").read_text())["seeds"] == [0, 1]
    assert run("sample", "many/member-0003", "--n", "20", "--out", "s.csv")[0] == 0
    options = ("--lr", "1e-3", "--out", "alone", "--no-pictures", "--quiet")
    assert run("train", "c.csv", *FAST, *options)[0] == 0
    samples = [TabularGAN.load(tmp_path / folder).sample(20) for folder in ("alone", "many/member-0000")]
    assert samples[0].equals(samples[1])


def test_grid_points_with_long_names_have_lines_of_their_own(run: Run, tmp_path: Path) -> None:
    people().to_csv(tmp_path / "c.csv", index=False)
    grid = ("--grid", "discriminator_steps=1,2", "--grid", "temperature=0.25", "--grid", "penalty_weight=12.5")
    code, out, error = run("train", "c.csv", *FAST, *grid, "--seeds", "0:2", "--no-pictures")
    assert code == 0, error
    lines = out.splitlines()
    (begin,) = (i for i, line in enumerate(lines) if line.split() == "GANs loss_d loss_g".split())
    assert lines[begin + 3] == "discriminator_steps 2, temperature 0.25, penalty_weight 12.5"
    assert lines[begin + 4].startswith("  2 ") and lines[begin + 4].count("+-") == 2 and max(map(len, lines)) <= 80


def test_the_next_command_names_a_member_that_was_saved(run: Run, tmp_path: Path) -> None:
    people().to_csv(tmp_path / "c.csv", index=False)
    code, out, error = run("train", "c.csv", *FAST, "--grid", "lr=1e30,1e-3", "--out", "many")
    assert code == 0, error
    assert "1 of 2 GANs done, 1 failed" in out
    assert f"measure:  fastgan evaluate {Path('many/member-0001')}" in out
    assert run("train", "c.csv", *FAST, "--lr", "1e30", "--seeds", "0:2", "--out", "none", "--quiet")[0] == 1


def test_the_commands_go_on_after_a_kill(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people().to_csv(tmp_path / "c.csv", index=False)
    many = ("--seeds", "0:2", "--grid", "lr=1e-3,1e-2", "--steps", "6", "--checkpoint-every", "2")
    with monkeypatch.context() as patch:
        patch.setattr(training_population, "display", showing(Copy(2, 5)))
        assert run("train", "c.csv", *FAST, *many, "--rows", "150", "--out", "whole", "--no-pictures")[0] == 0
    assert run("sample", "killed/member-0002", "--n", "20", "--out", "s.csv")[0] == 0
    assert run("evaluate", "killed/member-0002", "--n", "100")[0] == 0
    for argv, says in (
        (("--seeds", "0,3"), "seed must be 1 as in "),
        (("--grid", "lr=1e-3,2e-2"), "--lr must be 0.01 as in "),
        (("--temperature", "1"), "unrecognized arguments"),
        (("--rows", "9"), "--rows must be left out with --resume"),
        (("--steps", "3"), "--steps must be at least the "),
    ):
        code, out, error = run("train", "--resume", "--out", "killed", *argv)
        assert (code, out) == (2, "") and says in error, error
    (tmp_path / "c.csv").rename(tmp_path / "d.csv")
    code, _, error = run("train", "--resume", "--out", "killed")
    assert code == 2 and "c.csv; where the table has moved, give its new path: " in error
    assert run("train", "d.csv", "--resume", "--out", "killed/member-0001", "--quiet", "--no-pictures")[0] == 0
    code, out, error = run("train", "d.csv", "--resume", "--out", "killed", "--no-pictures")
    assert code == 0 and "4 of 4 GANs done" in " ".join(out.split()), error
    for number in range(4):
        folders = [tmp_path / f"{name}/member-{number:04d}" for name in ("whole", "killed")]
        assert same(*map(TabularGAN.load, folders))
    assert run("train", "d.csv", "--resume", "--out", "killed", "--steps", "8", "--seeds", "0:2", *FAST[-2:])[0] == 0
    assert len(TabularGAN.load(tmp_path / "killed/member-0003").history["loss_d"]) == 8


def test_one_that_was_killed_before_a_checkpoint_begins_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people().to_csv(tmp_path / "c.csv", index=False)
    with monkeypatch.context() as patch:
        patch.setattr(training_population, "display", showing(Copy(0, 2)))
        assert run("train", "c.csv", *FAST, "--seeds", "0:2", "--out", "whole", "--no-pictures")[0] == 0
    code, out, error = run("train", "--resume", "--out", "killed", "--no-pictures")
    assert code == 0 and "2 of 2 GANs done" in " ".join(out.split()), error
    assert same(*(TabularGAN.load(tmp_path / f"{name}/member-0001") for name in ("whole", "killed")))


def test_ctrl_c_says_how_to_go_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people().to_csv(tmp_path / "c.csv", index=False)
    with monkeypatch.context() as patch:
        patch.setattr(training_population, "display", showing(CtrlC()))
        code, out, _ = run("train", "c.csv", *FAST, "--seeds", "0:2", "--out", "many")
    assert code == 130 and out.startswith("interrupted, saved c.csv: 0 of 2 GANs done, ")
    assert "go on:    fastgan train --resume --out many" in out
    code, out, _ = run("train", "--resume", "--out", "many")
    assert code == 0 and " ".join(out.split()).startswith(f"trained {tmp_path / 'c.csv'}: ")  # a long path is on a line


def test_a_record_of_each_member_in_json(run: Run, tmp_path: Path) -> None:
    people().to_csv(tmp_path / "c.csv", index=False)
    many = ("--seeds", "0,5", "--grid", "lr=1e-3,1e30", "--json", "--out", "many")
    code, out, error = run("train", "c.csv", *FAST, *many)
    assert code == 0 and "it/s" in error, error
    found = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert (found["run_dir"], found["source"], found["interrupted"]) == ("many", "c.csv", False)
    assert found["pictures"] == [str(Path("many/losses.png"))] and found["notes"] == []
    assert found["steps_per_second"] > 0 and found["engine"] in ("cpu", "eager")
    members = found["members"]
    assert [(one["seed"], one["options"]) for one in members] == [
        (0, {"lr": 1e-3}), (5, {"lr": 1e-3}), (0, {"lr": 1e30}), (5, {"lr": 1e30}),
    ]  # fmt: skip
    assert [one["run_dir"] for one in members] == [str(Path(f"many/member-{number:04d}")) for number in range(4)]
    assert [bool(one["failed"]) for one in members] == [False, False, True, True]
    assert "not finite" in members[2]["failed"] and [one["step"] for one in members[:2]] == [3, 3]
    assert all(one["seconds"] > 0 and not one["interrupted"] for one in members)
    history = TabularGAN.load(tmp_path / "many/member-0001").history
    assert members[1]["means"] == {name: values.mean() for name, values in history.items()}


def by_two_processes(folder: Path, *argv: str) -> list[str]:
    """What each says of the command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}  # what it sets
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "fastgan", *argv],
            env={**os.environ, **torchrun, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return [out for out, _ in said]


def test_two_processes_share_the_members_and_the_first_speaks(run: Run, tmp_path: Path) -> None:
    people().to_csv(tmp_path / "c.csv", index=False)
    many = ("train", "c.csv", *FAST, "--seeds", "0:3", "--quiet", "--json", "--no-pictures", "--out")
    first, second = by_two_processes(tmp_path, *many, "two")
    assert second == "" and len(json.loads(first)["members"]) == 3
    assert run(*many, "one")[0] == 0
    for number in range(3):
        assert same(*(TabularGAN.load(tmp_path / f"{name}/member-{number:04d}") for name in ("one", "two")))


def test_two_processes_that_train_one_speak_once(tmp_path: Path) -> None:
    people().to_csv(tmp_path / "c.csv", index=False)
    first, second = by_two_processes(tmp_path, "train", "c.csv", *FAST, "--no-pictures", "--out", "two")
    assert second == "" and first.startswith("trained c.csv: iteration 3, ")


def test_a_population_of_version_0_2_0_must_be_trained_again(run: Run, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/population.json").write_text('{"seeds": [0], "grid": {}}')
    code, _, error = run("train", "--resume", "--out", "old")
    assert code == 2 and "a population of TabularGANs must be trained again, it has no checkpoints, got old" in error


def test_what_cannot_be_is_one_line(run: Run, tmp_path: Path) -> None:
    people().to_csv(tmp_path / "c.csv", index=False)
    for argv, rule in (
        (("--seeds", "0:2", "--seed", "1"), "--seed must not be given with --seeds"),
        (("--grid", "k=1,2"), "grid must name options (epochs, "),
        (("--grid", "lr=1", "--grid", "lr=2"), "--grid must name each field once"),
        (("--grid", "ema_decay=0.5,0.9", "--ema-decay", "0.9"), "--ema-decay must not be given with --grid ema_decay"),
        (("--grid", "epochs=1,2"), "--steps must not be given with --grid epochs"),
    ):
        code, _, error = run("train", "c.csv", *FAST, *argv)
        assert code == 2 and error.count("\n") == 1 and rule in error, (argv, error)
    assert not (tmp_path / "runs").exists()
