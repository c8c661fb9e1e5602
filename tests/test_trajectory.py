"""Ten steps of training: the native core and the reference go the same way."""

from __future__ import annotations

import pytest
import torch
from cases import need

import fastgan
from fastgan import nn

LOSSES = ("non_saturating", "minimax", "hinge", "least_squares", "wasserstein", "relativistic")


def trained(impl: str, dtype: torch.dtype, **config: object) -> tuple[fastgan.GAN, fastgan.TrainResult]:
    torch.manual_seed(0)
    generator = nn.MLP([8, 33, 33, 5], activation="relu", output_activation="tanh", dtype=dtype, impl=impl)
    discriminator = nn.Sequential(
        nn.Maxout(5, 24, pieces=3, dtype=dtype),
        nn.Dropout(0.3),
        nn.Linear(24, 17, activation="leaky_relu", dtype=dtype),
        nn.Linear(17, 1, dtype=dtype),
        impl=impl,
    )
    gan = fastgan.GAN(generator, discriminator, latent_dim=8)
    settings = {"steps": 10, "batch_size": 20, "k": 2, "seed": 3, "impl": impl, **config}
    return gan, fastgan.train(gan, torch.randn(100, 5, dtype=dtype), fastgan.TrainConfig(**settings))  # type: ignore[arg-type]


LINEAR = ("hinge", "wasserstein", "relativistic")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_native_and_reference_train_alike(loss: str, dtype: torch.dtype) -> None:
    need("native", "mlp")
    # Where the loss is linear in real and fake logits alike, gradients of biases cancel to rounding. Adam enlarges it
    # to whole steps: these rows use momentum.
    options = {"loss": loss} | ({"optimizer": fastgan.Momentum(0.05, momentum=0.5)} if loss in LINEAR else {})
    native, reference = (trained(impl, dtype, **options) for impl in ("native", "reference"))
    start = trained("reference", dtype, steps=0, **options)[0].state_dict()
    # Of what ten steps change, not of the weights themselves, which hardly differ from their start: the distance of the
    # two ends against the way that the reference went.
    tolerance = 1e-9 if dtype == torch.float64 else 2e-3
    for name, end in reference[0].state_dict().items():
        if name == "discriminator.3.bias" and loss in LINEAR:
            continue  # its gradient is zero in theory
        way = (end - start[name]).norm()
        apart = (native[0].state_dict()[name] - end).norm()
        assert way > 1e-4 and apart < tolerance * way, f"{name}: {apart / way:.1e} of its way"
    near = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(native[1].history["loss_d"], reference[1].history["loss_d"], **near)
