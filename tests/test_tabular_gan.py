"""TabularGAN: from a table to synthetic rows, conditions, constraints, files."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastgan
from fastgan.data import DataError, DataWarning
from fastgan.tabular import FixedCombinations, Inequality, Positive, TabularGAN
from fastgan.tabular import gan as gan_module
from fastgan.training import checkpoint

pd = pytest.importorskip("pandas")
pytest.importorskip("sklearn")

SMALL: dict[str, Any] = {
    "batch_size": 60, "pack": 5, "latent_dim": 8, "generator_hidden": (16,), "discriminator_hidden": (16,),
    "threads": 1,  # the bits of torch depend on their number
}  # fmt: skip


def people(n: int = 400, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, n)
    city = rng.choice(["Rome", "Oslo", "Nice"], n, p=[0.6, 0.3, 0.1])
    born = pd.Timestamp("2024-01-01") - pd.to_timedelta(age * 365, "D")
    return pd.DataFrame({
        "person": [f"P{i:04}" for i in range(n)],
        "age": age,
        "income": np.where(rng.random(n) < 0.3, np.nan, rng.lognormal(8, 1, n).round(2)),
        "city": city,
        "country": pd.Series(city).map({"Rome": "Italy", "Oslo": "Norway", "Nice": "France"}),
        "member": rng.random(n) < 0.2,
        "born": born,
        "left": born + pd.to_timedelta(rng.integers(0, 30000, n), "D"),
        "planet": "Earth",
    })  # fmt: skip


def fitted(steps: int = 5, **options: Any) -> TabularGAN:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return fastgan.TabularGAN(steps=steps, **SMALL, **options).fit(people())


@pytest.fixture(scope="module")
def gan() -> TabularGAN:
    return fitted()


def test_samples_are_rows_of_the_table(gan: TabularGAN) -> None:
    table, rows = people(), gan.sample(250)
    assert list(rows.columns) == list(table.columns) and (rows.dtypes == table.dtypes).all() and len(rows) == 250
    assert set(rows["city"]) <= set(table["city"])
    assert rows["age"].between(table["age"].min(), table["age"].max()).all()
    assert rows["income"].isna().any() and (rows["income"].dropna() == rows["income"].dropna().round(2)).all()
    assert rows["person"].is_unique and (rows["planet"] == "Earth").all()
    assert len(gan.sample(0)) == 0 and (gan.sample(0).dtypes == table.dtypes).all()
    assert {name: len(x) for name, x in gan.history.items()} == dict.fromkeys(
        ("loss_d", "loss_g", "d_real", "d_fake", "accuracy_real", "accuracy_fake"), 5
    )
    assert repr(gan).startswith("TabularGAN(5 iterations, TableTransformer(9 columns: ")


def test_a_sample_is_the_same_however_it_is_drawn(gan: TabularGAN) -> None:
    whole = gan.sample(1300, seed=3)
    parts = pd.concat([gan.sample(900, seed=3), gan.sample(400, seed=3, offset=900)], ignore_index=True)
    assert whole.equals(parts)
    assert not whole.equals(gan.sample(1300, seed=4))


def test_sampling_shows_its_progress_on_a_terminal(
    gan: TabularGAN, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for is_terminal, asked in ((True, True), (True, False), (False, True)):
        with monkeypatch.context() as patch:
            patch.setattr("sys.stderr.isatty", lambda: is_terminal)  # noqa: B023  # called at once
            gan.sample(2500, conditions={"city": "Rome"}, progress=asked)
        shown = capsys.readouterr().err
        if is_terminal and asked:
            assert "sampling" in shown and "2500/2500" in shown and "rows/s" in shown
        else:
            assert shown == ""


def test_fitting_again_gives_the_same_bits(gan: TabularGAN) -> None:
    state = torch.get_rng_state()
    assert fitted().sample(50).equals(gan.sample(50))
    assert torch.equal(torch.get_rng_state(), state)  # torch's own generator is left alone


def test_a_saved_gan_samples_the_same_rows(gan: TabularGAN, tmp_path: Path) -> None:
    gan.save(tmp_path / "m")
    loaded = TabularGAN.load(tmp_path / "m")
    assert loaded.sample(1100, seed=5).equals(gan.sample(1100, seed=5))
    assert loaded.sample(50, conditions={"city": "Nice"}).equals(gan.sample(50, conditions={"city": "Nice"}))
    assert all((loaded.history[name] == gan.history[name]).all() for name in gan.history)
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"table.json", "weights.safetensors"}


def test_samples_are_of_the_moving_average() -> None:
    averaged, last = fitted(), fitted(ema_decay=None)
    assert averaged.gan is not None and averaged.gan.ema is not None
    assert last.gan is not None and last.gan.ema is None
    pd.testing.assert_frame_equal(fitted(ema_decay=1e-9).sample(60), last.sample(60))  # the last weights alone
    assert not averaged.sample(60).equals(last.sample(60))
    for name, weights in last.gan.generator.state_dict().items():
        assert torch.equal(averaged.gan.generator.state_dict()[name], weights), name


def test_a_folder_of_an_earlier_version_can_be_sampled_and_not_resumed(tmp_path: Path) -> None:
    """Format 1 had no moving average, and fitted other modes."""
    options: dict[str, Any] = {**SMALL, "kinds": {"person": "identifier"}, "steps": 3, "checkpoint_every": 3}
    last = TabularGAN(**options, ema_decay=None).fit(people(), run_dir=tmp_path)
    body = json.loads((tmp_path / "table.json").read_bytes())
    del body["config"]["ema_decay"]
    (tmp_path / "table.json").write_text(json.dumps(body | {"format": 1}))
    pd.testing.assert_frame_equal(TabularGAN.load(tmp_path).sample(60), last.sample(60))
    with pytest.raises(ValueError, match="run_dir must be of format 2 to be resumed, got format 1, which"):
        TabularGAN(**options).fit(people(), run_dir=tmp_path, resume=True)


def test_first_weights_do_not_count_in_the_average_of_a_short_training(tmp_path: Path) -> None:
    """A resume of other length keeps the decay that the run began with."""
    options: dict[str, Any] = {**SMALL, "kinds": {"person": "identifier"}, "checkpoint_every": 30}
    assert TabularGAN(**options, steps=100).config.training(400).ema_decay == 0.9
    assert TabularGAN(**options, steps=5000).config.training(400).ema_decay == 0.99
    assert TabularGAN(**options, steps=5000, ema_decay=0.5).config.training(400).ema_decay == 0.5
    TabularGAN(**options, steps=30).fit(people(), run_dir=tmp_path)
    longer = TabularGAN(**options, steps=60).fit(people(), run_dir=tmp_path, resume=True)
    whole = TabularGAN(**{**options, "checkpoint_every": 0}, steps=60, ema_decay=1 - 10 / 30).fit(people())
    pd.testing.assert_frame_equal(longer.sample(60), whole.sample(60))


class _Stop(fastgan.Callback):
    """Fails at iteration 4, as a machine does."""

    every = 4

    def on_chunk(self, run: Any, rows: Any) -> None:
        if run.step >= 4:
            raise KeyError("stopped")


def test_a_training_that_failed_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    whole = fitted(steps=6, checkpoint_every=0)
    options: dict[str, Any] = {**SMALL, "kinds": {"person": "identifier"}, "steps": 6, "checkpoint_every": 3}
    gan = TabularGAN(**options)
    with pytest.raises(KeyError, match="stopped"):
        gan.fit(people(), run_dir=tmp_path, callbacks=[_Stop()])
    stopped = TabularGAN.load(tmp_path)
    assert stopped.interrupted and len(stopped.history["loss_d"]) == 3
    assert len(stopped.sample(10)) == 10
    resumed = TabularGAN(**options).fit(people(), run_dir=tmp_path, resume=True)
    pd.testing.assert_frame_equal(resumed.sample(60), whole.sample(60))
    for name, values in whole.history.items():
        np.testing.assert_array_equal(resumed.history[name], values)
    pd.testing.assert_frame_equal(TabularGAN.load(tmp_path).sample(60), whole.sample(60))


def test_a_lost_history_leaves_the_iterations_their_numbers(tmp_path: Path) -> None:
    options = SMALL | {"kinds": {"person": "identifier"}, "checkpoint_every": 2}
    TabularGAN(**options | {"steps": 4}).fit(people(), run_dir=tmp_path)
    (tmp_path / "history.csv").unlink()
    for resumed in (
        TabularGAN(**options | {"steps": 6}).fit(people(), run_dir=tmp_path, resume=True),
        TabularGAN.load(tmp_path),
    ):
        loss = resumed.history["loss_d"]
        assert np.isnan(loss[:4]).all() and np.isfinite(loss[4:]).all() and len(loss) == 6
    for name in ("history.csv", "weights.safetensors"):  # as if it were killed, too
        (tmp_path / name).unlink()
    assert len(TabularGAN.load(tmp_path).history["loss_d"]) == 6


def test_a_resume_reads_its_checkpoint_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = SMALL | {"kinds": {"person": "identifier"}, "steps": 2}
    TabularGAN(**options).fit(people(), run_dir=tmp_path)
    read: list[Path] = []
    load = checkpoint.load
    monkeypatch.setattr(checkpoint, "load", lambda path: [read.append(path), load(path)][1])
    TabularGAN(**options).fit(people(), run_dir=tmp_path, resume=True)
    assert read == [tmp_path]


def test_a_resume_of_something_else_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {**SMALL, "kinds": {"person": "identifier"}, "steps": 3, "checkpoint_every": 3}
    gan = TabularGAN(**options)
    with pytest.raises(FileNotFoundError, match="run_dir must have a table.json to be resumed"):
        gan.fit(people(), run_dir=tmp_path, resume=True)
    gan.fit(people(), run_dir=tmp_path)
    with pytest.raises(ValueError, match="table must hold the rows that"):
        TabularGAN(**options).fit(people(seed=1), run_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"pack must be \d+ as in"):
        TabularGAN(**{**options, "pack": 1}).fit(people(), run_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match="run_dir must be new or be resumed"):
        TabularGAN(**options).fit(people(), run_dir=tmp_path)
    (tmp_path / "table.json").write_text("{")
    with pytest.raises(ValueError, match="run_dir must have a whole table.json"):
        TabularGAN(**options).fit(people(), run_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match="checkpoint_every must be a whole number"):
        TabularGAN(checkpoint_every=-1)


def test_damaged_files_are_refused(gan: TabularGAN, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no TabularGAN in .*: it has no table.json"):
        TabularGAN.load(tmp_path)
    gan.save(tmp_path)
    model = (tmp_path / "table.json").read_text()
    weights = (tmp_path / "weights.safetensors").read_bytes()
    for text, data in (
        (model[:-5], weights),
        (model.replace('"format": 1', '"format": 2', 1), weights),
        (json.dumps(json.loads(model) | {"counts": [[1, 2]]}), weights),
        (model, weights[:-100]),
        (model, b""),
    ):
        (tmp_path / "table.json").write_text(text)
        (tmp_path / "weights.safetensors").write_bytes(data)
        with pytest.raises(ValueError, match="must hold a whole TabularGAN") as caught:
            TabularGAN.load(tmp_path)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    "conditions",
    [
        {"city": "Nice"},
        {"city": "Oslo", "member": True},
        {"member": "True"},
        {"age": (30, 50)},
        {"age": (None, 40), "city": "Rome"},
        {"born": ("1950-01-01", None)},
        {"income": (0, 1e9)},
    ],
)
def test_conditions_are_met(gan: TabularGAN, conditions: dict[str, Any]) -> None:
    rows = gan.sample(40, conditions=conditions)
    assert len(rows) == 40
    for name, value in conditions.items():
        if isinstance(value, tuple):
            low, high = value
            assert low is None or (rows[name] >= low).all()
            assert high is None or (rows[name] <= high).all()
        else:
            assert (rows[name].astype(str) == str(value)).all()
    assert set(gan.rejected) == {"conditions"}


def test_bad_conditions_are_refused_in_a_sentence(gan: TabularGAN) -> None:
    for conditions, rule in (
        ({"town": "Rome"}, r"must name columns of the table \(person, age, .*\), got 'town'"),
        ({"city": "Paris"}, r"conditions\['city'\] must be one of .*'Rome'.*, got 'Paris'"),
        ({"city": None}, r"conditions\['city'\] must be one of"),
        (
            {"person": "P0001"},
            r"conditions\['person'\] must be of a column that is learnt, got one of kind 'identifier'",
        ),
        ({"age": "old"}, r"conditions\['age'\] must be a number"),
        ({"age": (1, 2, 3)}, r"conditions\['age'\] must be a value or a pair"),
        ({"born": "soon"}, r"conditions\['born'\] must be a date"),
        ({"born": ""}, r"conditions\['born'\] must be a date"),
        ({"age": True}, r"conditions\['age'\] must be a number or a pair of them, got True"),
        ({"age": (np.nan, 3)}, r"conditions\['age'\] must be a number or a pair of them"),
        ({"age": None}, r"conditions\['age'\] must not be a missing value, as no row lacks one, got None"),
        ({"age": (50, 30)}, r"conditions\['age'\] must have the lower value first, got \(50, 30\)"),
        ({"age": (200, 300)}, r"conditions\['age'\] must reach into the column's range, \d+ to \d+, got"),
        ({"born": (None, "1850-01-01")}, r"must reach into the column's range, .* to .*, got \(None, '1850-01-01'\)"),
    ):
        with pytest.raises(ValueError, match=rule):
            gan.sample(5, conditions=conditions)
    age = people()["age"]
    with pytest.raises(ValueError, match=r"met by one row in 200 at least, got 0 of 20,000 .*20,000 by conditions"):
        gan.sample(5, conditions={"age": (age.min() + 0.25, age.min() + 0.5)})
    with pytest.raises(TypeError, match="sample: conditions must be a value or a pair by column name, got 'city'"):
        gan.sample(5, conditions="city")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="offset must be 0 with conditions"):
        gan.sample(5, offset=3, conditions={"city": "Rome"})
    with pytest.raises(ValueError, match="n must be at least 0, got -1"):
        gan.sample(-1)
    for numbers in ({"n": 2.5}, {"n": True}, {"n": "3"}, {"n": 3, "seed": 1.5}, {"n": 3, "seed": None}):
        with pytest.raises(TypeError, match="sample: (n|seed) must be an integer, got"):
            gan.sample(**numbers)  # type: ignore[arg-type]


def test_a_missing_value_can_be_requested() -> None:
    number = np.where(np.arange(120) % 3, np.arange(120) % 17 / 3, np.nan)
    table = pd.DataFrame({"a": ["x", None, "y", "x"] * 30, "b": number})
    one = TabularGAN(steps=2, **SMALL).fit(table)
    for missing in (None, np.nan, pd.NA):
        for name in ("a", "b"):
            assert one.sample(20, conditions={name: missing})[name].isna().all()


def test_a_bool_of_numpy_is_a_label(gan: TabularGAN) -> None:
    assert gan.sample(20, conditions={"member": np.bool_(True)})["member"].all()


# ---------------------------------------------------------------- constraints


def test_constraints_hold_and_rejections_are_counted() -> None:
    rules = [Inequality("born", "left"), FixedCombinations(("city", "country")), Positive("income", strict=True)]
    one = fitted(constraints=rules)
    rows = one.sample(120)
    assert len(rows) == 120 and (rows["born"] <= rows["left"]).all() and rows["person"].is_unique
    assert set(zip(rows["city"], rows["country"], strict=True)) <= {
        ("Rome", "Italy"),
        ("Oslo", "Norway"),
        ("Nice", "France"),
    }
    assert one.rejected["fixed combinations of city, country"] > 0
    assert set(one.rejected) == {str(rule) for rule in rules}


def test_an_identifier_has_no_constraint() -> None:
    """Its values are made anew when rows have been drawn, so that no drawing again could keep the rule."""
    table = pd.DataFrame({"id": np.arange(60), "x": np.arange(60) + np.arange(60) % 7})
    with pytest.raises(
        DataError, match="the constraint id <= x must be of columns that are learnt, got the identifier 'id'"
    ):
        TabularGAN(**SMALL, kinds={"id": "identifier"}, constraints=[Inequality("id", "x")]).fit(table)


def test_a_file_is_no_folder_to_save_to(gan: TabularGAN, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="save: folder must be new or a folder, got the file .*file$"):
        gan.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_constraints_are_saved(tmp_path: Path) -> None:
    one = fitted(constraints=[FixedCombinations(("city", "country")), Inequality("born", "left", strict=False)])
    one.save(tmp_path)
    again = TabularGAN.load(tmp_path)
    assert again.constraints == one.constraints and again.sample(30).equals(one.sample(30))


def test_data_must_keep_the_constraints() -> None:
    for rule, text in (
        (Inequality("left", "born"), r"row \d+ must keep the constraint left <= born, got left = .* rows break it"),
        (Inequality("age", "height"), r"must name columns of the table, got 'height'"),
        (Inequality("age", "city"), r"columns that compare, got age of int64, city of str"),
    ):
        with pytest.raises(DataError, match=text):
            fitted(constraints=[rule])
    with pytest.raises(ValueError, match="two or more columns"):
        FixedCombinations(("city",))
    with pytest.raises(TypeError, match="constraints must be of fastgan.tabular, got str"):
        TabularGAN(constraints=["a < b"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="constraints must be a list of rules, got Positive"):
        TabularGAN(constraints=Positive("a"))  # type: ignore[arg-type]


# ---------------------------------------------------------------- what a user can get wrong


def test_bad_options_are_refused() -> None:
    for options, rule in (
        ({"batch_size": 55, "pack": 10}, r"batch_size must be a multiple of pack \(10\), got 55"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1"),
        ({"steps": 0}, "steps must be None or at least 1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"ema_decay": 1.0}, "ema_decay must be None or above 0 and below 1, got 1.0"),
        ({"generator_hidden": (0,)}, "generator_hidden must be widths"),
        ({"generator_hidden": 256}, "generator_hidden must be a list of widths, got 256"),
        ({"betas": 0.5}, "betas must be two numbers, got 0.5"),
    ):
        with pytest.raises(ValueError, match=f"TabularGAN: {rule}"):
            TabularGAN(**options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="options must be among epochs, .*, got 'epoch'"):
        TabularGAN(epoch=3)
    with pytest.raises(RuntimeError, match="fitted first"):
        TabularGAN().sample(3)
    with pytest.raises(RuntimeError, match="fitted first"):
        TabularGAN().save("nowhere")


@pytest.mark.parametrize("device", ["cuda:99", "meta", "nowhere"])
def test_a_device_that_is_not_here_is_refused_at_once(device: str, gan: TabularGAN, tmp_path: Path) -> None:
    gan.save(tmp_path / "run")
    says = f"device must be one that torch can use here, got '{device}'"
    for name, use in {
        "TabularGAN": lambda: TabularGAN(device=device),
        "load": lambda: TabularGAN.load(tmp_path / "run", device=device),
        "sample": lambda: gan.gan and gan.gan.sample(3, device=device),
    }.items():
        with pytest.raises(ValueError, match=rf"^{name}: {says}"):
            use()


def test_a_table_with_nothing_to_learn_is_refused() -> None:
    with pytest.raises(DataError, match=r"at least one column must have something to learn, got none \(a is constant"):
        TabularGAN(**SMALL).fit(pd.DataFrame({"a": [1] * 30}))


def test_a_loss_that_is_not_finite_ends_training(monkeypatch: pytest.MonkeyPatch) -> None:
    made = gan_module.networks

    def broken(*arguments: Any) -> fastgan.GAN:
        gan = made(*arguments)
        torch.nn.init.constant_(gan.discriminator[-1].bias, math.nan)
        return gan

    monkeypatch.setattr(gan_module, "networks", broken)
    with pytest.raises(FloatingPointError, match="loss_d is not finite"):
        fitted(steps=1)


@pytest.mark.parametrize("frame", [
    pd.DataFrame({"x": np.random.default_rng(0).normal(size=90)}),
    pd.DataFrame({"x": ["a", "b", "c"] * 30}),
    pd.DataFrame({"x": [1.5, None, 2.5] * 2}),
    pd.DataFrame({"x": np.random.default_rng(0).normal(size=1), "y": ["a"]}).iloc[[0, 0]].assign(z=[1.0, 2.0]),
], ids=["numbers", "labels", "few", "two"])  # fmt: skip
def test_small_and_narrow_tables_train(frame: Any) -> None:
    one = TabularGAN(steps=2, **SMALL).fit(frame)
    rows = one.sample(7)
    assert (rows.dtypes == frame.dtypes).all() and len(rows) == 7


def test_a_parquet_file_trains_as_its_frame_does(tmp_path: Path, gan: TabularGAN) -> None:
    pytest.importorskip("pyarrow")
    people().to_parquet(tmp_path / "p.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        one = TabularGAN(steps=5, **SMALL).fit(tmp_path / "p.parquet")
    assert one.sample(60).equals(gan.sample(60))


@pytest.mark.slow
def test_it_learns_a_table() -> None:
    """Frequencies, a bound distribution and a dependency, better than an untrained one by far."""
    rng = np.random.default_rng(0)
    n = 4000
    kind = rng.choice(["a", "b", "c"], n, p=[0.7, 0.25, 0.05])
    x = np.select([kind == "a", kind == "b"], [rng.normal(0, 1, n), rng.normal(10, 1, n)], rng.normal(-10, 1, n))
    table = pd.DataFrame({"kind": kind, "x": x})
    one = TabularGAN(steps=1500, batch_size=200, generator_hidden=(64, 64), discriminator_hidden=(64, 64), threads=1)
    rows = one.fit(table).sample(4000)
    share = rows["kind"].value_counts(normalize=True)
    assert abs(share["a"] - 0.7) < 0.1 and abs(share["c"] - 0.05) < 0.04
    centre = rows.groupby("kind")["x"].median()
    assert abs(centre["a"]) < 1.5 and abs(centre["b"] - 10) < 2 and abs(centre["c"] + 10) < 3
