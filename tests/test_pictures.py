"""The pictures of the theory and those of a run by name."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Run, check_refusal, check_success
from data_files import idx_bytes
from test_plots import close_to, pixels

import fastgan
from fastgan import evaluation, plots
from fastgan.apps.cli import main, runs, snapshots
from fastgan.plots import plane, style

pytest.importorskip("matplotlib", reason="pictures need matplotlib")
Image = pytest.importorskip("PIL.Image", reason="decoding pictures needs pillow")

TINY = ("--rows", "200", "--batch-size", "20", "--width", "8", "--quiet", "--no-pictures")


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 30 iterations with 10 snapshots, which tests only read."""
    folder = tmp_path_factory.mktemp("ring") / "run"
    assert main(["train", "ring", *TINY, "--steps", "30", "--snapshots", "10", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 iterations on images."""
    pytest.importorskip("sklearn", reason="digits come with scikit-learn")
    folder = tmp_path_factory.mktemp("digits") / "run"
    assert main(["train", "digits", *TINY, "--steps", "20", "--snapshots", "4", "--out", str(folder)]) == 0
    return folder


# ---------------------------------------------------------------- theory


def test_M33_stage_d_of_figure_1_has_d_at_one_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c, d = plots.figure1_stages()
    x = a.x
    seen = np.abs(x - 0.5) < 1.8  # three standard deviations of the data

    def off(stage: Any) -> float:
        return float(np.abs(stage.d - stage.d_star)[seen].max())

    assert off(b) < 0.1 and off(b) < off(a) / 2  # D learns while G waits
    np.testing.assert_array_equal(a.p_g, b.p_g)
    np.testing.assert_array_equal(b.d, c.d)  # G learns while D waits, and comes nearer
    apart = [np.abs(stage.p_data - stage.p_g).sum() for stage in (b, c)]
    assert apart[1] < 0.97 * apart[0]
    assert np.abs(d.d - 0.5)[seen].max() <= 0.05
    np.testing.assert_allclose(d.p_g, d.p_data, atol=0.03)
    slope, middle = np.polyfit(d.z, d.g, 1)
    assert (abs(slope), middle) == pytest.approx((0.6, 0.5), abs=0.03)  # where the arrows point
    monkeypatch.setattr(sys.modules["fastgan.plots.figure1"], "figure1_stages", lambda seed: [a, b, c, d])
    figure = plots.figure1(seed=0)
    assert "(a) iteration 25, " in figure.get_supxlabel() and "(d) iteration 1,625; seed 0" in figure.get_supxlabel()
    image = pixels(style.save(figure, tmp_path / "figure1.png"))
    assert close_to(image, style.ORANGE) > 5000 and close_to(image, style.PURPLE) > 3000


def test_M12_fits_shows_the_optima_of_each_divergence(tmp_path: Path) -> None:
    image = pixels(plots.fits(tmp_path / "fits.png"))
    third = image.shape[1] // 3
    counts = [close_to(image[:, i * third : (i + 1) * third], style.ORANGE) for i in range(3)]
    assert min(counts) > 1000
    assert counts[1] > 1.5 * counts[0] and counts[2] > 1.5 * counts[0]  # two peaks; two peaks and the broad one


def test_M30_ring_map_draws_points_outside_the_unit_circle_only(tmp_path: Path) -> None:
    image = pixels(plots.ring_map(tmp_path / "ring_map.png"))
    height, width = image.shape[:2]
    right = image[:, width // 2 :]
    coloured = np.argwhere(np.ptp(right, axis=-1) > 40)
    centre = (coloured.min(0) + coloured.max(0)) / 2
    distance = np.hypot(*(coloured - centre).T)
    assert len(coloured) > 5000
    assert distance.min() > 0.5 * distance.max()  # radii from 1 to about 1.45, about a centre known roughly


def test_bilinear_shows_both_trajectories(tmp_path: Path) -> None:
    image = pixels(plots.bilinear(tmp_path / "bilinear.png"))
    spread = [
        np.ptp(np.argwhere(np.abs(image - np.array(rgb)).max(-1) < 24), axis=0).min()
        for rgb in ((0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2))
    ]
    assert spread[0] > 1.8 * spread[1]  # the simultaneous one has left the circle


@pytest.mark.parametrize("name", ["losses", "fits", "ring_map", "bilinear"])
def test_plot_draws_theory_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plot", name]) == 0
    assert capsys.readouterr().out.split()[0] == f"{name}.png"
    assert pixels(tmp_path / f"{name}.png").std() > 5


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("losses", "computed in float64"),
        ("fits", "computed on 20,001 points, no samples"),
        ("ring_map", "300 draws, seed 0"),
        ("bilinear", "computed, no samples"),
        ("joint", "computed from the table"),
        ("coins", "computed, no samples"),
        ("convergence", "computed, no samples: 200 steps each"),
        ("nce", "20,000 rows, as many of the noise, 300 steps, seed 0"),
    ],
)
def test_a_picture_of_the_theory_says_where_it_comes_from(name: str, says: str) -> None:
    assert getattr(plots, name)().get_supxlabel() == f"{says}, fastgan {fastgan.__version__}"
    if name == "losses":
        with plots.source("lecture 3"):
            assert plots.losses().get_supxlabel() == "lecture 3"


# ---------------------------------------------------------------- D against D*


def test_verdicts_measures_how_far_d_is_from_the_optimum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For two Gaussians D* is known: it is found to be near the picture's own estimate, and its opposite far."""
    torch.manual_seed(0)
    real, fake = torch.randn(100_000, 2), torch.randn(100_000, 2)
    real[:, 0] += 2.0
    titles = []
    save = style.save
    monkeypatch.setattr(style, "save", lambda figure, path: titles.append(figure.get_suptitle()) or save(figure, path))

    def optimal(x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(2 * x[:, 0] - 2)

    image = pixels(plots.verdicts(fake, real, tmp_path / "good.png", discriminator=optimal))
    plots.verdicts(fake, real, tmp_path / "bad.png", discriminator=lambda x: 1 - optimal(x))
    good, bad = (float(title.rpartition(": ")[2]) for title in titles)
    assert good < 0.04
    assert bad == pytest.approx(float((1 - 2 * optimal(torch.cat([real, fake]))).abs().mean()), abs=0.05)
    half = image.shape[1] // 2
    assert close_to(image[:, half:], "#EEEEEE") > 3000  # D* is not known everywhere


def test_density_counts_each_point_once() -> None:
    torch.manual_seed(0)
    points = torch.rand(1000, 2) - 0.5
    density = plane._density(points, np.zeros(2), np.ones(2))
    assert density.sum() == pytest.approx(1.0, abs=1e-9)
    one = plane._density(torch.tensor([[0.5, -0.25]]), np.zeros(2), np.ones(2))
    assert divmod(int(one.argmax()), plane._CELLS) == (150, 75)


# ---------------------------------------------------------------- pictures of a run


def test_M37_the_ends_of_an_interpolation_are_the_samples_to_the_bit() -> None:
    gan = fastgan.models.mlp_gan(3, latent_dim=5, hidden=(16, 16), generator_activation="tanh")
    gan.generator.append(torch.nn.Dropout(0.5))  # eval mode, and the mode comes back
    start, end = gan.noise(14, seed=3).chunk(2)
    paths = gan.interpolate(start, end, steps=6)
    assert paths.shape == (7, 6, 3) and gan.generator.training
    gan.eval()
    with torch.no_grad():
        assert torch.equal(paths[:, 0], gan(start)) and torch.equal(paths[:, -1], gan(end))
        torch.testing.assert_close(paths[:, 2], gan(0.6 * start + 0.4 * end))
    assert not torch.equal(paths[:, 0], paths[:, 1])


@pytest.mark.parametrize(
    ("start", "end", "steps", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 5), 3, "interpolate: start must be (n, 5), got (2, 3)"),
        (torch.zeros(2, 5), torch.zeros(3, 5), 3, "interpolate: end must be (n, 5), got (3, 5)"),
        (torch.zeros(5), torch.zeros(5), 3, "interpolate: start must be (n, 5), got (5,)"),
        (torch.zeros(2, 5), torch.zeros(2, 5), 1, "interpolate: steps must be at least 2, got 1"),
    ],
)
def test_M37_interpolation_names_a_bad_argument(
    start: torch.Tensor, end: torch.Tensor, steps: int, message: str
) -> None:
    gan = fastgan.models.mlp_gan(3, latent_dim=5, hidden=(4,))
    with pytest.raises(ValueError) as error:
        gan.interpolate(start, end, steps)
    assert str(error.value) == message


def test_M37_the_strip_shows_every_image(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "strip.png"
    assert main(["plot", "interpolation", str(digits), "--out", str(out)]) == 0
    image = pixels(out)
    assert image.shape[1] > image.shape[0] and image.std() > 20
    assert (image[-20:] < 200).any()  # the source, below the last row
    assert (image[-26:-22] > 250).all()  # and white between them
    gan = runs.trained(digits, runs.read(digits))
    start, end = gan.noise(12, seed=0).chunk(2)
    first = gan.interpolate(start, end, 11)[0, 0].reshape(8, 8)
    block = image[44 + 4 :, 12 + 4 :][:80, :80, 0].reshape(8, 10, 8, 10)
    assert np.abs(block - np.round(255 * (1 - first.numpy()))[:, None, :, None]).max() <= 1.5


def test_M36_the_picture_of_neighbours_pairs_samples_with_their_nearest_rows(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    monkeypatch.setattr(
        plots, "neighbours", lambda samples, nearest, distance, path, **look: seen.update(locals()) or path
    )
    assert main(["plot", "neighbours", str(digits), "--out", str(tmp_path / "n.png")]) == 0
    config = runs.read(digits)
    rows = config.load_data().tensor()
    distance = torch.cdist(seen["samples"].double(), rows.double()).min(1)
    assert torch.equal(seen["nearest"], rows[distance.indices])
    torch.testing.assert_close(seen["distance"], distance.values, rtol=1e-6, atol=1e-9)
    monkeypatch.undo()
    found = evaluation.nearest_neighbours(seen["samples"], rows)
    path = plots.neighbours(
        seen["samples"], rows[found.index], found.distance, tmp_path / "n.png", image_shape=(8, 8), ink=True
    )
    assert pixels(path).std() > 20


def test_discriminator_of_a_run(ring: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.png"
    assert main(["plot", "discriminator", str(ring), "--out", str(out)]) == 0
    assert pixels(out).std() > 5


@pytest.mark.parametrize("columns", [("height",), ("height", "$ spent")])
def test_axes_have_the_names_of_a_tables_columns(
    columns: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(60, len(columns)))
    np.savetxt("t.csv", rows, delimiter=",", header=",".join(columns), comments="")
    drawn: list[Any] = []
    monkeypatch.setattr(style, "sign", lambda figure, about="": drawn.append(figure))
    flags = ("--batch-size", "20", "--width", "8", "--steps", "4", "--snapshots", "2", "--quiet")
    assert main(["train", "t.csv", *flags, "--out", "run"]) == 0
    for name in ("discriminator", "animation"):
        assert main(["plot", name, "run"]) == 0
    samples, _, _, discriminator, animation = drawn
    up = ["density"] if len(columns) == 1 else [r"\$ spent"]
    for figure in (samples, discriminator, animation):
        labels = {axes.get_xlabel() for axes in figure.axes} | {axes.get_ylabel() for axes in figure.axes}
        assert labels >= {"height", *up}, labels
    panels = {"GAN": torch.from_numpy(rows), "real": torch.from_numpy(rows)}
    compare = plots.compare_histograms if len(columns) == 1 else plots.compare_points
    assert compare(panels, title="", names=columns).axes[0].get_xlabel() == "height"


# ---------------------------------------------------------------- animation


def test_snapshots_are_the_samples_of_their_iteration(ring: Path, tmp_path: Path) -> None:
    config = runs.read(ring)
    steps, frames = snapshots.read(ring, config)
    assert steps == [0, *range(3, 31, 3)]
    assert torch.equal(frames[-1], config.restore(runs.trained(ring, config).sample(1000)))
    shorter = tmp_path / "shorter"
    decay = ("--ema-decay", str(config.train.ema_decay))  # the preset's own depends on the length
    assert main(["train", "ring", *TINY, "--steps", "15", *decay, "--snapshots", "0", "--out", str(shorter)]) == 0
    assert not (shorter / "snapshots").exists()
    assert torch.equal(frames[5], config.restore(runs.trained(shorter, config).sample(1000)))
    assert torch.equal(frames[0], config.restore(config.build().sample(1000)))


def test_snapshots_change_no_bit_of_the_run(ring: Path, tmp_path: Path) -> None:
    without = tmp_path / "without"
    assert main(["train", "ring", *TINY, "--steps", "30", "--snapshots", "0", "--out", str(without)]) == 0
    assert (without / "history.csv").read_bytes() == (ring / "history.csv").read_bytes()


@pytest.mark.parametrize("kind", ["ring", "digits"])
def test_animation_has_a_frame_for_each_snapshot(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder: Path = request.getfixturevalue(kind)
    out = tmp_path / "a.gif"
    assert main(["plot", "animation", str(folder), "--out", str(out)]) == 0
    with Image.open(out) as image:
        assert image.n_frames == 1 + len(list((folder / "snapshots").iterdir()))
        shown = []
        for frame in range(image.n_frames):
            image.seek(frame)
            shown.append(np.asarray(image.convert("RGB")).astype(float))
    assert all(np.abs(a - b).max() > 50 for a, b in zip(shown, shown[1:], strict=False))


def test_animation_of_one_column(tmp_path: Path) -> None:
    frames = [torch.linspace(-1, 1, 50)[:, None] * scale for scale in (0.1, 1.0)]
    path = plots.animation([0, 10], frames, frames[1], tmp_path / "a.gif")
    with Image.open(path) as image:
        assert image.n_frames == 2 and np.asarray(image.convert("L")).std() > 5
        unsigned = np.asarray(image.convert("L"))
    with plots.source("x.csv, seed 0"), Image.open(plots.animation([0, 10], frames, frames[1], path)) as image:
        signed = np.asarray(image.convert("L"))
    at = np.s_[-14:, -120:]  # the lower right corner
    assert (signed[at] < 200).sum() > (unsigned[at] < 200).sum() + 20


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("interpolation {ring}", "RUN_DIR must be of images for the picture interpolation, got ring"),
        ("neighbours {ring}", "RUN_DIR must be of images for the picture neighbours, got ring"),
        ("discriminator {digits}", "RUN_DIR must be of one or two columns for the picture discriminator, got 64"),
        ("animation {ring} --out a.png", "an animation must end in .gif, got 'a.png'"),
        ("interpolation", "RUN_DIR must be given for the picture interpolation"),
        ("losses {ring}", "RUN_DIR must be given for interpolation, neighbours, discriminator, animation alone"),
        ("fits --out a.gif", "a picture must end in .png, .svg or .pdf, got 'a.gif'"),
        ("animation nowhere", "nowhere is no run folder"),
        ("animatoin", "RUN_DIR must be a run folder, or a picture: losses, fits"),
    ],
)
def test_mistakes_get_one_line(run: Run, argv: str, says: str, ring: Path, digits: Path) -> None:
    check_refusal(run("plot", *argv.format(ring=ring, digits=digits).split()), says)
    assert list(Path().iterdir()) == []


def test_a_run_without_snapshots_says_so(run: Run) -> None:
    check_success(run("train", "ring", *TINY, "--steps", "2", "--snapshots", "0", "--out", "r"))
    check_refusal(run("plot", "animation", "r"), "has no snapshots")


# ---------------------------------------------------------------- probability and learning


def texts(figure: Any) -> list[str]:
    """All that is written in the panels of a figure."""
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_M94_the_picture_of_a_joint_table_has_the_tables_numbers() -> None:
    figure = plots.joint()
    joint, given_x, given_y = ([text.get_text() for text in axes.texts] for axes in figure.axes)
    assert joint[:4] == ["0.04", "0.04", "0.2", "0.04"] and joint[4::5] == ["0.32", "0.48", "0.2", "1"]
    assert joint[-5:] == ["0.34", "0.28", "0.26", "0.12", "1"]  # 17/50, ...
    assert given_x[0] == "0.1176" and given_y[:4] == ["0.125", "0.125", "0.625", "0.125"]  # 2/17; 2/16, ...
    assert "H(X) = 1.9157 bits" in figure.get_suptitle() and "I(X;Y) = 0.2759" in figure.get_suptitle()
    swapped = plots.joint(counts=np.array([[1, 1], [1, 1]]))
    assert texts(swapped)[:2] == ["0.25", "0.25"]


def test_M94_the_curves_of_coins_are_entropy_and_cross_entropy() -> None:
    left, right = plots.coins().axes
    p, bits = left.lines[0].get_data()
    inside = p[1:-1]
    expected = -inside * np.log2(inside) - (1 - inside) * np.log2(1 - inside)
    np.testing.assert_allclose(bits, [0.0, *expected, 0.0], atol=1e-12)
    p, cross = right.lines[0].get_data()
    np.testing.assert_allclose(cross, -p * np.log2(0.05) - (1 - p) * np.log2(0.95), atol=1e-12)
    assert "KL of the fair coin: 1.1980" in texts(right.figure)


def test_M95_the_games_with_the_best_d_converge_in_the_picture() -> None:
    _, js, _, value = plots.convergence(steps=120).axes
    divergence, values = js.lines[0].get_ydata(), value.lines[0].get_ydata()
    assert (np.diff(divergence) < 0).all() and divergence[-1] < 1e-4 * divergence[0]
    assert (np.diff(values) <= 1e-12).all() and values[-1] == pytest.approx(-np.log(4), abs=1e-6)


def test_M96_a_trained_d_gives_the_ratio_of_densities() -> None:
    x, learned, exact = plots.trained_ratio()
    inside = (x >= -2) & (x <= 3)
    assert float((learned / exact - 1).abs()[inside].max()) < 0.1
    figure = plots.density_ratio()
    assert figure.get_supxlabel().startswith("100,000 samples of each, 4 epochs, seed 0")
    right = figure.axes[1]
    assert "its odds are their ratio: off by at most" in right.get_title("left")


def test_M96_nce_finds_mean_spread_and_normaliser_of_a_gaussian() -> None:
    trajectory = plots.nce_fit(steps=200)
    mean, std, z = trajectory[-1]
    assert trajectory[0] == pytest.approx((0.0, 2.0, 1.0)) and len(trajectory) == 201
    assert abs(mean - 1.0) < 0.05 and abs(std - 0.7) < 0.05 and abs(z - 0.7 * np.sqrt(2 * np.pi)) < 0.1


def test_M97_codes_and_reconstructions_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    figure = plots.codes(steps=40)
    assert figure.get_supxlabel().startswith("digits, 40 steps of 128 rows each, seed 0")
    clouds, pictures = figure.axes[:2], figure.axes[2:4]
    assert [len(axes.collections[0].get_offsets()) for axes in clouds] == [1797, 1797]
    assert all("mean squared error 0.0" in axes.get_title("left") for axes in pictures)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list("0123456789")


def test_M97_codes_of_a_users_own_images(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (200, 6, 5), dtype=np.uint8)
    labels = np.arange(200, dtype=np.uint8) % 4 + 3
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        Path(f"train-{kind}-ubyte").write_bytes(idx_bytes(array))
    figure = plots.codes(dataset=fastgan.data.read("."), steps=3)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list("3456")
    colours = figure.axes[0].collections[0].get_array()
    np.testing.assert_array_equal(colours, labels - 3)
    monkeypatch.setattr(plots, "codes", functools.partial(plots.codes, steps=2))
    check_success(run("plot", "codes", ".", "--out", "c.png"))
    assert pixels(Path("c.png")).std() > 5
    Path("train-labels-idx1-ubyte").unlink()
    for source, says in ((".", "dataset must be images with labels"), ("ring", "got ring"), ("absent", "no data set")):
        check_refusal(run("plot", "codes", source), says)


@pytest.mark.parametrize(("rows", "labels", "says"), [(99, 3, "at least 128 images, got 99"), (200, 21, "got 21")])
def test_M97_codes_name_data_that_they_cannot_show(rows: int, labels: int, says: str) -> None:
    dataset = fastgan.data.Dataset(torch.rand(rows, 4), image_shape=(2, 2), labels=torch.arange(rows) % labels)
    with pytest.raises(ValueError, match=f"codes: dataset must have .*{says}"):
        plots.codes(dataset=dataset, steps=1)


def test_M96_a_collapsed_run_is_beside_a_good_one() -> None:
    figure = plots.collapse()
    assert figure.get_supxlabel().startswith("ring of 8 Gaussians, 20,000 rows; iteration 150 and iteration 3,000")
    collapsed, good = figure.axes
    assert int(collapsed.get_title("left").splitlines()[1][0]) <= 2
    assert good.get_title("left").splitlines()[1].startswith("8 of 8 modes")
