"""Likelihood, modes, neighbours, precision and recall: against their definitions in float64, written out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fastgan
from fastgan import evaluation, theory

N_SIZES = [1, 5, 959, 960, 961, 2500]  # about a block of 960
M_SIZES = [1, 239, 240, 241, 700]  # about a block of 240


def gaussian_rows(n: int, dim: int, seed: int = 0, *, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def squared_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(x, y) from differences in float64."""
    return torch.stack([(row - y.double()).square().sum(1) for row in x.double()])


def log_densities(samples: torch.Tensor, x: torch.Tensor, sigma: float) -> torch.Tensor:
    n, dim = samples.shape
    exponents = -squared_distances(x, samples) / (2 * sigma**2)
    return torch.logsumexp(exponents, 1) - math.log(n) - dim / 2 * math.log(2 * math.pi * sigma**2)


def parzen_rows(samples: Any, x: Any, sigma: float) -> Any:
    return evaluation.parzen_log_likelihood(samples, x, sigma=sigma).log_likelihoods


# ---------------------------------------------------------------- Parzen windows


@pytest.mark.parametrize("dim", [1, 2, 64, 784])
@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_M70_parzen_equals_logsumexp_in_float64(dim: int, sigma: float) -> None:
    edges = [*((n, 7) for n in N_SIZES), *((5, m) for m in M_SIZES)] if dim == 2 else []
    for n, m in [*edges, (1000, 100)]:
        samples, x = gaussian_rows(n, dim).float(), gaussian_rows(m, dim, 1).float()
        result = evaluation.parzen_log_likelihood(samples, x, sigma=sigma)
        expected = log_densities(samples, x, sigma)
        torch.testing.assert_close(result.log_likelihoods, expected, rtol=1e-12, atol=1e-10)
        assert result.mean == pytest.approx(float(expected.mean()), rel=1e-12)
        assert result.samples == n and result.sigma == sigma


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e8])
def test_M70_parzen_is_exact_far_from_the_origin(offset: float) -> None:
    samples, x = (gaussian_rows(500, 20, seed) + offset for seed in (0, 1))
    torch.testing.assert_close(
        parzen_rows(samples, x, 0.2), log_densities(samples, x, 0.2), rtol=1e-6 if offset == 1e8 else 1e-11, atol=0
    )


def test_M70_R17_parzen_keeps_its_bits_however_the_rows_are_split() -> None:
    samples, x = gaussian_rows(2000, 30), gaussian_rows(700, 30, 1)
    whole = parzen_rows(samples, x, 0.3)
    for size in (1, 7, 100, 240, 333, 699):
        parts = [parzen_rows(samples, part, 0.3) for part in x[: 40 * size].split(size)]
        assert torch.equal(torch.cat(parts), whole[: 40 * size]), size
    shuffled = torch.randperm(700)
    assert torch.equal(parzen_rows(samples, x[shuffled], 0.3), whole[shuffled])


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_M70_R16_parzen_keeps_its_bits_for_any_number_of_threads(threads: int) -> None:
    samples, x = gaussian_rows(2000, 30), gaussian_rows(300, 30, 1)
    alone = parzen_rows(samples, x, 0.3)
    torch.set_num_threads(threads)
    assert torch.equal(parzen_rows(samples, x, 0.3), alone)
    real = evaluation.precision_recall(samples, x)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    assert evaluation.precision_recall(samples, x) == real


def test_M70_parzen_does_not_depend_on_the_order_of_the_samples() -> None:
    samples, x = gaussian_rows(2000, 10), gaussian_rows(50, 10, 1)
    permuted = parzen_rows(samples[torch.randperm(2000)], x, 0.3)
    torch.testing.assert_close(permuted, parzen_rows(samples, x, 0.3), rtol=1e-13, atol=0)


def test_M70_parzen_limit_of_many_samples() -> None:
    """Windows of sigma about N(0, I) have the density N(0, 1 + sigma^2)."""
    dim, sigma = 2, 0.2
    limit = -dim / 2 * math.log(2 * math.pi * (1 + sigma**2)) - dim / (2 * (1 + sigma**2))
    assert limit == pytest.approx(-2.8386362, abs=5e-8)
    result = evaluation.parzen_log_likelihood(gaussian_rows(100_000, dim), gaussian_rows(1000, dim, 1), sigma=sigma)
    assert abs(result.mean - limit) <= 3 * result.standard_error
    assert 0 < result.standard_error < 0.05


def test_M70_parzen_standard_error() -> None:
    result = evaluation.parzen_log_likelihood(gaussian_rows(100, 3), gaussian_rows(50, 3, 1), sigma=0.5)
    expected = result.log_likelihoods.numpy().std() / math.sqrt(50)
    assert result.standard_error == pytest.approx(expected, rel=1e-12)
    assert evaluation.parzen_log_likelihood(gaussian_rows(9, 3), gaussian_rows(1, 3), sigma=1.0).standard_error == 0


def test_M70_parzen_with_far_too_narrow_windows_stays_finite() -> None:
    samples, x = torch.rand(200, 784), torch.rand(50, 784)
    result = evaluation.parzen_log_likelihood(samples, x, sigma=0.01)
    assert torch.isfinite(result.log_likelihoods).all() and result.mean < -250_000
    alone = evaluation.parzen_log_likelihood(samples, samples[:5], sigma=1e-6)
    peak = -math.log(200) - 784 / 2 * math.log(2 * math.pi * 1e-12)
    torch.testing.assert_close(alone.log_likelihoods, torch.full((5,), peak, dtype=torch.float64), rtol=1e-3, atol=0)


def test_M70_parzen_of_a_copy_is_at_most_a_windows_peak() -> None:
    """Rounding must not make the squared distance of a copy negative, which a narrow window would multiply."""
    samples = gaussian_rows(1000, 20)
    peak = -math.log(1000) - 20 / 2 * math.log(2 * math.pi) - 20 * math.log(1e-8)
    found = parzen_rows(samples, samples, 1e-8)
    assert found.max() <= peak * (1 + 1e-14) and found.min() < peak


def test_M70_sigma_by_cross_validation() -> None:
    samples, validation = gaussian_rows(3000, 2), gaussian_rows(1500, 2, 1)
    sigmas = np.logspace(-2, 0.5, 12)
    means = [float(log_densities(samples, validation[:1000], s).mean()) for s in sigmas]
    best = float(sigmas[int(np.argmax(means))])
    assert evaluation.parzen_sigma(samples, validation, sigmas) == best
    x = gaussian_rows(100, 2, 2)
    result = evaluation.parzen_log_likelihood(samples, x, validation=validation, sigmas=sigmas)
    assert result == evaluation.parzen_log_likelihood(samples, x, sigma=best)
    np.testing.assert_allclose(evaluation.PARZEN_SIGMAS, np.logspace(-1, 0, 10), rtol=1e-15)


def test_M70_sigma_is_chosen_by_the_validation_rows_and_by_no_others() -> None:
    """Samples, validation rows and data of three spreads, so that each would choose another sigma."""
    samples, validation, x = (gaussian_rows(400, 2, i, scale=scale) for i, scale in enumerate((1.0, 3.0, 1e-3)))
    sigmas = np.logspace(-2, 1, 10)
    chosen = evaluation.parzen_sigma(samples, validation, sigmas)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the best may lie beyond
        others = [evaluation.parzen_sigma(samples, rows, sigmas) for rows in (samples, x)]
        others += [evaluation.parzen_sigma(validation, x, sigmas), evaluation.parzen_sigma(x, validation, sigmas)]
    assert chosen not in others
    assert evaluation.parzen_log_likelihood(samples, x, validation=validation, sigmas=sigmas).sigma == chosen


def test_M70_sigma_is_chosen_by_the_first_1000_validation_rows() -> None:
    samples, near, far = (gaussian_rows(1000, 2, i, scale=scale) for i, scale in enumerate((1.0, 1.0, 20.0)))
    sigmas = np.logspace(-1, 2, 12)
    of_near, of_far = (evaluation.parzen_sigma(samples, rows, sigmas) for rows in (near, far))
    assert of_near != of_far
    assert evaluation.parzen_sigma(samples, torch.cat([near, far]), sigmas) == of_near
    assert evaluation.parzen_sigma(samples, torch.cat([far, near]), sigmas) == of_far


def test_M70_a_best_sigma_at_the_end_of_the_list_is_warned_of() -> None:
    samples, validation = gaussian_rows(300, 2, scale=1e-3), gaussian_rows(100, 2, 1, scale=1e-3)
    with pytest.warns(UserWarning, match="sigma 0.1 is the smallest of sigmas"):
        evaluation.parzen_sigma(samples, validation)
    with pytest.warns(UserWarning, match="is the largest of sigmas"):
        evaluation.parzen_sigma(1e5 * samples, 1e5 * validation)


def test_M25_parzen_is_kernel_density() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors", reason="scikit-learn has kernel density")
    samples, x = gaussian_rows(400, 3).numpy(), gaussian_rows(60, 3, 1).numpy()
    model = neighbors.KernelDensity(bandwidth=0.4, rtol=0.0, atol=0.0).fit(samples)
    found = parzen_rows(samples, x, 0.4)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, model.score_samples(x), rtol=1e-9)


@pytest.mark.filterwarnings("ignore:KMeans")
def test_M77_k_means_centres_beat_real_digits_under_parzen() -> None:
    cluster = pytest.importorskip("sklearn.cluster", reason="scikit-learn has k-means and digits")
    digits = fastgan.data.digits().tensor()[torch.randperm(1797, generator=torch.Generator().manual_seed(0))]
    real, validation, test = digits[:600], digits[600:1100], digits[1100:]
    centres = torch.from_numpy(cluster.KMeans(200, n_init=1, random_state=0).fit(real.numpy()).cluster_centers_)
    scores = {
        name: evaluation.parzen_log_likelihood(rows, test, validation=validation)
        for name, rows in (("real", real[:200]), ("centres", centres))
    }
    assert scores["centres"].mean > scores["real"].mean + 3 * scores["real"].standard_error


# ---------------------------------------------------------------- modes

DATASETS: dict[str, Callable[..., fastgan.data.Dataset]] = {"ring": fastgan.data.ring, "grid": fastgan.data.grid}


@pytest.mark.parametrize("convention", ["radius", "box"])
def test_M72_a_sample_at_the_threshold_is_not_of_high_quality(convention: str) -> None:
    """High quality is below the threshold: in numbers that are exact, at it and one step inside."""
    centres = torch.tensor([[0.0, 0.0], [100.0, 0.0]], dtype=torch.float64)
    inside = math.nextafter(6.0, 0.0)
    for x, share in ((6.0, 0.0), (-6.0, 0.0), (inside, 1.0), (-inside, 1.0)):
        samples = torch.tensor([[x, 0.0], [100.0, x]], dtype=torch.float64)
        found = evaluation.mode_coverage(samples, centres, 2.0, convention=convention, threshold=3.0)
        assert (found.high_quality, found.covered) == (share, round(2 * share)), x


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize(("convention", "ceiling"), [("radius", 0.98889), ("box", 0.99461)])
def test_M72_ceiling_of_a_perfect_sampler(name: str, convention: str, ceiling: float) -> None:
    data = DATASETS[name](100_000, seed=1)
    assert data.centres is not None and data.std is not None
    result = evaluation.mode_coverage(data, data.centres, data.std, convention=convention)
    assert result.covered == result.modes == len(data.centres)
    error = math.sqrt(ceiling * (1 - ceiling) / 100_000)
    assert abs(result.high_quality - ceiling) <= 4 * error + 5e-6
    assert result.counts.sum() == 100_000


@pytest.mark.parametrize(("name", "expected"), [("ring", 0.0014), ("grid", 0.0048)])
def test_M72_reverse_kl_of_a_perfect_sampler(name: str, expected: float) -> None:
    found = []
    for seed in range(40):
        data = DATASETS[name](2500, seed=seed)
        assert data.centres is not None and data.std is not None
        found.append(evaluation.mode_coverage(data, data.centres, data.std).reverse_kl)
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found) / math.sqrt(40) + 5e-5)


def test_M72_both_conventions_by_hand() -> None:
    centres = np.array([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    samples = np.array([[0.0, 0], [2.5, 2.5], [2.9, 0], [3.1, 0], [10, 2.9], [10, 5.1]])
    radius = evaluation.mode_coverage(samples, centres, 1.0)
    box = evaluation.mode_coverage(samples, centres, 1.0, convention="box")
    assert isinstance(radius.counts, np.ndarray)
    assert radius.counts.tolist() == box.counts.tolist() == [4, 1, 0, 1]
    assert (radius.covered, box.covered) == (2, 2)  # the sample nearest to the fourth mode is far from it
    assert radius.high_quality == pytest.approx(3 / 6) and box.high_quality == pytest.approx(4 / 6)
    p = np.array([4, 1, 0, 1]) / 6
    expected = float((p[p > 0] * np.log(4 * p[p > 0])).sum())
    assert radius.reverse_kl == box.reverse_kl == pytest.approx(expected, rel=1e-12)
    assert radius.forward_kl == math.inf
    assert radius.js == pytest.approx(theory.js_divergence(p, np.full(4, 0.25)), rel=1e-12)
    assert "2 of 4 modes, 50.0% of the samples within 3 standard deviations" in str(radius)
    assert "on every axis" in str(box)


def test_M72_R17_a_collapsed_generator() -> None:
    """One mode of 25; and chunks of rows change nothing."""
    data = fastgan.data.grid(2500)
    assert data.centres is not None
    samples = data.centres[3] + 0.05 * gaussian_rows(2500, 2)
    result = evaluation.mode_coverage(samples, data.centres, 0.05)
    assert result.covered == 1 and result.reverse_kl == pytest.approx(math.log(25))
    before, evaluation.modes._CHUNK = evaluation.modes._CHUNK, 1000
    try:
        again = evaluation.mode_coverage(samples, data.centres, 0.05)
    finally:
        evaluation.modes._CHUNK = before
    assert again == result and torch.equal(again.counts, result.counts)


# ---------------------------------------------------------------- neighbours


@pytest.mark.parametrize(("n", "m", "dim"), [(1, 1, 1), (300, 2000, 5), (9, 1920, 3), (241, 961, 64), (20, 1200, 784)])
def test_M36_nearest_neighbours_are_the_brute_force_argmin(n: int, m: int, dim: int) -> None:
    samples, data = gaussian_rows(n, dim).float(), gaussian_rows(m, dim, 1).float()
    found = evaluation.nearest_neighbours(samples, data)
    exact = squared_distances(samples, data)
    assert torch.equal(found.index, exact.argmin(1))
    torch.testing.assert_close(found.distance, exact.amin(1).sqrt(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_M36_nearest_neighbours_among_many_ties_and_near_ties(offset: float) -> None:
    """Whole-numbered rows repeat and lie at equal distances; some differ by one unit in the last place only."""
    rng = np.random.default_rng(0)
    data = rng.integers(0, 3, (1500, 3)).astype(np.float64) + offset
    data[700:] = np.nextafter(data[700:], np.inf)
    samples = rng.integers(0, 3, (300, 3)) + 0.5 + offset
    found = evaluation.nearest_neighbours(samples, data)
    exact = np.square(samples[:, None] - data).sum(2)
    assert isinstance(found.index, np.ndarray)
    np.testing.assert_array_equal(found.index, exact.argmin(1))
    assert len(np.unique(found.index)) > 3


def test_M36_nearest_neighbours_within_clusters_far_tighter_than_products_can_tell() -> None:
    """Distances of 1e-7 at 100 from the mean: |x|^2 + |y|^2 - 2 x.y is nothing but rounding."""
    side = torch.tensor([100.0, -100.0], dtype=torch.float64).repeat(600)[:, None]
    data, samples = (side[:n] + gaussian_rows(n, 16, seed, scale=1e-8) for n, seed in ((1200, 0), (100, 1)))
    found = evaluation.nearest_neighbours(samples, data)
    exact = squared_distances(samples, data)
    assert torch.equal(found.index, exact.argmin(1))
    assert len(found.index.unique()) > 30


def test_M36_an_exact_copy_is_at_distance_zero() -> None:
    data = torch.rand(2000, 64)
    found = evaluation.nearest_neighbours(data[[1500, 3, 3]] + torch.tensor([[0.0], [0.0], [1e-6]]), data)
    assert found.index.tolist() == [1500, 3, 3]
    assert (found.distance == 0).tolist() == [True, True, False]


def test_M36_R17_neighbours_keep_their_bits_however_the_rows_are_split() -> None:
    samples, data = gaussian_rows(500, 20), gaussian_rows(1500, 20, 1)
    whole = evaluation.nearest_neighbours(samples, data)
    parts = [evaluation.nearest_neighbours(part, data) for part in samples.split(77)]
    assert torch.equal(torch.cat([p.index for p in parts]), whole.index)
    assert torch.equal(torch.cat([p.distance for p in parts]), whole.distance)


# ---------------------------------------------------------------- precision and recall


@pytest.mark.parametrize(("n", "m", "k"), [(300, 300, 5), (1000, 250, 3), (241, 961, 1)])
def test_precision_and_recall_are_their_definitions(n: int, m: int, k: int) -> None:
    real, fake = gaussian_rows(n, 8), 0.7 * gaussian_rows(m, 8, 1) + 0.3
    between = squared_distances(real, fake)
    radius_real, radius_fake = (squared_distances(x, x).sort(1).values[:, k] for x in (real, fake))
    result = evaluation.precision_recall(real, fake, neighbours=k)
    inside = between < radius_real[:, None]
    assert result.precision == pytest.approx(float(inside.any(0).double().mean()), abs=1e-12)
    assert result.recall == pytest.approx(float((between < radius_fake).any(1).double().mean()), abs=1e-12)
    assert result.density == pytest.approx(float(inside.sum()) / (k * m), abs=1e-12)
    assert result.coverage == pytest.approx(float(inside.any(1).double().mean()), abs=1e-12)
    assert 0 < result.recall < result.precision <= 1


def test_precision_and_recall_tell_collapse_from_noise() -> None:
    data = fastgan.data.ring(2000)
    collapsed = data.tensor()[data.labels == 0]
    result = evaluation.precision_recall(data, collapsed)
    assert result.precision > 0.9 and result.recall < 0.2 and result.coverage < 0.2
    noise = evaluation.precision_recall(data, 4 * torch.rand(2000, 2) - 2)
    assert noise.precision < 0.2 and noise.recall > 0.5


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: evaluation.parzen_log_likelihood(x, x, sigma=0.0), "sigma must be above 0 and finite, got 0.0"),
        (lambda x: evaluation.parzen_log_likelihood(x, x, sigma=math.nan), "sigma must be above 0 and finite, got nan"),
        (lambda x: evaluation.parzen_log_likelihood(x, x), "sigma or validation must be given, got neither"),
        (lambda x: evaluation.parzen_log_likelihood(x, x, sigma=1.0, validation=x), "must be given, got both"),
        (
            lambda x: evaluation.parzen_log_likelihood(x, x[:, :3], sigma=1.0),
            "parzen_log_likelihood: data must have the 4 features of samples, got 3",
        ),
        (lambda x: evaluation.parzen_log_likelihood(x / 0, x, sigma=1.0), "samples must be finite"),
        (lambda x: evaluation.parzen_log_likelihood(x[:0], x, sigma=1.0), "samples must have rows, got shape (0, 4)"),
        (lambda x: evaluation.parzen_sigma(x, x, [0.5, -1]), "parzen_sigma: sigmas must be above 0 and finite, got -1"),
        (lambda x: evaluation.parzen_sigma(x, x, []), "parzen_sigma: sigmas must not be empty"),
        (lambda x: evaluation.mode_coverage(x[:3], x[:5], 1.0), "samples must be at least as many as the 5 modes"),
        (lambda x: evaluation.mode_coverage(x, x[:2, :3], 1.0), "samples must have the 3 features of centres, got 4"),
        (lambda x: evaluation.mode_coverage(x, x[:2], 0.0), "mode_coverage: std must be above 0 and finite, got 0"),
        (lambda x: evaluation.mode_coverage(x, x[:2], 1.0, convention="l1"), "convention must be one of radius, box"),
        (lambda x: evaluation.nearest_neighbours(x, x[:, :2]), "samples must have the 2 features of data, got 4"),
        (lambda x: evaluation.precision_recall(x, x, neighbours=20), "real must have more rows than neighbours 20"),
        (lambda x: evaluation.precision_recall(x, x, neighbours=0), "neighbours must be an integer of at least 1"),
    ],
)
def test_bad_input_is_one_sentence_that_names_the_argument(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        call(torch.ones(10, 4))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_wrong_types_are_named() -> None:
    for bad in (["a"], np.array(["a"]), torch.ones(3, 4, dtype=torch.complex64), None):
        with pytest.raises(TypeError, match="nearest_neighbours: samples must be a tensor, array or Dataset of real"):
            evaluation.nearest_neighbours(bad, torch.ones(3, 4))  # type: ignore[arg-type]


def test_rows_come_as_tensors_arrays_datasets_and_images() -> None:
    data = fastgan.data.gaussian(300, dim=4)
    as_images = data.tensor().reshape(300, 2, 2)
    expected = parzen_rows(data.tensor(), data.tensor(), 1.0)
    for rows in (data, as_images, as_images.numpy().astype(np.float32)):
        got = parzen_rows(rows, rows, 1.0)
        assert isinstance(got, np.ndarray if isinstance(rows, np.ndarray) else torch.Tensor)
        np.testing.assert_array_equal(np.asarray(got), expected.numpy())
    line = np.arange(5.0)
    assert evaluation.nearest_neighbours(line + 0.1, line).index.tolist() == [0, 1, 2, 3, 4]
