"""The command line: what a run leaves behind, and what its options do."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
import subprocess
import sys
import textwrap
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import FAST, TINY, CtrlC, Run, check_refusal, check_success, showing

import fastgan
from fastgan.apps import presets
from fastgan.apps.cli import runs
from fastgan.apps.cli import train as train_command
from fastgan.apps.cli.arguments import Parser, add_fields, field_help
from fastgan.apps.presets import Networks
from fastgan.training import TrainConfig

pytest.importorskip("matplotlib", reason="a run draws pictures")
Image = pytest.importorskip("PIL.Image", reason="decoding pictures needs pillow")


def std_of_picture(path: Path) -> float:
    with Image.open(path) as image:
        return float(np.asarray(image.convert("L")).std())


# ---------------------------------------------------------------- train


@pytest.mark.parametrize("source", ["ring", "gaussians", "digits", "mixture1200d"])
def test_M80_train_leaves_a_whole_run_folder(run: Run, source: str) -> None:
    if source == "digits":
        pytest.importorskip("sklearn", reason="digits come with scikit-learn")
    code, out, err = run("train", source, *TINY)
    assert code == 0, err
    folder = Path("runs") / f"{source}-1"
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "history.csv", "checkpoint", "samples.png", "losses.png", "d_curves.png"} | (
        {"snapshots"} if source != "mixture1200d" else set()  # no picture shows 1,200 columns
    )
    for picture in folder.glob("*.png"):
        assert std_of_picture(picture) > 5
    config = json.loads((folder / "config.json").read_text())
    assert config["source"] == source and config["train"]["steps"] == 20
    assert config["networks"]["generator_hidden"] == [8, 8]
    rows = (folder / "history.csv").read_text().splitlines()
    assert rows[0].startswith("step,loss_d,loss_g,d_real,d_fake") and len(rows) == 21
    assert f"{folder}/samples.png" in out and "engine" in out and "iterations/s" in out
    assert ("modes covered" in out) == (source not in ("digits",))
    assert err.splitlines()[-1].startswith("20/20 ")  # standard error is no terminal here


def test_runs_are_numbered_and_quiet_is_quiet(run: Run) -> None:
    for number in (1, 2):
        assert run("train", "ring", *TINY, *FAST) == (0, "", "")
        assert Path(f"runs/ring-{number}/config.json").is_file()
    assert not list(Path("runs").rglob("*.png"))


def test_same_seed_same_history_other_seed_other_history(run: Run, ring: Path) -> None:
    assert run("train", "ring", *TINY, "--out", "a", *FAST)[0] == 0
    assert run("train", "ring", *TINY, "--out", "b", *FAST, "--seed", "1")[0] == 0
    histories = [Path(folder, "history.csv").read_bytes() for folder in (ring, "a", "b")]
    assert histories[0] == histories[1] != histories[2]


def test_resume_is_bit_exact(run: Run, ring: Path) -> None:
    tiny = (*TINY[:-1], "7")
    assert run("train", "ring", *tiny, "--out", "part", *FAST)[0] == 0
    assert run("train", "--resume", "--out", "part", "--steps", "20", *FAST)[0] == 0
    assert Path("part/history.csv").read_bytes() == (ring / "history.csv").read_bytes()
    assert Path("part/config.json").read_bytes() == (ring / "config.json").read_bytes()
    for folder, out in ((str(ring), "whole.npy"), ("part", "part.npy")):
        assert run("sample", folder, "--n", "50", "--out", out)[0] == 0
    assert Path("part.npy").read_bytes() == Path("whole.npy").read_bytes()


def test_a_resume_changes_the_rate_on_request(run: Run, ring: Path) -> None:
    shutil.copytree(ring, "changed")
    rates = ("--steps", "22", "--lr", "3e-3", "--generator-lr", "2e-3")
    assert run("train", "--resume", "--out", "changed", *rates, *FAST)[0] == 0
    kept = json.loads(Path("changed/config.json").read_text())["train"]
    assert (kept["optimizer"]["lr"], kept["generator_optimizer"]["lr"]) == (3e-3, 2e-3)
    assert run("train", "--resume", "--out", "changed", "--steps", "24", *FAST)[0] == 0  # and goes on with them
    check_refusal(run("train", "--resume", "--out", "changed", "--preset", "r3gan"), "--preset must be left out")


def test_a_preset_by_the_name_of_a_paper(run: Run) -> None:
    args = ("--preset", "r3gan", "--rows", "200", "--steps", "2", "--batch-size", "20", "--width", "8", *FAST)
    assert run("train", "ring", "--out", "r3gan", *args)[0] == 0
    kept = json.loads(Path("r3gan/config.json").read_text())
    assert kept["train"]["loss"] == "relativistic" and kept["train"]["gradient_penalty"] == ["r1", "r2"]
    assert kept["train"]["optimizer"]["betas"] == [0.0, 0.99] and kept["networks"]["dropout"] == 0.0
    code, out, _ = run("train", "ring", "--out", "weighted", *args, "--penalty-weight", "3", "--no-pictures")
    assert code == 0 and json.loads(Path("weighted/config.json").read_text())["train"]["penalty_weight"] == 3.0


def test_the_config_of_a_run_holds_out_the_same_rows(run: Run) -> None:
    tiny = ("--batch-size", "20", "--width", "8", "--steps", "1")
    assert run("train", "digits", "--hold-out", "0.3", *tiny, "--out", "a", *FAST)[0] == 0
    assert run("train", "--config", "a/config.json", "--out", "b", *FAST)[0] == 0
    assert runs.read(Path("b")).held_out == runs.read(Path("a")).held_out == int(0.3 * 1797)
    assert run("train", "--config", "a/config.json", "--hold-out", "0.1", "--out", "c", *FAST)[0] == 0
    assert runs.read(Path("c")).held_out == 179
    np.save("few.npy", np.zeros((20, 64), dtype=np.float32))
    says = "--hold-out must be given where --config is of a run on more than 20 rows"
    check_refusal(run("train", "few.npy", "--config", "a/config.json", *FAST), says)


def test_a_file_takes_what_flags_take(run: Run) -> None:
    Path("t.toml").write_text('optimizer = "adamw"\nweight_decay = 0.02\nhold_out = 0.25\n')
    assert run("train", "ring", *TINY, "--config", "t.toml", "--out", "a", *FAST)[0] == 0
    assert runs.read(Path("a")).held_out == 50
    kept = json.loads(Path("a/config.json").read_text())["train"]["optimizer"]
    assert (kept["type"], kept["weight_decay"]) == ("AdamW", 0.02)
    Path("p.toml").write_text('preset = "r3gan"\n[train]\noptimizer = "rmsprop"\n')
    assert run("train", "ring", *TINY, "--config", "p.toml", "--out", "p", *FAST)[0] == 0
    kept = json.loads(Path("p/config.json").read_text())["train"]
    assert kept["loss"] == "relativistic" and kept["optimizer"]["type"] == "RMSprop"
    for text, says in (
        ('optimizer = "adamm"', "--optimizer must be one of adam, adamw"),
        ('preset = "r4gan"', "--preset must be one of"),
        ("hold_out = 1.5", "--hold-out must lie in [0, 1), got 1.5"),
    ):
        Path("w.toml").write_text(text)
        check_refusal(run("train", "ring", *TINY, "--config", "w.toml", *FAST), says)


def test_a_run_that_python_began_goes_on(run: Run) -> None:
    config = TrainConfig(steps=4, batch_size=20, discriminator_optimizer=fastgan.Adam(3e-4))
    gan = fastgan.GAN(torch.nn.Linear(4, 2), torch.nn.Linear(2, 1), latent_dim=4)
    fastgan.train(gan, fastgan.data.load("ring", n=200, seed=1), config, run_dir="py")
    on = ("train", "ring", "--resume", "--out", "py", "--rows", "200", "--data-seed", "1")
    assert run(*on, "--steps", "6", *FAST) == (0, "", "")
    kept = runs.read(Path("py"))
    assert (kept.source, kept.n, kept.data_seed, kept.train.steps) == ("ring", 200, 1, 6)
    assert run("train", "--resume", "--out", "py", "--steps", "8", "--lr", "1e-4", *FAST) == (0, "", "")


def test_other_optimisers_by_their_names(run: Run) -> None:
    args = ("--rows", "200", "--steps", "2", "--batch-size", "20", "--width", "8", *FAST)
    for kind, flags in (
        ("adamw", ("--weight-decay", "0.1", "--beta1", "0.3")), ("rmsprop", ("--momentum", "0.2")), ("sgd", ()),
        ("momentum", ("--momentum", "0.6", "--lr", "0.05")),
    ):  # fmt: skip
        assert run("train", "ring", "--out", kind, "--optimizer", kind, *flags, *args)[0] == 0
        kept = json.loads(Path(kind, "config.json").read_text())["train"]["optimizer"]
        assert kept["type"].lower() == kind
    assert (kept["lr"], kept["momentum"]) == (0.05, 0.6)
    bad = run("train", "ring", "--optimizer", "momentum", "--weight-decay", "1")
    check_refusal(bad, "--weight-decay must come with")


def test_resume_before_the_first_checkpoint_starts_again(run: Run, ring: Path) -> None:
    Path("killed").mkdir()
    Path("killed/config.json").write_bytes((ring / "config.json").read_bytes())
    assert run("train", "--resume", "--out", "killed", *FAST)[0] == 0
    assert Path("killed/history.csv").read_bytes() == (ring / "history.csv").read_bytes()
    Path("early").mkdir()
    Path("early/config.json").write_bytes((ring / "config.json").read_bytes())
    assert run("train", "--resume", "--out", "early", "--lr", "3e-3", *FAST) == (0, "", "")
    assert json.loads(Path("early/config.json").read_text())["train"]["optimizer"]["lr"] == 3e-3


def test_ctrl_c_saves_and_exits_with_130(run: Run, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(train_command, "progress", showing(CtrlC(5)))
        code, out, _ = run("train", "ring", *TINY, "--out", "stopped")
    assert code == 130 and "interrupted, saved" in out and "--resume --out stopped" in out
    assert Path("stopped/samples.png").is_file()
    assert run("train", "--resume", "--out", "stopped", *FAST)[0] == 0
    assert Path("stopped/history.csv").read_bytes() == (ring / "history.csv").read_bytes()


def test_diverging_training_exits_with_1_and_one_line(run: Run) -> None:
    code, out, err = run("train", "ring", *TINY, "--lr", "1e30", "--out", "x", *FAST)
    assert code == 1 and out == ""
    assert err.startswith("fastgan train: ") and "finite" in err and err.count("\n") == 1


def test_a_table_is_standardised_and_brought_back(run: Run) -> None:
    rng = np.random.default_rng(0)
    table = np.stack([1e4 + 500 * rng.standard_normal(300), np.full(300, 7.25), rng.random(300)], 1)
    np.savetxt("table.csv", table, delimiter=",", header="mass,constant,u", comments="")
    assert run("train", "table.csv", "--steps", "30", "--hold-out", "0", "--out", "r", *FAST)[0] == 0
    columns = json.loads(Path("r/config.json").read_text())["columns"]
    np.testing.assert_allclose(columns["mean"], table.mean(0), rtol=1e-6)
    np.testing.assert_allclose(columns["std"], table.std(0), rtol=1e-4, atol=1e-12)
    assert run("sample", "r", "--n", "200", "--out", "x.npy")[0] == 0
    samples = np.load("x.npy")
    assert (samples[:, 1] == 7.25).all()
    assert 8e3 < samples[:, 0].mean() < 1.2e4


def test_the_columns_of_a_table_keep_their_names(run: Run) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 3))
    np.savetxt("people.csv", rows, delimiter=",", header='age,"income, $ a $ year",kids', comments="")
    assert run("train", "people.csv", *TINY[2:], "--out", "r", "--quiet")[0] == 0
    assert std_of_picture(Path("r/samples.png")) > 5
    assert run("sample", "r", "--n", "5", "--out", "x.csv")[0] == 0
    assert Path("x.csv").read_text().splitlines()[0] == 'age,"income, $ a $ year",kids'
    again = fastgan.data.read("x.csv")
    assert again.column_names == ("age", "income, $ a $ year", "kids") and again.shape == (5, 3)
    config = json.loads(Path("r/config.json").read_text())
    assert config["column_names"][2] == "kids"
    Path("r/config.json").write_text(json.dumps({**config, "column_names": ["age"]}))
    check_refusal(run("sample", "r", "--out", "x.npy"), "column_names must be one for each of 3 columns, got 1")
    del config["column_names"]  # as an older version wrote it
    Path("r/config.json").write_text(json.dumps(config))
    assert run("sample", "r", "--n", "5", "--out", "y.csv")[0] == 0
    assert Path("y.csv").read_text() == "".join(Path("x.csv").read_text().splitlines(keepends=True)[1:])


def test_image_files_keep_their_shape(run: Run) -> None:
    np.save("faces.npy", np.random.default_rng(0).integers(0, 256, (40, 6, 5), dtype=np.uint8))
    assert run("train", "faces.npy", "--steps", "5", "--out", "r", *FAST, "--batch-size", "8")[0] == 0
    config = json.loads(Path("r/config.json").read_text())
    assert config["image_shape"] == [6, 5] and config["networks"]["output_activation"] == "sigmoid"
    assert config["columns"] is None and Path(config["source"]).is_absolute()


def test_flags_reach_the_config(run: Run) -> None:
    flags = "--k 2 --loss minimax --gradient-penalty r1 --penalty-weight 0.5 --max-col-norm none"
    more = "--lr 0.01 --beta1 0.4 --generator-lr 0.02 --prior uniform --latent-dim 3 --generator-hidden 5,6,7"
    check_success(run("train", "ring", *TINY, "--out", "r", *FAST, *flags.split(), *more.split()))
    config = json.loads(Path("r/config.json").read_text())
    train, networks = config["train"], config["networks"]
    assert (train["k"], train["loss"]) == (2, "minimax")
    assert (train["gradient_penalty"], train["max_col_norm"]) == ("r1", None)
    assert train["optimizer"]["lr"] == 0.01 and train["optimizer"]["betas"] == [0.4, 0.999]
    assert train["generator_optimizer"]["lr"] == 0.02 and train["discriminator_optimizer"] is None
    assert (networks["prior"], networks["latent_dim"]) == ("uniform", 3)
    assert networks["generator_hidden"] == [5, 6, 7] and networks["discriminator_hidden"] == [8, 8]


def test_rates_replace_those_of_the_preset(run: Run) -> None:
    def rates(folder: str, *argv: str) -> list[float | None]:
        tiny = ("--rows", "100", "--batch-size", "10", "--width", "4", "--steps", "1", *FAST)
        assert run("train", "gaussian", *tiny, "--out", folder, *argv)[0] == 0
        train = json.loads(Path(folder, "config.json").read_text())["train"]
        return [train[name] and train[name]["lr"] for name in ("optimizer", "generator_optimizer")]

    assert rates("a") == [1e-3, 3e-4]
    assert rates("b", "--lr", "2e-4") == [2e-4, None]
    assert rates("c", "--generator-lr", "0.5") == [1e-3, 0.5]
    assert rates("d", "--beta1", "0.1", "--discriminator-lr", "0.5") == [0.5, 3e-4]


def test_the_average_of_a_short_training_has_forgotten_the_first_weights(run: Run) -> None:
    """At the preset's 0.999 their share was 61% after 500 iterations: none or one of the 8 modes was covered."""
    out = check_success(run("train", "ring", "--steps", "500", "--no-pictures", "--json", "--out", "short"))
    assert json.loads(out)["modes"]["covered"] == 8
    assert runs.read(Path("short")).train.ema_decay == 0.98


def test_a_given_decay_and_a_long_training_keep_theirs(run: Run) -> None:
    tiny = ("--rows", "100", "--batch-size", "10", "--width", "4", *FAST)
    assert run("train", "ring", *tiny, "--steps", "5", "--ema-decay", "0.9", "--out", "given")[0] == 0
    assert runs.read(Path("given")).train.ema_decay == 0.9
    preset = presets.for_source("ring", fastgan.data.load("ring", n=10))
    assert presets.for_length(preset, preset.train.steps) == preset
    assert presets.for_length(preset, 0).train.ema_decay == 0.5


def test_another_loss_drops_the_smoothing_of_the_preset(run: Run) -> None:
    pytest.importorskip("sklearn", reason="digits come with scikit-learn")
    for loss, label in (("hinge", 1.0), ("minimax", 0.9)):
        assert run("train", "digits", *TINY, *FAST, "--loss", loss, "--out", loss)[0] == 0
        assert json.loads(Path(loss, "config.json").read_text())["train"]["real_label"] == label
    check_refusal(run("train", "digits", "--loss", "hinge", "--real-label", "0.9"), "--real-label must be 1")


def test_packing_widens_the_discriminator(run: Run) -> None:
    """And what draws or measures D leaves a packed one out, for it has nothing to say of one sample."""
    assert run("train", "ring", *TINY, "--pack", "2", "--out", "packed", "--quiet") == (0, "", "")
    assert run("plot", "packed", "--out", "again.png")[0] == 0
    np.save("new.npy", fastgan.data.ring(50, seed=9).tensor().numpy())
    assert run("evaluate", "packed", "--n", "100", "--held-out", "new.npy")[0] == 0
    check_refusal(
        run("plot", "discriminator", "packed", "--out", "d.png"),
        "RUN_DIR must have pack=1 for the picture discriminator, got 2",
    )
    assert run("train", "ring", *TINY, "--pack", "2", "--seeds", "0:2", "--out", "spec", *FAST)[0] == 0


def test_a_discriminator_that_compares_rows_draws_no_surface(run: Run) -> None:
    """It once drew one of 40,000 points, each compared with each: 128 GB for four features."""
    assert run("train", "ring", *TINY, "--minibatch-features", "4", "--out", "compares", "--quiet") == (0, "", "")
    assert Path("compares/samples.png").is_file()
    check_refusal(
        run("plot", "discriminator", "compares", "--out", "d.png"),
        "RUN_DIR must have a D of single rows for the picture discriminator",
    )


# ---------------------------------------------------------------- sample, plot, info


def test_M69_samples_do_not_depend_on_how_they_are_split(run: Run, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastgan.apps.cli import sample

    assert run("sample", str(ring), "--n", "700", "--seed", "1", "--out", "all.npy")[0] == 0
    monkeypatch.setattr(sample, "_CHUNK", 64)
    assert run("sample", str(ring), "--n", "700", "--seed", "1", "--out", "chunked.npy")[0] == 0
    assert Path("all.npy").read_bytes() == Path("chunked.npy").read_bytes()
    rest = ("--n", "300", "--offset", "400", "--seed", "1", "--out", "rest.npy")
    assert run("sample", str(ring), *rest)[0] == 0
    assert (np.load("rest.npy") == np.load("all.npy")[400:]).all()


def test_samples_are_those_of_the_library(run: Run, ring: Path) -> None:
    config = runs.read(ring)
    expected = config.restore(runs.trained(ring, config).sample(100, seed=3)).numpy()
    assert run("sample", str(ring), "--n", "100", "--seed", "3", "--out", "x.npy")[0] == 0
    assert run("sample", str(ring), "--n", "100", "--seed", "3", "--out", "x.csv")[0] == 0
    found = np.load("x.npy")
    assert found.dtype == np.float64 and (found == expected).all()
    assert (np.loadtxt("x.csv", delimiter=",") == expected).all()
    assert run("sample", str(ring), "--n", "100", "--seed", "4", "--out", "y.npy")[0] == 0
    assert not (np.load("y.npy") == expected).any()


def test_sample_as_a_picture(run: Run, ring: Path) -> None:
    assert run("sample", str(ring), "--n", "100", "--out", "x.png")[0] == 0
    assert std_of_picture(Path("x.png")) > 5
    assert run("sample", str(ring), "--out", "full.png")[0] == 0  # as many points as the run's own picture
    assert Path("full.png").read_bytes() == (ring / "samples.png").read_bytes()
    assert run("sample", str(ring), "--out", "x.npy")[0] == 0 and np.load("x.npy").shape == (64, 2)


def test_plot_draws_a_run_again(run: Run, ring: Path) -> None:
    code, out, _ = run("plot", str(ring), "--out", "again")
    assert code == 0 and len(out.splitlines()) == 3
    for name in ("samples.png", "losses.png", "d_curves.png"):
        assert Path("again", name).read_bytes() == (ring / name).read_bytes()


def test_plot_losses_writes_picture_and_numbers(run: Run) -> None:
    from fastgan.plots import loss_table

    code, out, _ = run("plot", "losses", "--out", "costs.png")
    assert code == 0 and out.split() == ["costs.png", "costs.csv"]
    header = Path("costs.csv").read_text().splitlines()[0].split(",")
    numbers = np.loadtxt("costs.csv", delimiter=",", skiprows=1)
    for column, name in enumerate(header):
        assert (numbers[:, column] == loss_table()[name]).all()  # every digit is there


def test_info(run: Run) -> None:
    code, out, _ = run("info")
    assert code == 0 and torch.__version__ in out and "loss on cpu" in out
    code, out, _ = run("info", "--json")
    assert code == 0 and json.loads(out)["torch"] == torch.__version__


# ---------------------------------------------------------------- parts


def test_every_plain_field_has_a_flag_with_help() -> None:
    for owner in (TrainConfig, Networks):
        parser = Parser(prog="x", description="x")
        add_fields(parser, owner)
        flags = {action.dest: action for action in parser._actions}
        hints = typing.get_type_hints(owner)
        for item in dataclasses.fields(owner):
            if "Adam" in str(hints[item.name]):
                continue  # has flags of its own
            if item.name.endswith("scheduler"):
                continue  # a function, which no flag can give
            assert len(flags[item.name].help or "") > 5, item.name


def test_several_penalties_are_given_as_a_list(run: Run) -> None:
    assert run("train", "ring", *TINY, "--gradient-penalty", "r1,r2", "--out", "a", *FAST) == (0, "", "")
    assert runs.read(Path("a")).train.gradient_penalty == ("r1", "r2")
    assert run("train", "ring", *TINY, "--gradient-penalty", "r1", "--out", "b", *FAST)[0] == 0
    assert runs.read(Path("b")).train.gradient_penalty == "r1"
    says = "must be one of None, wgan-gp, r1, r2, got 'r3'"
    check_refusal(run("train", "ring", *TINY, "--gradient-penalty", "r1,r3", *FAST), says)


def test_field_help_reads_shared_and_wrapped_entries() -> None:
    found = field_help(TrainConfig)
    assert found["generator_optimizer"] == found["discriminator_optimizer"]
    assert found["penalty_weight"] == "weight of the penalty, of each where there are several."
    assert "Raises" not in found["impl"]


def test_field_help_reads_a_docstring_with_and_without_indentation() -> None:
    """From version 3.13 on, Python removes that of the source."""
    dedented = type("Dedented", (), {"__doc__": inspect.cleandoc(TrainConfig.__doc__ or "")})
    indented = type("Indented", (), {"__doc__": "First.\n" + textwrap.indent(dedented.__doc__ or "", "    ")})
    assert field_help(dedented) == field_help(indented) == field_help(TrainConfig)


@pytest.mark.parametrize("command", ["train", "sample", "evaluate", "plot", "info"])
def test_help_shows_an_example(run: Run, command: str) -> None:
    code, out, err = run(command, "--help")
    assert code == 0 and err == "" and f"fastgan {command}" in out.partition("example")[2]


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastgan", "train", "rign"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("fastgan train: no data set or file 'rign'")
    assert list(tmp_path.iterdir()) == []
