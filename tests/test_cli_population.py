"""fastgan train --seeds, --grid: run folders, resume, the table and the progress of many GANs at once."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from command_line import FAST, TINY, CtrlC, Run, check_refusal, showing

from fastgan.training import population
from fastgan.training.display import Bar, Lines, progress

pytest.importorskip("matplotlib", reason="a population draws its curves")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which each row of a table is one line."""
    monkeypatch.setenv("COLUMNS", "100")


def table_of(out: str) -> list[list[str]]:
    """The words of each line from the head of the table on."""
    lines = [line.split() for line in out.splitlines()]
    return lines[next(i for i, words in enumerate(lines) if "D(x)" in words) :]


def test_a_population_leaves_a_run_folder_for_each_member(run: Run) -> None:
    code, out, err = run("train", "ring", *TINY, "--seeds", "0:2,7", "--grid", "k=1,2")
    assert code == 0, err
    folder = Path("runs/ring-1")
    members = [f"member-{number:04d}" for number in range(6)]
    assert {path.name for path in folder.iterdir()} == {"config.json", "population.json", "losses.png", *members}
    config = json.loads((folder / "member-0005/config.json").read_text())["train"]
    assert (config["seed"], config["k"]) == (7, 2)
    assert "6 of 6 GANs done" in out and str(folder / "losses.png") in out
    table = table_of(out)[:3]
    assert table[0] == "grid point GANs D(x) D(G(z)) modes of 8 all modes % near a mode".split()
    assert [words[:3] for words in table[1:]] == [["k", "1", "3"], ["k", "2", "3"]]
    assert all("+-" in words and words.count("3") == 2 for words in table[1:])
    assert err.splitlines()[-1].startswith("120/120  6 of 6 GANs done")
    assert run("train", "ring", *TINY, "--seed", "7", "--k", "2", "--out", "alone", *FAST)[0] == 0
    assert Path("alone/history.csv").read_bytes() == (folder / "member-0005/history.csv").read_bytes()
    for run_folder, to in ((folder / "member-0005", "a.npy"), (Path("alone"), "b.npy")):
        assert run("sample", str(run_folder), "--n", "9", "--out", to)[0] == 0
    assert Path("a.npy").read_bytes() == Path("b.npy").read_bytes()


def test_a_table_that_is_too_wide_has_its_grid_points_on_lines_of_their_own(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("train", "ring", *TINY, "--seeds", "0:2", "--grid", "k=1,2", "--no-pictures")
    lines = out.splitlines()
    begin = lines.index("k 1")
    assert code == 0 and lines[begin + 2] == "k 2" and max(map(len, lines)) <= 80
    assert lines[begin - 1].split()[:3] == ["GANs", "D(x)", "D(G(z))"] and lines[begin + 3].startswith("  2 ")


def test_seeds_alone_need_no_grid_and_a_grid_no_seeds(run: Run) -> None:
    code, out, _ = run("train", "gaussians", *TINY, "--seeds", "3,4", "--no-pictures")
    assert code == 0 and table_of(out)[0][0] == "GANs" and "losses.png" not in out
    grid = ("--seed", "4", "--grid", "optimizer.lr=1e-3,2e-3")
    assert run("train", "gaussians", *TINY, *grid, "--out", "b", *FAST)[0] == 0
    config = json.loads(Path("b/member-0001/config.json").read_text())["train"]
    assert config["seed"] == 4 and config["optimizer"]["lr"] == 2e-3


def test_a_stopped_population_is_resumed_and_extended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("train", "ring", *TINY, "--seeds", "0:4", "--out", "through", *FAST)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(population, "display", showing(CtrlC(5, member=1)))
        code, out, _ = run("train", "ring", *TINY, "--seeds", "0:3", "--out", "part")
    assert code == 130 and out.startswith("interrupted, saved ring: ") and "3 of 3 GANs" not in out
    assert "fastgan train --resume --out part" in out
    assert run("train", "--resume", "--out", "part", *FAST)[0] == 0
    assert not Path("part/member-0003").exists()
    assert run("train", "--resume", "--out", "part", "--seeds", "0:4", *FAST)[0] == 0
    for number in range(4):
        histories = [Path(f"{run_dir}/member-{number:04d}/history.csv").read_bytes() for run_dir in ("through", "part")]
        assert histories[0] == histories[1]
    assert json.loads(Path("part/population.json").read_text())["seeds"] == [0, 1, 2, 3]


def test_a_failed_member_is_counted_and_named(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    arguments = ("train", "ring", *TINY, "--no-pictures")
    with caplog.at_level(logging.WARNING, "fastgan"):
        code, out, err = run(*arguments, "--seeds", "0:2", "--grid", "optimizer.lr=1e-3,1e30")
    assert code == 0 and "2 of 4 GANs done, 2 failed" in out
    assert table_of(out)[2][:4] == ["optimizer.lr", "1e+30", "0", "-"]
    assert "train_population: 2 of 4 members failed: train: " in caplog.text and "not finite" in caplog.text
    assert err.splitlines()[-1].split("/")[0].strip() == err.splitlines()[-1].split("/")[1].split()[0]
    assert run(*arguments, "--seeds", "0:2", "--lr", "1e30", "--quiet")[0] == 1


def test_a_record_of_each_member_in_json(run: Run) -> None:
    grid = ("--seeds", "0,7", "--grid", "optimizer.lr=1e-3,1e30", "--out", "many", "--json")
    code, out, err = run("train", "ring", *TINY, *grid)
    assert code == 0, err
    found = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert (found["run_dir"], found["source"], found["interrupted"]) == ("many", "ring", False)
    assert found["pictures"] == [str(Path("many/losses.png"))] and found["steps_per_second"] > 0
    members = found["members"]
    points = [(one["seed"], one["options"]["optimizer.lr"]) for one in members]
    assert points == [(0, 1e-3), (7, 1e-3), (0, 1e30), (7, 1e30)]
    assert [one["run_dir"] for one in members] == [str(Path(f"many/member-{number:04d}")) for number in range(4)]
    assert [one["step"] for one in members[:2]] == [20, 20] and members[1]["modes"]["of"] == 8
    assert "not finite" in members[2]["failed"] and members[2]["modes"] is None and members[0]["failed"] is None
    assert all(one["seconds"] > 0 and not one["interrupted"] for one in members)
    code, out, _ = run("train", "ring", *TINY, "--seed", "7", "--lr", "1e-3", "--out", "alone", *FAST, "--json")
    assert code == 0 and json.loads(out)["means"] == members[1]["means"]
    assert json.loads(out)["modes"] == members[1]["modes"]


def test_numbers_that_are_not_finite_do_not_spoil_the_summary(run: Run) -> None:
    broken = ("train", "ring", *TINY, "--lr", "1e30", "--nonfinite", "log")
    code, out, _ = run(*broken, "--seeds", "0:2", "--no-pictures")
    assert code == 0 and table_of(out)[1] == ["2", "-", "-", "-", "0", "of", "2", "-"]
    code, out, _ = run(*broken, "--out", "one", "--no-pictures")
    assert code == 0 and "modes covered" not in out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("--seeds 4:4", "--seeds must hold at least one number, got '4:4'"),
        ("--seeds a:b", "--seeds must be as 0:32 or 1,5,9, got 'a:b'"),
        ("--seeds 1,1", "--seeds must be distinct, got 1 twice"),
        ("--seeds 0:2 --seed 1", "--seed must not be given with --seeds"),
        ("--seeds 0:2 --grid k", "--grid must be as optimizer.lr=1e-4,2e-4, got 'k'"),
        ("--grid lr=1e-4", "--grid must name fields of the config, such as 'k' or 'optimizer.lr', got 'lr'"),
        ("--grid k=1,2 --grid k=3", "--grid must name each field once, got one twice"),
        ("--grid k=1,2 --k 2", "--k must not be given with --grid k"),
        ("--grid steps=1,2", "--steps must not be given with --grid steps"),
        ("--grid optimizer.lr=1e-3,2e-3 --lr 1e-3", "--lr must not be given with --grid optimizer.lr"),
        ("--grid optimizer.lr=1e-3 --discriminator-lr 1e-3", "--discriminator-lr must not be given with --grid"),
        ("--grid optimizer.betas.1=0.9 --beta2 0.9", "--beta2 must not be given with --grid optimizer.betas.1"),
        ("--grid optimizer.weight_decay=0,1 --weight-decay 1", "--weight-decay must not be given with --grid"),
        ("--grid ema_decay=0.5,none --ema-decay none", "--ema-decay must not be given with --grid ema_decay"),
        ("--grid k=0", "--k must be at least 1, got 0"),
        ("--grid batch_size=20,30", "--batch-size must not be given with --grid batch_size"),
        ("--grid k=1 --engine fused --impl reference", "--engine must be 'auto' or 'eager' here, got 'fused': "),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(run: Run, argv: str, says: str) -> None:
    check_refusal(run("train", "ring", *TINY, *argv.split()), says)
    assert not list(Path().iterdir())


def test_a_batch_of_the_grid_that_is_too_large_leaves_nothing(run: Run) -> None:
    code, _, error = run("train", "ring", "--rows", "300", "--steps", "2", "--grid", "batch_size=20,301", *FAST)
    assert code == 2 and "--batch-size must be at most the 300 rows of data, got 301" in error
    assert not list(Path().iterdir())


def test_a_single_run_is_not_resumed_as_a_population(run: Run) -> None:
    assert run("train", "ring", *TINY, "--out", "one", *FAST)[0] == 0
    check_refusal(
        run("train", "--resume", "--out", "one", "--seeds", "0:2"),
        "must resume a population, got one without population.json",
    )
    Path("one/population.json").write_text("{")
    assert "one/population.json must describe a population" in run("train", "--resume", "--out", "one")[2]


def test_a_resume_refuses_the_flags_that_its_members_differ_in(run: Run) -> None:
    many = ("--seeds", "0:2", "--grid", "optimizer.lr=1e-3,2e-3", "--out", "many", *FAST)
    assert run("train", "ring", *TINY, *many)[0] == 0
    resume = ("train", "--resume", "--out", "many")
    check_refusal(run(*resume, "--seed", "1"), "--seed must not be given with --seeds, as in many/population.json")
    says = "--lr must not be given with --grid optimizer.lr, as in many/population.json"
    check_refusal(run(*resume, "--lr", "1e-3"), says)


def test_a_grid_replaces_what_a_file_of_settings_says(run: Run) -> None:
    Path("s.toml").write_text("lr = 0.5\nk = 3\n")
    grid = ("--config", "s.toml", "--grid", "k=1,2", "--grid", "optimizer.lr=1e-3", "--out", "many")
    assert run("train", "ring", *TINY, *grid, *FAST)[0] == 0
    config = json.loads(Path("many/member-0001/config.json").read_text())["train"]
    assert (config["k"], config["optimizer"]["lr"]) == (2, 1e-3)


def test_the_bar_counts_members_and_iterations(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    bar = Bar(4, 80)
    monkeypatch.setattr(population, "display", showing(bar))
    assert run("train", "ring", *TINY, "--seeds", "0:2", "--grid", "optimizer.lr=1e-3,1e30", *FAST)[0] == 0
    (task,) = bar._bar.tasks
    assert task.description == "4 of 4 GANs done" and task.completed == task.total == bar.done
    assert bar.rate > 0 and "it/s" in task.fields["rate"] and "D(x)" in task.fields["readout"]


def test_the_display_fits_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with progress(10, members=2, quiet=True) as none:
        assert none == []
    for is_terminal, kind in ((True, Bar), (False, Lines)):
        monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)  # noqa: B023  # called at once
        with progress(10, members=2) as displays:
            assert [type(one) for one in displays] == [kind] and displays[0].members == 2


def test_the_folder_of_many_is_not_taken_for_one_run(run: Run) -> None:
    assert run("train", "ring", *TINY, "--seeds", "0:2", "--out", "many", "--no-pictures", "--quiet")[0] == 0
    for argv in ("sample many --out x.npy", "evaluate many", "plot many", "plot animation many"):
        check_refusal(run(*argv.split()), "RUN_DIR must be of one GAN, as many/member-0000, got many with many")
