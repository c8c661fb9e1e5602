"""The recorded verbs of an iteration: their numbers, and what is counted from them against the eager engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn as torch_nn

from fastgan import GAN, TrainConfig, _backend, nn, random, train
from fastgan.training import session
from fastgan.training.engines import recording
from fastgan.training.engines.cpu import CpuEngine

pytestmark = pytest.mark.skipif(_backend.native is None, reason="the core lists the verbs")


def recorded(**options: Any) -> list[recording.Verb]:
    return recording.record(recording.iteration_plan(TrainConfig(1, 4, **options)))


def test_the_verbs_of_algorithm_1() -> None:
    assert recorded() == [
        ("begin", [(1, 0)]),
        ("prepare_d", [(1, 0)]),
        ("save", []),
        ("sample_data", [(1, 0)]),
        ("sample_noise", ["noise_d", (1, 0)]),
        ("forward_g", []),
        ("show", ["real_fake"]),
        ("forward_d", []),
        ("loss_of_d", [1.0]),
        ("backward_d", []),
        ("penalty", [(1, 0)]),
        ("record_d", [(1, 0), 1.0]),
        ("update_d", []),
        ("commit_or_roll_back", [["discriminator"]]),
        ("prepare_g", [(1, 0)]),
        ("save", []),
        ("sample_noise", ["noise_g", (1, 0)]),
        ("forward_g", []),
        ("show", ["fake"]),
        ("forward_d", []),
        ("loss_of_g", []),
        ("backward_through_d", []),
        ("backward_g", []),
        ("record_g", [(1, 0)]),
        ("update_g", []),
        ("commit_or_roll_back", [["generator"]]),
    ]


@pytest.mark.parametrize(("k", "steps"), [(1, 1), (3, 1), (1, 2), (2, 3)])
def test_numbers_of_steps_count_on_from_iteration_to_iteration(k: int, steps: int) -> None:
    verbs = recorded(k=k, generator_steps=steps)
    for verb, each in (("prepare_d", k), ("sample_data", k), ("prepare_g", steps)):
        assert [numbers[0] for name, numbers in verbs if name == verb] == [(each, i) for i in range(each)]


OPTIONS: dict[str, dict[str, Any]] = {
    "alternating": {},
    "k = 2, two steps of G": {"k": 2, "generator_steps": 2},
    "simultaneous": {"mode": "simultaneous"},
    "relativistic": {"loss": "relativistic"},
    "relativistic, simultaneous": {"loss": "relativistic", "mode": "simultaneous"},
    "two penalties": {"gradient_penalty": ("r1", "r2"), "k": 2},
}


@pytest.mark.parametrize("drops", ["both", "generator", "discriminator"])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_eager_engine_draws_as_many_dropout_seeds(name: str, drops: str, monkeypatch: pytest.MonkeyPatch) -> None:
    linear, dropout = torch_nn.Linear, nn.Dropout
    of_g, of_d = (0.5 * (drops in ("both", player)) for player in ("generator", "discriminator"))
    generator = nn.Sequential(linear(3, 8), dropout(of_g), linear(8, 2))
    discriminator = nn.Sequential(linear(2, 6), dropout(of_d), linear(6, 6), dropout(of_d / 5), linear(6, 1))

    drawn = [0]
    counted = random._counted

    def counting(*stream: int) -> Iterator[int]:
        for seed in counted(*stream):
            drawn[0] += 1
            yield seed

    gan, config = GAN(generator, discriminator, latent_dim=3), TrainConfig(1, 4, **OPTIONS[name])
    engine = CpuEngine(gan, session.rows_for(torch.randn(8, 2), gan, config), config)
    monkeypatch.setattr(random, "_counted", counting)
    train(gan, torch.randn(8, 2), TrainConfig(1, 4, engine="eager", **OPTIONS[name]))
    assert drawn[0] == engine.state.description["plan"]["dropout_seeds_per_iteration"] > 0
