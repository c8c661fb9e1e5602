"""What is not finite: the optimisers' rules where numbers overflow, and updates that are skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fastgan import GAN, Adam, Momentum, TrainConfig, _backend, nn, train
from fastgan.training import checkpoint
from fastgan.training.optimizers import Optimizer

ENGINES = ["eager", pytest.param("fused", marks=pytest.mark.skipif(_backend.native is None, reason="no compiled core"))]
engines = pytest.mark.parametrize("engine", ENGINES)
modes = pytest.mark.parametrize("mode", ["alternating", "simultaneous"])
MOMENTA = {c: Momentum(0.05, momentum=0.5, convention=c) for c in ("torch", "pylearn2")}
RULES: dict[str, Optimizer] = {"adam": Adam(1e-2), **MOMENTA}


def make(dtype: torch.dtype = torch.float64, d_weight: float | None = None) -> GAN:
    torch.manual_seed(1)
    gan = GAN(
        nn.MLP([3, 9, 2], activation="relu", dtype=dtype), nn.MLP([2, 8, 1], activation="relu", dtype=dtype),
        latent_dim=3,
    )  # fmt: skip
    if d_weight is not None:
        torch.nn.init.constant_(gan.discriminator[-1].weight, d_weight)
    return gan


def points(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(60, 2, dtype=dtype, generator=torch.Generator().manual_seed(2))


def trained(
    folder: Path, engine: str, gan: GAN, data: Tensor, steps: int, **config: object
) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """All tensors of the run's last checkpoint, and its history."""
    folder = folder / f"{engine}-{steps}-{len(list(folder.iterdir()))}"
    usual = {"optimizer": Adam(1e-2), "seed": 3}
    result = train(gan, data, TrainConfig(steps, 20, engine=engine, **(usual | config)), run_dir=folder)
    assert result.engine == engine.replace("fused", "cpu")
    return checkpoint.load(folder).tensors, result.history


def of_player(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key.startswith((f"gan.{name}.", f"{name}_optimizer."))}


def all_finite(tensors: dict[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in tensors.values())


# ---------------------------------------------------------------- the rules


@pytest.mark.parametrize(("dtype", "large"), [(torch.float32, 1e24), (torch.float64, 1e165)], ids=["float", "double"])
@engines
def test_adam_moves_nothing_whose_squared_gradient_overflows(
    engine: str, dtype: torch.dtype, large: float, tmp_path: Path
) -> None:
    """torch's second moment is then infinite, and what it divides does not move."""
    start, gan, overflown = make(dtype, large), make(dtype, large), 0
    options = {"loss": "wasserstein", "nonfinite": "log"}
    first, _ = trained(tmp_path, engine, make(dtype, large), points(dtype), 1, **options)
    tensors, _ = trained(tmp_path, engine, gan, points(dtype), 4, **options)
    assert not any(value.isnan().any() for value in tensors.values())
    for i, (before, after) in enumerate(zip(start.generator.parameters(), gan.generator.parameters(), strict=True)):
        still = first[f"generator_optimizer.{i}.exp_avg_sq"] == torch.inf
        assert torch.equal(before[still], after[still])
        assert (tensors[f"generator_optimizer.{i}.exp_avg_sq"][still] == torch.inf).all()
        overflown += int(still.sum())
    assert overflown > 5


@pytest.mark.skipif(_backend.native is None, reason="two engines are compared")
@pytest.mark.parametrize("large", [1e18, 1e19, 1e20, 1e21, 1e22])
def test_squares_overflow_in_both_engines_alike(large: float, tmp_path: Path) -> None:
    found = []
    for engine in ("eager", "fused"):
        options = {"loss": "wasserstein", "nonfinite": "log"}
        found.append(trained(tmp_path, engine, make(torch.float32, large), points(torch.float32), 4, **options)[0])
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.skipif(_backend.native is None, reason="two engines are compared")
@pytest.mark.parametrize("bad", [torch.inf, torch.nan, 1e30], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_both_engines_take_the_same_numbers_for_not_finite(rule: str, bad: float, tmp_path: Path) -> None:
    found = []
    for engine in ("eager", "fused"):
        gan = make(torch.float32)
        with torch.no_grad():
            gan.discriminator[0].weight[2, 1] = bad
        options = {"optimizer": RULES[rule], "loss": "wasserstein", "nonfinite": "log"}
        found.append(trained(tmp_path, engine, gan, points(torch.float32), 3, **options)[0])
    assert not all_finite(found[0])
    for name, value in found[0].items():
        for is_kind in (torch.isnan, torch.isposinf, torch.isneginf):
            assert torch.equal(is_kind(value), is_kind(found[1][name])), (name, is_kind)


# ---------------------------------------------------------------- updates that are skipped


@pytest.mark.parametrize("rule", RULES)
@engines
def test_a_skipped_update_leaves_the_bits_of_its_player_and_optimiser(engine: str, rule: str, tmp_path: Path) -> None:
    data = points()
    data[7] = 1e200  # its square is infinite
    options = {"loss": "least_squares", "nonfinite": "skip", "optimizer": RULES[rule]}
    _, history = trained(tmp_path, engine, make(), data, 12, **options)
    bad = ~np.isfinite(history["loss_d"])
    first = int(np.argmax(bad))
    assert bad.any() and first > 0 and np.isfinite(history["loss_g"]).all()
    before, after = (of_player(trained(tmp_path, engine, make(), data, n, **options)[0], "discriminator")
                     for n in (first, first + 1))  # fmt: skip
    assert before.keys() == after.keys() and len(before) >= 8
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


@engines
def test_adams_count_leaves_out_what_was_skipped(engine: str, tmp_path: Path) -> None:
    """And so its corrections do: the updates that were made are those of an Adam that saw nothing else."""
    data = points()
    data[7] = 1e200
    tensors, history = trained(tmp_path, engine, make(), data, 12, loss="least_squares", nonfinite="skip")
    made = {"discriminator": int(np.isfinite(history["loss_d"]).sum()), "generator": 12}
    assert 0 < made["discriminator"] < 12
    for name, count in made.items():
        steps = [float(value) for key, value in tensors.items() if key.startswith(name) and key.endswith("step")]
        assert steps == [count] * 4
    assert all_finite(tensors)


@pytest.mark.parametrize("convention", MOMENTA)
@modes
@engines
def test_an_update_whose_parameters_overflow_is_taken_back(
    engine: str, mode: str, convention: str, tmp_path: Path
) -> None:
    """Loss and gradients are finite, the rate times a gradient is not."""
    gan, data = make(torch.float32), 1e3 * points(torch.float32)
    before = {name: value.clone() for name, value in gan.state_dict().items()}
    optimizer = Momentum(3e38, momentum=0.5, convention=convention)
    options = {"optimizer": optimizer, "loss": "wasserstein", "nonfinite": "skip", "mode": mode, "max_col_norm": 9.0}
    tensors, history = trained(tmp_path, engine, gan, data, 3, **options)
    assert np.isfinite(history["loss_d"]).all() and np.isfinite(history["loss_g"]).all()
    assert all_finite(tensors)
    for name, value in gan.discriminator.state_dict().items():
        assert torch.equal(before[f"discriminator.{name}"], value), name


@engines
def test_an_update_whose_second_moment_overflows_is_taken_back(engine: str, tmp_path: Path) -> None:
    """The parameter would not move again for the rest of the run."""
    gan = make(torch.float32, 1e24)
    tensors, history = trained(tmp_path, engine, gan, points(torch.float32), 4, loss="wasserstein", nonfinite="skip")
    assert np.isfinite(history["loss_g"]).all() and all_finite(tensors)
    assert {float(value) for name, value in tensors.items() if name.endswith("step")} == {0.0}


@engines
def test_an_update_whose_running_variance_overflows_is_taken_back(engine: str, tmp_path: Path) -> None:
    """Of the batch, which the loss does not see: its deviation is infinite, and what it divides is zero."""
    torch.manual_seed(1)
    plain = torch.nn
    discriminator = plain.Sequential(plain.Linear(2, 5), plain.BatchNorm1d(5), plain.ReLU(), plain.Linear(5, 1))
    gan = GAN(plain.Sequential(plain.Linear(3, 2)), discriminator, latent_dim=3)
    data = points(torch.float32)
    data[7] = 1e25
    options = {"nonfinite": "skip", "optimizer": MOMENTA["torch"]}
    tensors, history = trained(tmp_path, engine, gan, data, 6, **options)
    assert np.isfinite(history["loss_d"]).all() and all_finite(tensors)
    counted = int(tensors["gan.discriminator.1.num_batches_tracked"])
    assert 6 < counted < 18  # two of each D step that was made, one of each G step


@engines
def test_numbers_that_were_never_finite_hinder_nothing(engine: str, tmp_path: Path) -> None:
    """Such as a mask of a module's own, or a moment that an earlier run left infinite."""
    gan = make()
    config = {"nonfinite": "skip", "checkpoint_every": 0}
    folder = tmp_path / "run"
    data = points()
    train(gan, data, TrainConfig(2, 20, engine=engine, optimizer=Adam(1e-2), **config), run_dir=folder)
    source = checkpoint.load(folder)
    source.tensors["generator_optimizer.0.exp_avg_sq"].fill_(torch.inf)
    from fastgan.training import session
    from fastgan.training.engines.cpu import CpuEngine
    from fastgan.training.engines.eager import EagerEngine

    again = TrainConfig(4, 20, engine=engine, optimizer=Adam(1e-2), **config)
    rows = session.rows_for(data, gan, again)
    made = EagerEngine(gan, rows, again, 20) if engine == "eager" else CpuEngine(gan, rows, again)
    source.restore(gan, made.optimizers)
    made.begin(2, 2, lambda: False)()
    for optimizer in made.optimizers.values():
        assert {float(state["step"]) for state in optimizer.state.values()} == {4.0}


# ---------------------------------------------------------------- the bound on norms


@modes
@engines
def test_the_bound_on_norms_holds_for_both_players_and_spares_what_is_frozen(engine: str, mode: str) -> None:
    limit, gan = 0.3, make()
    frozen = [gan.generator[0].weight, gan.discriminator[0].weight]
    for weight in frozen:
        weight.requires_grad_(False).mul_(3.0)
    before = [weight.clone() for weight in frozen]
    optimizer = Momentum(0.5)
    train(gan, points(), TrainConfig(5, 20, max_col_norm=limit, optimizer=optimizer, mode=mode, engine=engine))
    for weight, old in zip(frozen, before, strict=True):
        assert torch.equal(weight, old) and old.norm(dim=1).max() > 2 * limit
    for network in (gan.generator, gan.discriminator):
        assert 0.99 * limit < network[-1].weight.norm(dim=1).max() <= limit * (1 + 1e-6)


# ---------------------------------------------------------------- accuracy


@modes
@engines
def test_a_logit_of_zero_is_right_neither_on_real_data_nor_on_fakes(engine: str, mode: str) -> None:
    gan = make()
    for parameter in gan.discriminator.parameters():
        torch.nn.init.zeros_(parameter)
    history = train(gan, points(), TrainConfig(1, 20, mode=mode, engine=engine)).history
    assert history["accuracy_real"].tolist() == history["accuracy_fake"].tolist() == [0.0]
    assert history["d_real"].tolist() == [0.5]
