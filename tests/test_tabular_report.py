"""The report on synthetic rows: distances against their definitions, and verdicts whose answer is known."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastgan import plots
from fastgan.data import DataWarning
from fastgan.tabular import Report, TableTransformer

pd = pytest.importorskip("pandas")
stats = pytest.importorskip("scipy.stats")
pytest.importorskip("sklearn")


def table(n: int = 400, seed: int = 0, shift: float = 0.0) -> Any:
    rng = np.random.default_rng(seed)
    x = rng.normal(shift, 1, n)
    label = np.where(x + rng.normal(0, 0.5, n) > 0, "high", "low")
    gaps = np.where(rng.random(n) < 0.1, np.nan, rng.exponential(2, n))
    day = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 500, n), "D")
    return pd.DataFrame({"x": x, "gaps": gaps, "label": label, "colour": rng.choice(list("rgb"), n), "day": day})


def report(synthetic: Any, held_out: Any = None, **options: Any) -> Report:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return Report(TableTransformer().fit(table()), table(), synthetic, held_out, **options)


def test_distances_are_those_of_their_definitions() -> None:
    other = table(seed=1, shift=0.5)
    columns = report(other).columns
    found = {column["name"]: column for column in columns}
    assert found["x"]["distance"] == pytest.approx(stats.ks_2samp(table()["x"], other["x"]).statistic, abs=1e-12)
    present = [frame["gaps"].dropna() for frame in (table(), other)]
    assert found["gaps"]["distance"] == pytest.approx(stats.ks_2samp(*present).statistic, abs=1e-12)
    assert found["gaps"]["missing_synthetic"] == other["gaps"].isna().mean()
    shares = [frame["label"].value_counts(normalize=True) for frame in (table(), other)]
    assert found["label"]["distance"] == pytest.approx(abs(shares[0] - shares[1]).sum() / 2, abs=1e-12)
    assert [column["measure"] for column in columns] == ["KS", "KS", "TV", "TV", "KS"]


def test_a_report_shows_itself() -> None:
    found = report(table(seed=1))
    assert str(found).splitlines() == found.lines()
    assert repr(found) == "Report(5 columns, 400 synthetic rows beside 400 real ones)"


def test_copies_are_near_and_other_rows_are_not() -> None:
    values = report(table(), table(seed=2)).values
    assert values["mean_ks"] == values["mean_tv"] == values["pairs"]["mean_tv"] == 0
    assert values["privacy"]["copies"] == 400 and values["privacy"]["closer_than_5_percent"] == 1.0
    fresh = report(table(seed=1), table(seed=2)).values
    assert fresh["privacy"]["copies"] == 0 and fresh["privacy"]["closer_than_5_percent"] < 0.12
    assert fresh["mean_ks"] < 0.08 and 0.4 < fresh["detection"]["auc"] < 0.6
    assert abs(fresh["efficacy"]["synthetic"] - fresh["efficacy"]["real"]) < 0.08


def test_rows_without_the_dependency_are_found_out() -> None:
    shuffled = table(seed=1)
    shuffled["label"] = shuffled["label"].sample(frac=1, random_state=0).to_numpy()
    values = report(shuffled, table(seed=2), target="label").values
    assert values["mean_ks"] < 0.08  # columns alone do not show it
    assert values["pairs"]["worst"][0]["names"] == ["x", "label"] and values["pairs"]["worst"][0]["distance"] > 0.3
    assert values["detection"]["auc"] > 0.65
    assert values["efficacy"]["real"] > 0.85 and abs(values["efficacy"]["synthetic"] - 0.5) < 0.15


def test_numbers_can_be_predicted_too() -> None:
    efficacy = report(table(seed=1), table(seed=2), target="x").values["efficacy"]
    assert (
        efficacy["measure"] == "R2" and efficacy["real"] > 0.3 and abs(efficacy["real"] - efficacy["synthetic"]) < 0.2
    )


def test_tables_too_small_for_a_measure_leave_it_out() -> None:
    small = report(table(8, seed=1))
    assert small.values["detection"] is None and small.values["efficacy"] is None
    assert max(map(len, small.lines())) <= 80
    json.dumps(small.values)
    one = Report(TableTransformer().fit(table()[["x"]]), table()[["x"]], table(seed=1)[["x"]])
    assert one.values["pairs"]["mean_tv"] is None and one.values["mean_tv"] is None and one.lines()


def test_labels_that_the_fitted_table_has_not_count_as_others() -> None:
    other = table(seed=1)
    other.loc[:9, "colour"] = "purple"
    assert report(table(seed=2), other).values["privacy"]["copies"] == 0


def test_tables_that_cannot_be_compared_are_refused_in_a_sentence() -> None:
    rows = table(60)
    transformer = TableTransformer().fit(rows)
    name = transformer.columns[0].name
    for argument, frame, rule in (
        ("real", rows.head(0), "must have at least one row, got none"),
        ("synthetic", rows.head(0), "must have at least one row, got none"),
        ("synthetic", rows.drop(columns=[name]), f"must have the column {name!r}, got none"),
        ("held_out", rows.drop(columns=[name]), f"must have the column {name!r}, got none"),
        ("real", rows.to_numpy(), "must be a DataFrame of pandas, got ndarray"),
    ):
        with pytest.raises((ValueError, TypeError), match=f"Report: {argument} {rule}"):
            Report(transformer, **{"real": rows, "synthetic": rows, argument: frame})
    number = next(column.name for column in transformer.columns if column.kind == "continuous")
    with pytest.raises(ValueError, match=f"column '{number}' must hold float64 as at fit, got str"):
        Report(transformer, rows, rows.assign(**{number: "much"}))
    with pytest.raises(RuntimeError, match="TableTransformer must be fitted first"):
        Report(TableTransformer(), rows, rows)


def test_long_names_can_be_told_apart_and_any_script_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{'the same long beginning ' * 3}{i}" for i in range(2)]
    rows = pd.DataFrame({name: table()["x"] * (i + 1) for i, name in enumerate(names)})
    lines = Report(TableTransformer().fit(rows), rows, rows).lines()
    assert max(map(len, lines)) <= 80 and len({line[:23] for line in lines[1:3]}) == 2
    titles: list[str] = []
    monkeypatch.setattr(plots.style, "label", lambda axes, title, *_: titles.append(title))
    labels = np.array(names, dtype=object)
    columns = [plots.Marginal(name, labels, labels) for name in (*names, "収入")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.table_marginals(columns, tmp_path / "p.png", title="収入")
    assert len(set(titles)) == 3


def test_a_picture_of_any_columns(tmp_path: Path) -> None:
    columns = [
        plots.Marginal("numbers $x$", np.arange(9.0), np.arange(5.0), "KS 0.1"),
        plots.Marginal("text", np.array([f"l{i}" for i in range(20)], dtype=object), np.array(["l1"], dtype=object)),
        plots.Marginal("none", np.empty(0), np.empty(0)),
        plots.Marginal("day", np.arange(3) * 864e5, np.arange(3) * 864e5, is_time=True),
    ]
    path = plots.table_marginals(columns, tmp_path / "p.png", title="t", limit=3)
    assert path.stat().st_size > 5000
    assert plots.table_marginals(columns[3:], tmp_path / "q.png", title="t").is_file()
