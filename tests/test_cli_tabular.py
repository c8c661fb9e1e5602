"""fastgan train, sample, evaluate and plot on tables with text, dates and empty cells."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, check_refusal, signatures

from fastgan.apps.cli.tabular import constraint
from fastgan.tabular import FixedCombinations, Inequality, Positive, TabularGAN

pd = pytest.importorskip("pandas")
pytest.importorskip("sklearn")

FAST = ("--steps", "3", "--batch-size", "60", "--width", "16", "--latent-dim", "8", "--threads", "1")


def customers(n: int = 240) -> Any:
    rng = np.random.default_rng(0)
    start = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), "D")
    return pd.DataFrame({
        "age": rng.integers(18, 90, n),
        "income": rng.choice([">50K", "<=50K"], n, p=[0.3, 0.7]),
        "city": rng.choice(["Rome", "Oslo"], n),
        "spent": np.where(rng.random(n) < 0.2, np.nan, rng.lognormal(3, 1, n).round(2)),
        "start": start.strftime("%Y-%m-%d"),
        "end": (start + pd.to_timedelta(rng.integers(0, 5000, n), "D")).strftime("%Y-%m-%d"),
    })  # fmt: skip


@pytest.fixture
def trained(run: Run, tmp_path: Path) -> Path:
    customers().to_csv(tmp_path / "c.csv", index=False)
    code, _, error = run("train", "c.csv", *FAST, "--rows", "200", "--out", "r", "--quiet", "--no-pictures")
    assert (code, error) == (0, "")
    return tmp_path / "r"


def test_a_mixed_table_from_file_to_synthetic_rows(run: Run, trained: Path, tmp_path: Path) -> None:
    table = customers()
    assert {path.name for path in trained.iterdir()} == {
        "table.json",
        "weights.safetensors",
        "source.json",
        "history.csv",
        "config.json",
        "checkpoint",
    }
    code, out, error = run(
        "sample", "r", "--n", "90", "--out", "s.csv", "--where", "income=>50K", "--where", "age=30..50"
    )
    assert (code, error) == (0, "") and "90 samples of r: s.csv" in out and "drawn again" in out
    rows = pd.read_csv(tmp_path / "s.csv")
    assert list(rows.columns) == list(table.columns) and len(rows) == 90
    assert (rows["income"] == ">50K").all() and rows["age"].between(30, 50).all()
    pytest.importorskip("pyarrow")
    assert run("sample", "r", "--n", "20", "--out", "s.parquet")[0] == 0
    assert (
        run("sample", "r", "--n", "20", "--out", "s.tsv")[0]
        == run("sample", "r", "--n", "20", "--out", "s.csv.gz")[0]
        == 0
    )
    sampled = TabularGAN.load(trained).sample(20)
    assert pd.read_parquet(tmp_path / "s.parquet").equals(sampled)
    assert pd.read_csv(tmp_path / "s.csv.gz").equals(pd.read_csv(tmp_path / "s.tsv", sep="\t"))


def test_evaluate_reports_columns_pairs_models_and_privacy(run: Run, trained: Path, tmp_path: Path) -> None:
    code, out, error = run("evaluate", "r", "--n", "150", "--target", "city", "--out", "e.json")
    assert (code, error) == (0, "")
    for word in ("columns ", "pairs ", "detection ", "efficacy ", "privacy ", "target city", "picture "):
        assert word in out
    assert max(map(len, out.splitlines())) <= 80
    values = json.loads((tmp_path / "e.json").read_text())
    assert [column["name"] for column in values["columns"]] == list(customers().columns)
    assert values["rows"] == {"real": 200, "synthetic": 150, "held_out": 40}
    assert values["privacy"]["rows_unseen_by_the_gan"] and (trained / "report.png").stat().st_size > 10_000


def test_no_value_asks_for_a_missing_one(run: Run, trained: Path, tmp_path: Path) -> None:
    assert run("sample", "r", "--n", "20", "--out", "s.csv", "--where", "spent=")[0] == 0
    assert pd.read_csv(tmp_path / "s.csv")["spent"].isna().all()
    check_refusal(run("sample", "r", "--out", "s.csv", "--where", "age="), "conditions['age'] must not be a missing")


def test_the_config_of_a_table_makes_no_run(run: Run, trained: Path) -> None:
    rule = "--config must be of a GAN of numbers, got r/config.json of a TabularGAN"
    check_refusal(run("train", "--config", "r/config.json", "--out", "s"), rule)


def test_dates_without_leading_zeros_are_drawn(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    days = pd.date_range("2020-01-05", periods=240, freq="3D")
    table = customers().assign(start=[f"{day.month}/{day.day}/{day.year}" for day in days])
    table.to_csv(tmp_path / "c.csv", index=False)
    code, out, error = run("train", "c.csv", *FAST, "--rows", "200", "--out", "r", "--quiet")
    assert (code, error) == (0, "") and (tmp_path / "r" / "samples.png").exists()
    code, out, error = run("evaluate", "r")
    assert (code, error) == (0, "") and "report.png" in out


def test_pictures_of_a_run(run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = signatures(monkeypatch)
    assert run("sample", "r", "--out", "p.png")[0] == 0
    code, out, error = run("plot", "r")
    assert (code, error) == (0, "") and (trained / "samples.png").is_file() and (trained / "losses.png").is_file()
    assert run("evaluate", "r", "--n", "100", "--out", "e.json")[0] == 0
    steps = len(TabularGAN.load(trained).history["loss_d"])
    assert len(signed) == 4 and {text.rpartition(", fastgan")[0] for text in signed} == {
        f"c.csv, iteration {steps}, seed 0"
    }


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_of_numbers_is_learnt_as_before(run: Run, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(80, 3)).round(3), columns=list("abc"))
    frame.to_csv("n.csv", index=False) if suffix == "csv" else frame.to_parquet("n.parquet")
    common = (f"n.{suffix}", "--steps", "2", "--batch-size", "20", "--quiet", "--no-pictures")
    assert run("train", *common, "--out", "plain")[0] == 0
    assert (tmp_path / "plain" / "config.json").is_file()
    assert run("train", *common, "--pack", "5", "--out", "tab", "--tabular")[0] == 0
    assert (tmp_path / "tab" / "table.json").is_file()


def test_json_and_csv_on_stdout(run: Run, trained: Path, tmp_path: Path) -> None:
    code, out, _ = run("train", "c.csv", *FAST, "--out", "j", "--no-pictures", "--json")
    found = json.loads(out)
    assert code == 0 and (found["run_dir"], found["step"], found["interrupted"]) == ("j", 3, False)
    assert set(found["means"]) == set(TabularGAN.load(tmp_path / "j").history)
    code, out, _ = run("evaluate", "r", "--n", "150", "--json")
    assert code == 0 and json.loads(out) == json.loads((trained / "report.json").read_text())
    code, out, error = run("sample", "r", "--n", "7", "--out", "-")
    assert (code, error) == (0, "") and pd.read_csv(io.StringIO(out)).shape == (7, 6)


def test_what_is_left_out_of_a_file_is_a_note_before_the_training(run: Run, tmp_path: Path) -> None:
    customers().assign(name=[f"person {i}" for i in range(240)]).to_csv(tmp_path / "i.csv")
    notes = ("i.csv column 1 ('Unnamed: 0') is left out", "column 'name' is taken for an identifier")
    for more in ((), ("--seeds", "1,2")):
        code, out, error = run("train", "i.csv", *FAST, *more, "--no-pictures")
        assert code == 0 and "DataWarning" not in error
        said = " ".join(out.split())
        assert [said.count(note) for note in notes] == [1, 1] and "read: " not in out
        assert said.index(notes[0]) < said.index(notes[1]) < said.index("trained")
    found = json.loads(run("train", "i.csv", *FAST, "--no-pictures", "--json")[1])["notes"]
    assert [note in text for text, note in zip(found, notes, strict=True)] == [True, True]
    assert "Warning" not in run("evaluate", "runs/i-1", "--n", "30", "--held-out", "i.csv")[2]


def test_a_name_in_capitals_is_a_table_too(run: Run, tmp_path: Path) -> None:
    customers().to_csv(tmp_path / "U.CSV", index=False)
    code, _, error = run("train", "U.CSV", *FAST, "--out", "u", "--quiet", "--no-pictures")
    assert (code, error) == (0, "")


def test_a_trained_gan_without_a_picture_is_still_reported(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("sample: conditions must be met by one row in 200 at least, got 0")

    customers().to_csv(tmp_path / "c.csv", index=False)
    monkeypatch.setattr(TabularGAN, "sample", refuse)
    code, out, error = run("train", "c.csv", *FAST, "--out", "r")
    assert code == 0 and "no pictures: sample: conditions must be met" in error and "trained c.csv" in out


def test_what_cannot_be_is_one_line(run: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "fault.csv").write_text("a,b\n" + "1,2\n" * 30 + "x,3\n")
    for argv, rule in (
        (("train", "c.csv", "--loss", "hinge"), "--loss must be left out for a TabularGAN"),
        (("train", "c.csv", "--config", "x.toml", "--tabular"), "--config must be left out for a TabularGAN"),
        (("train", "c.csv", "--hold-out", "0.2"), "--hold-out must be left out for a TabularGAN"),
        (("train", "c.csv", "--snapshots", "4"), "--snapshots must be left out for a TabularGAN"),
        (("train", "c.csv", "--preset", "r3gan"), "--preset must be left out for a TabularGAN"),
        (("train", "c.csv", "--weight-decay", "0.1"), "--weight-decay must be left out for a TabularGAN"),
        (("train", "c.csv", "--generator-lr", "0.1"), "--generator-lr must be left out for a TabularGAN"),
        (("train", "c.csv", "--discriminator-lr", "0.1"), "--discriminator-lr must be left out for a TabularGAN"),
        (("train", "c.csv", "--beta1", "0"), "--beta1 must be left out for a TabularGAN"),
        (("train", "c.csv", "--beta2", "0.9"), "--beta2 must be left out for a TabularGAN"),
        (("train", "c.csv", "--epochs", "2", "--steps", "3"), "--epochs must be given without --steps"),
        (("train", "c.csv", "--kind", "age"), "--kind must be as NAME=KIND, got 'age'"),
        (("train", "c.csv", "--kind", "age=number"), "kinds['age'] must be one of continuous"),
        (
            ("train", "c.csv", "--kind", "age=count", "--kind", "age=integer"),
            "--kind must name each column once, got 'age' twice",
        ),
        (("train", "c.csv", "--kind", "age=categorical", "--max-categories", "9"), "must have at most 9 categories"),
        (("train", "c.csv", "--max-categories", "1"), "--max-categories must be at least 2, got 1"),
        (("train", "ring", "--max-categories", "9"), "--max-categories must come with a table of text"),
        (("train", "c.csv", "--constraint", "age"), "--constraint must be as 'start<=end'"),
        (("train", "c.csv", "--constraint", "end<start", *FAST), "must keep the constraint end < start"),
        (("train", "c.csv", "--batch-size", "33"), "--batch-size must be a multiple of pack (10), got 33"),
        (("train", "ring", "--tabular"), "SOURCE must be a table's file for a TabularGAN, got 'ring'"),
        (("train", "ring", "--epochs", "2"), "--epochs must come with a table of text, dates or empty cells"),
        (("train", "fault.csv"), "row 32, column 1 ('a') must be a number, got 'x'"),
        (("sample", "r", "--out", "s.npy"), "--out must end in .csv, .tsv, .parquet, .png"),
        (("sample", "r", "--out", "s.csv", "--where", "income"), "--where must be as"),
        (("sample", "r", "--out", "s.csv", "--where", "income=60K"), "conditions['income'] must be one of"),
        (
            ("sample", "r", "--out", "s.csv", "--where", "age=..30", "--where", "age=50.."),
            "--where must name each column once, got 'age' twice",
        ),
        (("sample", "r", "--out", "s.csv", "--where", "wage=1"), "conditions must name columns of the table"),
        (("sample", "r", "--out", "s.csv", "--labels", "1"), "--labels must be left out"),
        (("evaluate", "r", "--sigma", "1"), "--sigma must be left out"),
        (("evaluate", "r", "--target", "name"), "--target must be a learnt column"),
        (("compare", "r"), ""),
    ):
        check_refusal(run(*argv), rule)
    assert not (tmp_path / "runs").exists()  # nothing is left of what never trained
    (tmp_path / "fault.csv").write_text("a,b\n" + "1,2\n" * 30)
    for argv in (("evaluate", "r"), ("plot", "r"), ("sample", "r", "--out", "s.png")):
        check_refusal(run(*argv, "--data", "fault.csv"), "fault.csv must have the columns of the table, got none named")
    check_refusal(run("evaluate", "r", "--held-out", "fault.csv"), "--held-out must have the column 'age', got none")
    (tmp_path / "c.csv").unlink()
    check_refusal(run("evaluate", "r"), "where the table has moved, give its new path: --data")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a,b\n1,x\n2,y,z\n3,x\n", "t.csv must be a table, got: Expected 2 fields in line 3, saw 3"),
        ('a,b\n1,x\n2,"y\n3,x\n', "t.csv must be a table, got: EOF inside string"),
        ("a,a\n1,x\n2,y\n3,x\n", "t.csv column names must differ, got 'a' twice"),
        ("a,b\n1,2\n3,4,5\n6,7\n", "t.csv row 3 must have 2 cells, got 3"),
    ],
    ids=["cells", "quote", "names", "numbers"],
)
def test_a_text_that_is_no_table_is_refused_for_what_it_is(run: Run, tmp_path: Path, text: str, rule: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    check_refusal(run("train", "t.csv"), rule)


def test_a_parquet_file_that_is_cut_short_is_named(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    customers().to_parquet(tmp_path / "c.parquet")
    (tmp_path / "c.parquet").write_bytes((tmp_path / "c.parquet").read_bytes()[:-100])
    check_refusal(run("train", "c.parquet"), "c.parquet must be a whole Parquet file")


def test_rules_of_the_command_line() -> None:
    assert constraint("a <= b") == Inequality("a", "b") and constraint("a>b") == Inequality("b", "a", strict=True)
    assert constraint("x>0") == Positive("x", strict=True) and constraint("x >= 0") == Positive("x")
    assert constraint("city, country") == FixedCombinations(("city", "country"))


# ---------------------------------------------------------------- resume


def test_a_resumed_run_gives_the_rows_of_an_uninterrupted_one(run: Run, trained: Path, tmp_path: Path) -> None:
    same = (*FAST[2:], "--rows", "200", "--quiet", "--no-pictures")
    assert run("train", "c.csv", "--steps", "6", *same, "--out", "whole")[0] == 0
    resume = ("train", "--resume", "--out", "r", "--steps", "6", "--quiet", "--no-pictures")
    assert run(*resume) == (0, "", "")
    whole, resumed = (TabularGAN.load(tmp_path / name) for name in ("whole", "r"))
    pd.testing.assert_frame_equal(whole.sample(50), resumed.sample(50))
    assert len(resumed.history["loss_d"]) == 6 and not resumed.interrupted
    assert (tmp_path / "whole" / "history.csv").read_bytes() == (trained / "history.csv").read_bytes()


def test_a_resumed_run_finds_its_table_where_it_is_now(run: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "c.csv").rename(tmp_path / "moved.csv")
    resume = ("train", "--resume", "--out", "r", "--steps", "4", "--quiet", "--no-pictures")
    check_refusal(run(*resume), "no such file", "SOURCE of train --resume")
    assert run("train", "moved.csv", *resume[1:])[0] == 0
    assert len(TabularGAN.load(trained).history["loss_d"]) == 4


def test_a_run_that_was_killed_has_its_newest_checkpoint(run: Run, trained: Path, tmp_path: Path) -> None:
    rows = TabularGAN.load(trained).sample(30)
    (trained / "weights.safetensors").unlink()  # written when training ends
    killed = TabularGAN.load(trained)
    pd.testing.assert_frame_equal(killed.sample(30), rows)
    assert len(killed.history["loss_d"]) == 3
    assert run("sample", "r", "--n", "30", "--out", "s.csv")[0] == 0


def test_what_a_resume_refuses(run: Run, trained: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    table = customers()
    table.loc[0, "age"] += 1
    table.to_csv(tmp_path / "other.csv", index=False)
    resume = ("train", "--resume", "--steps", "4", "--quiet")
    for arguments, message in (
        ((*resume, "--out", "r", "other.csv"), "table must hold the rows that"),
        ((*resume, "--out", "r", "--seed", "5"), "seed must be 0 as in"),
        ((*resume, "--out", "r", "--lr", "0.1"), "lr must be 0.0002 as in"),
        ((*resume, "--out", "r", "--width", "32"), "must be [16, 16] as in"),
        ((*resume, "--out", "r", "--rows", "100"), "--rows must be left out with --resume"),
        ((*resume, "--out", "r", "--constraint", "age>0"), "--constraint must be left out with --resume"),
        ((*resume, "--out", "none", "--tabular"), "--out must be the run of a TabularGAN"),
        ((*resume, "--tabular"), "--out must be given with --resume"),
        (("train", "--resume", "--steps", "2", "--quiet", "--out", "r"), "--steps must be at least the 3"),
    ):
        check_refusal(run(*arguments), message)
    assert before == {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    for path in (trained / "checkpoint").iterdir():
        path.unlink()
    check_refusal(run(*resume, "--out", "r"), "must have a checkpoint to be resumed")
