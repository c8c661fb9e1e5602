"""The unrolled GANs' ring and the table of costs: the paper's setting, and trials short enough to run here."""

import functools
import statistics

import numpy as np
import pytest
import torch
from cases import need

from fastgan.apps.reproduce import table, unrolled

trials = functools.partial(unrolled.trials_on_ring, learning_rate=1e-3, threads=1)


def test_the_setting_is_that_of_the_unrolled_papers_ring() -> None:
    torch.manual_seed(0)
    gan, ring = unrolled.networks(), unrolled.ring(1000)
    assert ring.centres is not None and ring.std == 0.02 and ring.centres.shape == (8, 2)
    assert torch.allclose(ring.centres.norm(dim=1), torch.tensor(2.0))
    layers = [m for m in gan.modules() if isinstance(m, torch.nn.Linear)]
    assert [tuple(m.weight.shape) for m in layers] == [(128, 256), (128, 128), (2, 128), (128, 2), (1, 128)]
    for layer, gain in zip(layers, (0.8, 0.8, 0.8, 0.2, 0.8), strict=True):
        rows, columns = layer.weight.shape
        w = layer.weight if rows <= columns else layer.weight.T
        assert torch.allclose(w @ w.T, gain**2 * torch.eye(len(w)), atol=1e-5)
        assert not layer.bias.any()


def test_M74_looking_ahead_keeps_the_modes_that_plain_training_loses() -> None:
    """One seed, 250 iterations with batches of 64: the beginning of what the slow test sees through."""
    need("native", "mlp")  # its rounding decides how many modes this seed has
    plain, ahead = trials({"unroll": (0, 5)}, trials=1, steps=250, batch_size=64, looks=2)
    assert (plain.overrides, ahead.overrides) == ({"unroll": 0}, {"unroll": 5})
    assert plain.history[:, 0].tolist() == ahead.history[:, 0].tolist() == [125, 250]
    assert plain.samples.shape == (2500, 2) and plain.failed is None
    assert plain.modes <= 2 < ahead.modes


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_M74_ring_K_0_collapses_and_K_5_reaches_all_modes_in_8_of_10_seeds() -> None:
    found = trials({"unroll": (0, 5)}, trials=10, steps=2500, batch_size=128)
    print("\n".join(table.lines(unrolled.table(found), unrolled.COLUMNS)))
    modes = {k: [trial.modes for trial in found if trial.overrides["unroll"] == k] for k in (0, 5)}
    assert statistics.median(modes[0]) <= 4
    assert sum(m == 8 for m in modes[5]) >= 8


def test_M75_modes_of_three_costs_by_seed_in_a_generated_table() -> None:
    found = trials({"loss": unrolled.COSTS}, trials=5, steps=200, batch_size=64, looks=2)
    assert [(t.overrides["loss"], t.seed) for t in found] == [(c, s) for c in unrolled.COSTS for s in range(5)]
    assert all(len(t.history) == 2 and 0 <= t.modes <= 8 for t in found)
    assert len({t.history.tobytes() for t in found}) > 10  # every cost and seed goes its own way
    rows = unrolled.table(found)
    assert [row.method for row in rows] == list(unrolled.COSTS)
    for row, own in zip(rows, unrolled.groups(found).values(), strict=True):
        modes = [t.modes for t in found if t.overrides["loss"] == row.method]
        assert [t.modes for t in own] == modes and row.figures["modes"].mean == statistics.mean(modes)
        assert row.figures["trials with all 8"].mean == modes.count(8)


def test_a_trial_that_broke_down_is_counted_as_such() -> None:
    trial = unrolled.Trial({"loss": "mle"}, 0, np.array([]), "loss_g is not finite", torch.zeros(1, 2))
    assert (trial.modes, trial.high_quality) == (0, 0.0)
    (line,) = table.lines(unrolled.table([trial]), unrolled.COLUMNS)[1:]
    assert line.split() == ["mle", "fastgan", "0", "0", "0", "-"]


@pytest.mark.parametrize("name", ["trials", "looks"])
def test_bad_numbers_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"^reproduce: {name} must be at least 1, got 0"):
        trials({"unroll": (0,)}, **{"steps": 1, name: 0})
