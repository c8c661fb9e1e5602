"""A bool is no number: each argument that is one is refused by name where it is given True."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fastgan
from fastgan import data, evaluation, models, random, theory, training

LOGITS = torch.zeros(4, 1)
ROWS = torch.linspace(-1.0, 1.0, 24).reshape(12, 2)
P = torch.tensor([0.25, 0.75])


def gan() -> fastgan.GAN:
    return fastgan.GAN(fastgan.nn.MLP([2, 2]), fastgan.nn.MLP([2, 1]), latent_dim=2)


def layer() -> nn.Module:
    return nn.Linear(2, 2)


# What is called, and the arguments that it needs beside the numbers.
CALLS: tuple[tuple[Callable[..., Any], dict[str, Any]], ...] = (
    (fastgan.GAN, {"generator": layer(), "discriminator": layer(), "latent_dim": 2}),
    (gan().noise, {"n": 3, "seed": 0}),
    (gan().sample, {"n": 3}),
    (gan().interpolate, {"start": ROWS, "end": ROWS}),
    (fastgan.TrainConfig, {"steps": 4, "batch_size": 4}),
    (fastgan.Adam, {}),
    (fastgan.AdamW, {}),
    (fastgan.SGD, {"lr": 0.1}),
    (fastgan.RMSprop, {"lr": 0.1}),
    (fastgan.Momentum, {"lr": 0.1, "momentum_final": 0.6, "saturate_epochs": 2.0}),
    (fastgan.CosineDecay, {"updates": 4}),
    (fastgan.StepDecay, {"updates": 4}),
    (fastgan.LinearDecay, {"updates": 4}),
    (fastgan.ExponentialDecay, {"factor": 0.9}),
    (fastgan.Best, {"metric": len, "every": 1}),
    (fastgan.Monitor, {}),
    (fastgan.JSONLines, {"path": "unused"}),
    (fastgan.discriminator_loss, {"real_logits": LOGITS, "fake_logits": LOGITS}),
    (fastgan.gradient_penalty, {"discriminator": layer(), "real": ROWS, "fake": ROWS, "seed": 0}),
    (
        fastgan.blended_generator_loss,
        {"fake_logits": LOGITS, "non_saturating_weight": 1.0, "minimax_weight": 1.0},
    ),
    (fastgan.TableTransformer, {}),
    (fastgan.TabularGAN, {}),
    (fastgan.tabular.TabularConfig, {}),
    (fastgan.nn.MLP, {"sizes": [2, 2]}),
    (fastgan.nn.Linear, {"in_features": 2, "out_features": 2, "activation": "leaky_relu"}),
    (fastgan.nn.Maxout, {"in_features": 2, "out_features": 2, "pieces": 2}),
    (fastgan.nn.Dropout, {}),
    (fastgan.nn.Heads, {"groups": [("tanh", 2)]}),
    (fastgan.nn.Residual, {"in_features": 2, "features": 2}),
    (fastgan.nn.MinibatchDiscrimination, {"in_features": 2, "features": 2}),
    (fastgan.nn.VirtualBatchNorm, {"num_features": 2}),
    (fastgan.nn.ClassDiscriminator, {"features": layer(), "head": layer()}),
    (fastgan.nn.init.uniform_, {"module": layer(), "irange": 0.1}),
    (fastgan.nn.init.normal_, {"module": layer()}),
    (fastgan.nn.init.constant_bias_, {"module": layer(), "value": 0.1}),
    (fastgan.nn.init.sparse_, {"weight": torch.zeros(3, 3), "nonzeros": 2}),
    (fastgan.nn.init.max_col_norm_, {"weight": torch.zeros(3, 3)}),
    (models.mlp_gan, {"data_dim": 2}),
    (models.dcgan, {}),
    (models.AsImages, {"channels": 1, "size": 2}),
    (data.ring, {"n": 4}),
    (data.grid, {"n": 4}),
    (data.gaussian, {"n": 4}),
    (data.gaussians, {"n": 4, "centres": ROWS}),
    (data.mixture1200d, {"n": 4}),
    (data.ring_map, {"n": 4}),
    (evaluation.mode_coverage, {"samples": ROWS, "centres": ROWS, "std": 0.1}),
    (evaluation.parzen_log_likelihood, {"samples": ROWS, "data": ROWS, "sigma": 0.1}),
    (evaluation.parzen_sigma, {"samples": ROWS, "validation": ROWS, "sigmas": (0.1,)}),
    (evaluation.precision_recall, {"real": ROWS, "fake": ROWS}),
    (evaluation.fit_discriminator, {"discriminator": layer(), "real": ROWS, "fake": ROWS}),
    (theory.entropy, {"p": P}),
    (theory.cross_entropy, {"p": P, "q": P}),
    (theory.kl_divergence, {"p": P, "q": P}),
    (theory.reverse_kl_divergence, {"p": P, "q": P}),
    (theory.js_divergence, {"p": P, "q": P}),
    (theory.optimal_discriminator, {"p": P, "q": P}),
    (theory.bilinear_game, {"eta": 0.1, "mode": "simultaneous"}),
    (theory.functional_game, {"p_data": P, "p_g0": P, "steps": 2}),
    (theory.gaussian_game, {}),
    (random.uniform, {"shape": 3, "seed": 0, "purpose": 0}),
    (random.normal, {"shape": 3, "seed": 0, "purpose": 0}),
    (random.prior, {"name": "normal", "shape": (3, 2), "seed": 0, "purpose": 0}),
    (random.permutation, {"n": 4, "seed": 0, "epoch": 0}),
    (fastgan.train_population, {"make_gan": gan, "data": ROWS, "config": fastgan.TrainConfig(1, 4), "seeds": (1,)}),
    (training.train_encoder, {"gan": gan(), "encoder": layer(), "steps": 1, "batch_size": 4}),
)


def numbers(call: Callable[..., Any]) -> Iterator[str]:
    """Arguments that are one number, or None."""
    for name, parameter in inspect.signature(call).parameters.items():
        if re.fullmatch(r"(int|float)( \| None)?", str(parameter.annotation)):
            yield name


CASES = [
    pytest.param(call, needed, name, id=f"{call.__qualname__}-{name}")
    for call, needed in CALLS
    for name in numbers(call)
]


@pytest.mark.parametrize(("call", "needed", "name"), CASES)
def test_true_is_no_number(call: Callable[..., Any], needed: dict[str, Any], name: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(name.removeprefix("discriminator_"))) as raised:
        call(**{**needed, name: True})
    assert "True" in str(raised.value) or "bool" in str(raised.value), raised.value


def test_the_arguments_beside_true_are_right() -> None:
    """Otherwise an error may be theirs."""
    for call, needed in CALLS:
        call(**needed)


@pytest.mark.parametrize("name", ["n", "offset", "batch_size"])
@pytest.mark.parametrize("value", [2.5, "2", None])
def test_samples_are_counted_by_integers(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=re.escape(f"sample: {name} must be an integer, got {value!r}")):
        gan().sample(**{"n": 3, name: value})
    assert len(gan().sample(np.int64(3), offset=torch.tensor(2))) == 3


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    assert fastgan.Adam(np.float32(0.5)).lr == 0.5
    assert fastgan.nn.Dropout(torch.tensor(0.25)).p == 0.25
    for value in (np.bool_(True), torch.tensor(True), torch.ones(2), "0.5", None):
        with pytest.raises(TypeError, match="Dropout: p must be a number, got"):
            fastgan.nn.Dropout(value)  # type: ignore[arg-type]
