"""Results in a notebook: one line each, equal to themselves alone; and modules that show their public names alone."""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import fastgan
from fastgan import evaluation, theory
from fastgan.training.population import PopulationMember, PopulationResult

CONFIG = fastgan.TrainConfig(steps=2, batch_size=8)


def gan(seed: int = 0) -> fastgan.GAN:
    return fastgan.models.mlp_gan(2, latent_dim=3, hidden=(4,))


def population() -> PopulationResult:
    return fastgan.train_population(gan, fastgan.data.ring(32), CONFIG, seeds=range(2), grid={"k": [1, 2]})


def member() -> PopulationMember:
    return population().members[0]


RESULTS: dict[str, Callable[[], Any]] = {
    "TrainResult(history=<7 entries>, steps_per_second=": lambda: fastgan.train(gan(), fastgan.data.ring(32), CONFIG),
    "PopulationResult(members=<4 PopulationMember>, points=[{'k': 1}, {'k': 2}], history=<": population,
    "PopulationMember(seed=0, overrides={'k': 1}, point=0, gan=<GAN>, history=<": member,
    "InferenceResult(loss=<float32 (2,)>, r_squared=": lambda: fastgan.train_encoder(
        gan(), torch.nn.Linear(2, 3), steps=2, batch_size=4
    ),
    "Neighbours(index=<int64 (5,)>, distance=<float64 (5,)>)": lambda: evaluation.nearest_neighbours(
        torch.zeros(5, 2), torch.ones(9, 2)
    ),
    "GaussianGame(mean=<float64 (4,)>, value=<float64 (4,)>)": lambda: theory.gaussian_game(steps=3),
    "FunctionalGame(": lambda: theory.functional_game(np.array([0.5, 0.5]), np.array([0.9, 0.1]), steps=3),
    "GaussianFit(": lambda: theory.fit_gaussian(
        theory.gaussian_density(np.linspace(-5, 5, 101)), np.linspace(-5, 5, 101)
    ),
    "ModeCoverage(": lambda: evaluation.mode_coverage(torch.zeros(9, 2), torch.ones(3, 2), 1.0),
    "Dataset('ring', shape=(10, 2)": lambda: fastgan.data.ring(10),
}


@pytest.mark.parametrize(("begin", "make"), RESULTS.items(), ids=[b.partition("(")[0] for b in RESULTS])
def test_a_result_is_one_short_line_and_compares(begin: str, make: Callable[[], Any]) -> None:
    result = make()
    assert repr(result).startswith(begin)
    assert len(repr(result)) < 300 and "\n" not in repr(result)
    assert result == result and result in [result]
    assert not result == make() or begin.startswith(("ModeCoverage", "GaussianFit"))  # numbers alone: equal by value


def test_a_gan_says_what_joins_its_networks() -> None:
    gan = fastgan.models.mlp_gan(2, latent_dim=3, hidden=(4,), classes=5, prior="spherical")
    networks = "generator=<MLP, 46 parameters>, discriminator=<MLP, 37 parameters>"
    rest = "latent_dim=3, prior='spherical', data_shape=(2,), classes=5)"
    assert repr(gan) == f"GAN({networks}, {rest}"
    gan.keep_ema()
    assert repr(gan) == f"GAN({networks}, ema=<MLP, 46 parameters>, {rest}"
    assert "(0): GAN(generator=<MLP" in repr(torch.nn.Sequential(gan))


def modules() -> Iterator[str]:
    yield "fastgan"
    yield from (f"fastgan.{name}" for name in fastgan.__all__ if isinstance(getattr(fastgan, name), types.ModuleType))
    yield from ("fastgan.plots", "fastgan.training")


@pytest.mark.parametrize("name", list(modules()))
def test_completion_shows_public_names_alone(name: str) -> None:
    module = importlib.import_module(name)
    shown = [n for n in dir(module) if not n.startswith("__")]
    assert shown == sorted(module.__all__)
    for public in shown:
        found = getattr(module, public)
        if isinstance(found, types.ModuleType):
            assert found.__name__ == f"{name}.{public}"
