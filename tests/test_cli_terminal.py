"""The command line in a terminal: 80 columns, completion, hints, settings in a file, results for programs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, check_refusal, check_success

from fastgan import data
from fastgan.apps.cli import parser, train
from fastgan.apps.cli.arguments import Parser, commands_of, folded, wrapped
from fastgan.training import display


def all_parsers(top: Parser) -> Iterator[Parser]:
    yield top
    for inner in commands_of(top).values():
        yield from all_parsers(inner)


def test_help_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    seen = 0
    for one in all_parsers(parser()):
        for line in one.format_help().splitlines():
            assert len(line) <= 80, f"{one.prog}: {line}"
            seen += 1
    assert seen > 200


def test_help_of_train_tells_defaults_and_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = " ".join(commands_of(parser())["train"].format_help().split())
    for flag, said in (
        ("--k", "(1)"),
        ("--ema-decay", "(none)"),
        ("--nonfinite", "(raise)"),
        ("--prior", '"spherical". (normal)'),
        ("--generator-hidden", "(256,256)"),
        (
            "--discriminator-activation",
            "One of none, relu, leaky_relu, tanh, sigmoid, elu, softplus, gelu. (leaky_relu)",
        ),
    ):
        part = re.split(r" --[a-z]", text.partition(f" {flag} ")[2])[0]
        assert said in part, f"{flag}: {part}"


def test_help_of_train_tells_what_each_preset_replaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The flags that it prints make the config that a preset makes."""
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    text = commands_of(parser())["train"].format_help().partition("presets, in place of the numbers in brackets:\n")[2]
    tried = 0
    for names, flags in re.findall(r"^  (\S.*)\n((?:    .*\n)+)", text, re.M):
        assert all(len(line) <= 80 for line in flags.splitlines())
        for name in set(names.split(", ")) & {"digits", *data.SYNTHETIC}:
            configs = [
                train._fresh(parser().parse_args(["train", name, *more]))[0].to_json()
                for more in ([], [*flags.split(), "--optimizer", "adam"])
            ]
            assert configs[0] == configs[1], name
            tried += 1
    assert tried == 1 + len(data.SYNTHETIC)
    assert "  mnist or fashion-mnist\n    --steps 25000" in text


# ---------------------------------------------------------------- progress

ROWS = {name: np.array([0.5]) for name in ("d_real", "d_fake", "loss_d", "loss_g")}


@pytest.mark.parametrize(("columns", "losses"), [(200, True), (80, False)])
def test_the_bar_gives_up_losses_first(monkeypatch: pytest.MonkeyPatch, columns: int, losses: bool) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", str(columns))
    bar = display._rich_bar()
    rate = "12,345 it/s"
    room = display._room(bar, len("training") + len("10000/10000") + len(rate))
    shown = display.readout(ROWS, room)
    assert "D(G(z)) 0.50" in shown and ("loss_d" in shown) == losses
    bar.add_task("training", total=10_000, completed=10_000, rate=rate, readout=shown)
    with bar.console.capture() as captured:
        bar.console.print(bar.get_renderable())
    (line,) = captured.get().splitlines()
    assert len(line.rstrip()) <= columns and shown in line and "…" not in line
    assert display.readout(ROWS, 10) == ""


def test_lines_of_progress_fit_80_columns(run: Run) -> None:
    code, _, said = run(
        "train", "ring", "--rows", "300", "--steps", "1000", "--width", "2", "--no-pictures", "--snapshots", "0"
    )
    assert code == 0
    assert all(len(line) <= 80 for line in said.splitlines()) and "D(x)" in said


# ---------------------------------------------------------------- hints


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("trian digits", "fastgan: COMMAND invalid choice: 'trian'"),
        ("trian digits", "did you mean train?"),
        ("train digits --stpes 10", "fastgan train: unrecognized arguments: --stpes 10; did you mean --steps?"),
        ("train digits --generator-hiden=3", "did you mean --generator-hidden?"),
    ],
)
def test_the_word_that_was_meant_is_named(run: Run, arguments: str, said: str) -> None:
    check_refusal(run(*arguments.split()), said)


def test_a_word_like_none_gets_no_hint(run: Run) -> None:
    assert "did you mean" not in run("train", "digits", "--xyzzy")[2]


# ---------------------------------------------------------------- completion


def test_completion_of_an_unknown_shell_is_refused(run: Run) -> None:
    check_refusal(run("completion", "tcsh"), "fastgan completion: SHELL must be one of bash, zsh, fish, got 'tcsh'\n")


@pytest.mark.parametrize(
    ("typed", "among", "not_among"),
    [
        ("fastgan tr", "train", "sample"),
        ("fastgan train --ste", "--steps", "--seed"),
        ("fastgan train dig", "digits", "ring"),
    ],
)
def test_bash_completes(run: Run, typed: str, among: str, not_among: str) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    script = run("completion", "bash")[1]
    words = typed.split(" ")
    ask = f"{script}\nCOMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _fastgan; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    given = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert given.stderr == "" and among in given.stdout.split() and not_among not in given.stdout.split()


def test_fish_completes(run: Run) -> None:
    if shutil.which("fish") is None:
        pytest.skip("no fish")
    script = run("completion", "fish")[1] + "\ncomplete -C 'fastgan train --ste'\ncomplete -C 'fastgan tr'"
    given = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, check=True)
    assert {"--steps", "train"} <= set(given.stdout.split())


def test_zsh_takes_the_script(run: Run, tmp_path: Path) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("no zsh")
    script = "compadd() { shift; print -- $@ }; _files() { }; compdef() { }\n" + run("completion", "zsh")[1]
    ask = f"functions[compdef]='true'\n{script}\nwords=(fastgan train --st); CURRENT=3; _fastgan"
    given = subprocess.run(["zsh", "-f", "-c", ask], capture_output=True, text=True, cwd=tmp_path)
    assert given.returncode == 0 and given.stderr == "" and "--steps" in given.stdout.split(), given


# ---------------------------------------------------------------- settings in a file

QUICK = ("--rows", "300", "--no-pictures", "--snapshots", "0", "--quiet")
TOML = """
steps = 3
batch-size = 20
lr = 0.002

[train]
loss = "hinge"
real_label = 1.0

[networks]
generator_hidden = [4, 6]
"""


def config_of(folder: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(Path(folder, "config.json").read_text())
    return found


def test_flags_win_over_those_of_a_toml_file(run: Run) -> None:
    Path("fast.toml").write_text(TOML)
    check_success(run("train", "ring", "--config", "fast.toml", "--batch-size", "10", "--out", "r", *QUICK))
    config = config_of("r")
    trained, networks = config["train"], config["networks"]
    assert isinstance(trained, dict) and isinstance(networks, dict)
    assert (trained["steps"], trained["batch_size"], trained["loss"]) == (3, 10, "hinge")
    assert trained["optimizer"]["lr"] == 0.002 and trained["k"] == 2  # the preset's, where neither says more
    assert networks["generator_hidden"] == [4, 6] and networks["discriminator_hidden"] == [128, 128]


def test_a_table_of_an_optimiser_changes_that_of_the_preset(run: Run) -> None:
    Path("a.toml").write_text("steps = 1\n[optimizer]\nlr = 0.25\n[generator_optimizer]\nweight_decay = 0.5\n")
    check_success(run("train", "ring", "--config", "a.toml", "--out", "r", *QUICK))
    trained = config_of("r")["train"]
    assert isinstance(trained, dict)
    of_both, of_g = trained["optimizer"], trained["generator_optimizer"]
    assert (of_both["type"], of_both["lr"], of_both["betas"]) == ("Adam", 0.25, [0.5, 0.999])
    assert of_g == {**of_both, "lr": 0.001, "weight_decay": 0.5}


def test_the_config_of_a_run_makes_the_same_run(run: Run) -> None:
    flags = ("--width", "4", "--steps", "4", "--conditional", "--seed", "5", "--data-seed", "2")
    assert run("train", "ring", *flags, "--out", "a", *QUICK)[0] == 0
    assert run("train", "--config", "a/config.json", "--out", "b", *QUICK[2:])[0] == 0  # the file has --rows
    assert config_of("a") == config_of("b")
    assert Path("a/history.csv").read_text() == Path("b/history.csv").read_text()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.toml", None, "--config must be an existing file, got 'none.toml'"),
        ("a.toml", "steps = ", "--config must be TOML (.toml) or JSON, got a.toml:"),
        ("a.json", "[1]", "--config must be TOML (.toml) or JSON, got a.json: it must be an object"),
        ("a.toml", "stepps = 3", "got stepps in a.toml; did you mean steps?"),
        ("a.toml", "[train]\nlatent_dim = 3", "got latent_dim in a.toml"),
        ("a.toml", "train = 3", "--config must have a table train, got 3"),
        ("a.toml", "k = 0", "--k must be at least 1, got 0"),
        ("a.toml", "generator_hidden = 3", "--generator-hidden must be widths, got 3"),
        ("a.toml", "preset = ['r3gan']", "--preset must be one of r3gan, got ['r3gan']"),
        ("a.toml", "source = 3", "--config must name its source in text, got 3"),
        (
            "a.toml",
            "[optimizer]\nrate = 0.1",
            "--optimizer must have fields of Adam: lr, betas, eps, weight_decay, got 'rate'",
        ),
        (
            "a.toml",
            "gradient_penalty = [['r1']]",
            "--gradient-penalty must be one of None, wgan-gp, r1, r2, got ['r1']",
        ),
    ],
)
def test_a_bad_file_of_settings_is_one_sentence(run: Run, name: str, text: str | None, said: str) -> None:
    if text is not None:
        Path(name).write_text(text)
    check_refusal(run("train", "ring", "--config", name, "--out", "r", *QUICK), said)
    assert not Path("r").exists()


def test_resume_takes_no_file_of_settings(run: Run) -> None:
    check_refusal(
        run("train", "--resume", "--out", "r", "--config", "a.toml"), "--config must be left out with --resume"
    )


# ---------------------------------------------------------------- results for programs


def test_results_in_json(run: Run) -> None:
    code, out, err = run("train", "ring", "--steps", "3", "--width", "4", "--json", "--out", "r", *QUICK[:-1])
    assert code == 0, err
    found = json.loads(out)
    assert (found["run_dir"], found["source"], found["step"], found["interrupted"]) == ("r", "ring", 3, False)
    assert found["modes"]["of"] == 8 and set(found["means"]) >= {"loss_d", "d_real"} and "it/s" in err
    code, out, _ = run("evaluate", "r", "--n", "50", "--json", "--out", "e.json")
    assert code == 0 and json.loads(out) == json.loads(Path("e.json").read_text()) and "modes_radius" in json.loads(out)


def test_samples_on_stdout_are_the_file_and_nothing_else(run: Run) -> None:
    assert run("train", "ring", "--steps", "1", "--width", "4", "--out", "r", *QUICK)[0] == 0
    assert run("sample", "r", "--n", "5", "--out", "x.csv")[0] == 0
    code, out, err = run("sample", "r", "--n", "5", "--out", "-")
    assert code == 0 and err == "" and out == Path("x.csv").read_text() and out.count("\n") == 5


@pytest.mark.parametrize("columns", [40, 80, None])
def test_long_lines_break_at_the_width_of_the_terminal_and_elsewhere_at_80(
    columns: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", str(columns))
    line = f"{'discriminator':<15} {'V -1.2174 on training rows, ' * 5}".rstrip()
    lines = folded(line, 16).split("\n")
    assert wrapped(line, 16) == line, "a program reads it"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert wrapped(line, 16) == folded(line, 16)
    assert " ".join(part.strip() for part in lines) == line
    assert len(lines) > 2 and all(len(part) <= (columns or 80) for part in lines)
    assert all(part.startswith(" " * 16) for part in lines[1:])


@pytest.mark.parametrize("of_many", [(), ("--seeds", "0:2")])
def test_a_piped_run_keeps_to_80_columns(run: Run, of_many: tuple[str, ...]) -> None:
    code, out, err = run("train", "ring", "--rows", "300", "--steps", "20", "--width", "8", "--out", "r", *of_many)
    assert code == 0 and "engine" in out and "pictures:" in out
    assert [line for line in (out + err).splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    ("arguments", "code", "lines"),
    [("info", 141, 0), ("--version", 141, 0), ("completion bash", 141, 0), ("evaluate nowhere", 2, 1)],
)
def test_a_closed_pipe_ends_a_command_quietly(arguments: str, code: int, lines: int) -> None:
    """As `fastgan info | head -1` closes it: 141, as shells say of SIGPIPE. Errors stay errors."""
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", "fastgan", *arguments.split()]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr.count("\n")) == (code, lines), done.stderr
