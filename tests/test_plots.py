"""The pictures: the numbers behind them are exact, the files are whole and not blank."""

from __future__ import annotations

import math
import warnings
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastgan import plots
from fastgan.plots import curves, points, style

pytest.importorskip("matplotlib", reason="pictures need matplotlib")
Image = pytest.importorskip("PIL.Image", reason="decoding pictures needs pillow")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(np.float64)


def close_to(image: np.ndarray, colour: str) -> int:
    """Pixels of nearly that colour."""
    target = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(image - target).max(-1) < 24).sum())


def history(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    names = ("loss_d", "loss_g", "d_real", "d_fake", "accuracy_real", "accuracy_fake")
    return {"step": np.arange(1, n + 1), **{name: rng.uniform(0.2, 0.8, n) for name in names}}


# ---------------------------------------------------------------- what all pictures share


def test_without_a_path_a_picture_shows_itself() -> None:
    image = plots.losses()._repr_png_()  # what a notebook asks for
    assert image.startswith(b"\x89PNG") and len(image) > 10_000


def test_a_picture_says_where_it_comes_from(tmp_path: Path) -> None:
    text = "a $file$.csv, iteration 7"
    with plots.source(text):
        curves_, images = plots.loss_curves(history(20)), plots.image_grid(*torch.rand(2, 4, 16), image_shape=(4, 4))
        plots.loss_curves(history(20), tmp_path / "x.svg")
    assert curves_.get_supxlabel() == images.texts[0].get_text() == r"a \$file\$.csv, iteration 7"
    assert not plots.loss_curves(history(20)).get_supxlabel()
    assert "iteration 7" in (tmp_path / "x.svg").read_text()


def labels_of(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_curves_say_what_their_bands_are_and_that_labels_are_smoothed() -> None:
    outputs, accuracy = plots.d_curves(history(4000), real_label=0.9).axes
    assert "labels smoothed to 0.9 and 0" in outputs.get_title("left") and "cut at 0.45" in accuracy.get_title("left")
    assert "5th to 95th percentile; lines: means over 80" in labels_of(accuracy)
    assert "equilibrium: 0.45" in labels_of(outputs) and "guessing: 1/2" in labels_of(accuracy)
    (axes,) = plots.loss_curves(history(100)).axes
    assert "each iteration; lines: means over 2" in labels_of(axes) and axes.get_title("left") == "Losses"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (18, 90), (0, 1000), (5, 5)])
def test_bins_of_whole_numbers_hold_equally_many(low: int, high: int) -> None:
    x = np.arange(low, high + 1).repeat(50).astype(np.float64)
    edges = points.bin_edges(x, x + 0.3, 40)
    widths = np.unique(np.diff(edges))
    assert len(widths) == 1 and widths[0] == round(widths[0]) and (edges % 1 == 0.5).all() and len(edges) <= 41
    filled = np.histogram(x, edges)[0]
    assert len(np.unique(filled[filled > 0][1:-1])) <= 1  # no comb
    halves = points.bin_edges(x + 0.5, x, 40)
    assert len(halves) == 41


# ---------------------------------------------------------------- the costs of the generator


def exact(logit: float) -> dict[str, float]:
    with localcontext() as context:
        context.prec = 60
        x = Decimal(logit)
        d, rest = 1 / (1 + (-x).exp()), 1 / (1 + x.exp())
        values = {
            "d": d,
            "minimax": rest.ln(),
            "non_saturating": -d.ln(),
            "mle": -x.exp() / 2,
            "minimax_derivative": -d,
            "non_saturating_derivative": -rest,
            "mle_derivative": -x.exp() / 2,
        }
        return {name: float(value) for name, value in values.items()}


def test_M32_loss_table_is_exact_to_1e_12() -> None:
    table = plots.loss_table()
    assert len(table["logit"]) == 401
    assert (table["logit"][0], table["logit"][-1]) == (-10.0, 10.0)
    for i, logit in enumerate(table["logit"]):
        for name, value in exact(float(logit)).items():
            assert table[name][i] == pytest.approx(value, rel=1e-12, abs=1e-300), (name, logit)


def test_M32_loss_table_at_chosen_logits() -> None:
    table = plots.loss_table([-700.0, -30.0, 0.0, 30.0])
    assert table["minimax_derivative"][0] == pytest.approx(-math.exp(-700.0), rel=1e-12)  # not 0: no cancellation
    assert table["non_saturating"][0] == pytest.approx(700.0, rel=1e-12)
    assert table["minimax"][2] == pytest.approx(-math.log(2.0), rel=1e-15)
    assert table["mle"][3] == pytest.approx(-0.5 * math.exp(30.0), rel=1e-12)


def test_M32_losses_shows_three_curves(tmp_path: Path) -> None:
    image = pixels(plots.losses(tmp_path / "losses.png"))
    for colour in (style.BLUE, style.ORANGE, style.GREEN):
        assert close_to(image, colour) > 500
    assert [path.name for path in tmp_path.iterdir()] == ["losses.png"]  # no temporary file is left


# ---------------------------------------------------------------- curves


def test_equilibrium_is_log_4_and_a_half() -> None:
    goal = plots.equilibrium("non_saturating")
    assert goal == pytest.approx({"loss_d": math.log(4), "loss_g": math.log(2), "d": 0.5})
    assert plots.equilibrium("minimax")["loss_g"] == pytest.approx(-math.log(2))
    assert plots.equilibrium("mle")["loss_g"] == pytest.approx(-0.5)
    assert plots.equilibrium("hinge") == {}


def test_equilibrium_with_smoothing_minimises_the_discriminator_loss() -> None:
    label = 0.9

    def loss(d: float) -> float:
        return -label * math.log(d) - (1 - label) * math.log(1 - d) - math.log(1 - d)

    goal = plots.equilibrium("non_saturating", label)
    grid = np.linspace(0.01, 0.99, 9801)
    assert goal["d"] == pytest.approx(grid[np.argmin([loss(d) for d in grid])], abs=1e-4)
    assert goal["loss_d"] == pytest.approx(loss(goal["d"]), rel=1e-12)
    assert goal["loss_g"] == pytest.approx(-math.log(goal["d"]), rel=1e-12)


@pytest.mark.parametrize("steps", [1, 7, 400, 5000])
def test_curves_of_any_length(tmp_path: Path, steps: int) -> None:
    loss = pixels(plots.loss_curves(history(steps), tmp_path / "losses.png"))
    d = pixels(plots.d_curves(history(steps), tmp_path / "d.png", real_label=0.9))
    for image in (loss, d):
        assert image.std() > 5
        assert close_to(image, style.BLUE) > 30 and close_to(image, style.ORANGE) > 30


def test_curves_survive_nan_and_an_empty_history(tmp_path: Path) -> None:
    broken = history(100)
    broken["loss_d"][40:] = np.nan
    assert pixels(plots.loss_curves(broken, tmp_path / "nan.png")).std() > 5
    assert pixels(plots.d_curves(history(0), tmp_path / "empty.png")).std() > 5
    assert pixels(plots.loss_curves(history(0), tmp_path / "empty.png", loss="hinge")).std() > 5


@pytest.mark.parametrize(("points", "steps"), [(1, 50), (3, 1), (9, 5000)])
def test_population_curves_show_each_mean_and_its_band(tmp_path: Path, points: int, steps: int) -> None:
    mean = {name: np.full((points, steps), level) for name, level in (("loss_d", 1.1), ("loss_g", 0.9))}
    mean["loss_g"][:, :-1] += 0.1
    error = {name: np.full((points, steps), 0.05) for name in mean}
    error["loss_d"][0, 0] = np.nan
    labels = [f"k {point}" for point in range(points)]
    image = pixels(plots.population_curves(mean, error, tmp_path / "a.png", labels=labels))
    assert close_to(image, style.BLUE) > 200 and image.std() > 5
    narrow = {name: np.zeros((points, steps)) for name in mean}
    without = pixels(plots.population_curves(mean, narrow, tmp_path / "b.png", labels=labels))
    if steps > 1:
        assert (image != 255).any(-1).sum() > 1.02 * (without != 255).any(-1).sum()  # the band is there


def test_long_labels_of_a_population_leave_room_for_its_curves(tmp_path: Path) -> None:
    labels = [f"lr 0.001, temperature {point / 10}, discriminator_steps {point}" for point in range(12)]
    mean = {name: np.random.default_rng(0).normal(size=(12, 50)) for name in ("loss_d", "loss_g")}
    figure = plots.population_curves(mean, mean, labels=labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a layout that does not fit
        plots.population_curves(mean, mean, tmp_path / "a.png", labels=labels)
        figure.draw_without_rendering()
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[:12] == labels and len(texts) == 15  # each equilibrium, and the band
    drawn, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= drawn.x0 and drawn.x1 <= whole.x1 and whole.y0 <= drawn.y0
    for axes in figure.axes:
        assert axes.bbox.width > 0.4 * whole.width and axes.bbox.y0 > drawn.y1 - 1


def test_losses_have_a_unit_where_they_are_log_likelihoods() -> None:
    mean = {name: np.zeros((2, 5)) for name in ("loss_d", "loss_g")}
    for loss, unit in (("mle", "loss (nats)"), ("wasserstein", "loss")):
        found = plots.population_curves(mean, mean, labels=["a", "b"], loss=loss).axes
        found += plots.loss_curves(history(20), loss=loss).axes
        assert [axes.get_ylabel() for axes in found] == [unit] * 3


def test_smoothing_keeps_a_constant_and_bridges_nan() -> None:
    values = np.full(500, 3.0)
    values[100:105] = np.nan
    np.testing.assert_allclose(curves._smooth(values), 3.0, rtol=1e-12)


# ---------------------------------------------------------------- samples


def test_image_grid_shows_every_pixel_as_a_block(tmp_path: Path) -> None:
    samples = torch.zeros(4, 4)
    samples[0, 1] = 1.0  # one white pixel of a black image, 2 x 2 images of 2 x 2 pixels
    real = torch.ones(4, 4)
    image = pixels(plots.image_grid(samples, real, tmp_path / "grid.png", image_shape=(2, 2)))
    black = (image.max(-1) < 10).sum()
    assert black == pytest.approx(15 * 40 * 40, rel=0.05)  # 16 pixels of 40 x 40, one of them white
    inverted = pixels(plots.image_grid(samples, real, tmp_path / "ink.png", image_shape=(2, 2), ink=True))
    assert (inverted.max(-1) < 10).sum() == pytest.approx(17 * 40 * 40, rel=0.05)


@pytest.mark.parametrize("n", [1, 9, 64])
def test_titles_of_few_images_stay_apart_and_within_the_picture(n: int) -> None:
    rows = torch.rand(n, 64)
    grid = plots.image_grid(rows, rows, image_shape=(8, 8))
    grid.draw_without_rendering()
    made, real = (axes._left_title.get_window_extent() for axes in grid.axes)
    assert 0 <= made.x0 < made.x1 + 10 < real.x0 < real.x1 <= grid.bbox.width
    pairs = plots.neighbours(rows, rows, torch.zeros(n), image_shape=(8, 8))
    pairs.draw_without_rendering()
    title = pairs._suptitle.get_window_extent()
    assert 0 <= title.x0 < title.x1 <= pairs.bbox.width


def test_titles_of_an_interpolation_of_few_steps_stay_apart() -> None:
    for steps in (3, 11):
        figure = plots.interpolation(torch.rand(2, steps, 64), image_shape=(8, 8))
        figure.draw_without_rendering()
        left, right, *between = (text.get_window_extent() for text in figure.axes[0].texts)
        edges = [left.x1, *(edge for box in between for edge in (box.x0, box.x1)), right.x0]
        assert edges == sorted(edges) and len(between) == (steps > 3)


def test_a_legend_names_an_average_where_one_is_taken() -> None:
    assert not [text for text in labels_of(plots.loss_curves(history(60)).axes[0]) if "means over" in text]
    assert labels_of(plots.loss_curves(history(100)).axes[0])[-1].endswith("means over 2")


def test_image_grid_in_colour_and_other_ranges(tmp_path: Path) -> None:
    red = torch.full((9, 3, 4, 4), -1.0)
    red[:, 0] = 1.0
    path = plots.image_grid(
        red.flatten(1), red.flatten(1)[:2], tmp_path / "c.png", image_shape=(4, 4), value_range=(-1.0, 1.0)
    )
    image = pixels(path)
    assert close_to(image, "#FF0000") == pytest.approx(11 * 80 * 80, rel=0.05)  # nine left, two right


def test_columns_of_different_units_each_fill_their_axis() -> None:
    """Years of age and an income: with one scale for both, the points were a line."""
    torch.manual_seed(0)
    table = torch.rand(500, 2, dtype=torch.float64) * torch.tensor([60.0, 90_000.0]) + torch.tensor([20.0, 0.0])

    def d(x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid((x[:, 0] - 50) / 10)

    single = plots.scatter(table, table, discriminator=d).axes[:1]
    beside = plots.verdicts(table, table, discriminator=d).axes[:2]
    compared = plots.compare_points({"GAN": table, "real rows": table}, title="").axes
    for axes in (*single, *beside, *compared):
        assert 60 < np.ptp(axes.get_xlim()) < 90 and 90_000 < np.ptp(axes.get_ylim()) < 130_000
        axes.figure.draw_without_rendering()
        box = axes.get_window_extent()
        assert box.width == pytest.approx(box.height, rel=0.02)
    surface = single[0].images[0].get_array()
    assert surface.shape == (200, 200) and float(surface[:, :40].max()) < 0.2 and float(surface[:, 160:].min()) > 0.8
    points = plots.scatter(table[:, :1].expand(-1, 2), table[:, :1].expand(-1, 2)).axes[0]
    assert np.ptp(points.get_xlim()) == np.ptp(points.get_ylim())


def test_few_real_rows_beside_many_samples_are_all_shown() -> None:
    """Limits of both together left them out, and the densities and the optimal D were of what was left."""
    torch.manual_seed(0)
    real, samples = torch.randn(270, 1), 0.3 + 0.1 * torch.randn(50_000, 1)
    bars, below = plots.line(samples, real).axes
    low, high = below.get_xlim()
    assert low < np.percentile(real, 1) and high > np.percentile(real, 99)
    heights = np.array([patch.get_height() for patch in bars.patches[:60]])
    width = bars.patches[0].get_width()
    shown = ((real >= low) & (real <= high)).double().mean()
    assert heights.sum() * width == pytest.approx(1.0, rel=1e-6) and shown > 0.99


def test_scatter_shows_points_and_surface(tmp_path: Path) -> None:
    torch.manual_seed(0)
    real, samples = torch.randn(300, 2) * 0.1, torch.randn(300, 2) * 0.1 + 0.3

    def d(x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(-20 * x[:, 0])

    bare = pixels(plots.scatter(samples, real, tmp_path / "bare.png"))
    full = pixels(plots.scatter(samples, real, tmp_path / "full.png", discriminator=d))
    assert close_to(bare, "#FFFFFF") > 2 * close_to(full, "#FFFFFF")
    half = full.shape[1] // 3
    assert close_to(full[:, :half], "#7FB8E0") > 5000  # D says real on the left: blue


def test_line_and_marginals(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2000, 1), torch.randn(2000, 1) + 1
    image = pixels(plots.line(y, x, tmp_path / "line.png", discriminator=lambda p: torch.sigmoid(-p[:, 0])))
    for colour in (style.ORANGE, style.PURPLE):
        assert close_to(image, colour) > 300
    table = torch.randn(500, 12)
    table[:, 3] = 7.0  # a constant column has a histogram as well
    assert pixels(plots.marginals(table, table, tmp_path / "m.png")).std() > 5
    assert pixels(plots.marginals(table[:, :4], table[:, :4], tmp_path / "m4.png")).std() > 5


def test_wrong_suffix_and_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must end in .png, .svg or .pdf"):
        plots.losses(tmp_path / "losses.txt")
    with pytest.raises(OSError, match="nowhere"):
        plots.losses(tmp_path / "nowhere" / "losses.png")
    assert list(tmp_path.iterdir()) == []


def test_vector_formats(tmp_path: Path) -> None:
    assert b"<svg" in plots.losses(tmp_path / "losses.svg").read_bytes()
    assert plots.losses(tmp_path / "losses.pdf").read_bytes().startswith(b"%PDF")
