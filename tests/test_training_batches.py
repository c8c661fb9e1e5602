"""What D is shown: as many real rows as made ones, one at a time or packed side by side."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastgan


class Discriminator(torch.nn.Module):
    """A discriminator that remembers what it was shown."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(features, 1))
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x.detach().clone())
        return x @ self.weight


def shown(pack: int, batch_size: int, k: int = 1) -> list[Tensor]:
    """All that D is shown in one iteration on 60 different rows of two columns."""
    data = torch.arange(120.0).reshape(60, 2)
    torch.manual_seed(0)
    generator = fastgan.nn.Linear(3, 2)
    gan = fastgan.GAN(generator, Discriminator(2 * pack), latent_dim=3)
    discriminator = gan.discriminator
    config = fastgan.TrainConfig(
        steps=1, batch_size=batch_size, pack=pack, k=k, engine="eager", optimizer=fastgan.Momentum(0.0, momentum=0.0)
    )
    fastgan.train(gan, data, config)
    return discriminator.shown[1:]  # the first is a trial on two rows


@pytest.mark.parametrize("k", [1, 3])
def test_M68_d_is_shown_as_many_real_rows_as_made_ones(k: int) -> None:
    rows = torch.cat(shown(1, 10, k))
    real = rows[(rows == rows.round()).all(1)]
    assert len(rows) == (2 * k + 1) * 10  # D: real and made, k times; G: made
    assert len(real) == 10 * k and len(real.unique(dim=0)) == 10 * k  # different rows of the data


@pytest.mark.parametrize("pack", [1, 2, 5])
def test_M76_packing_shows_the_same_rows_side_by_side(pack: int) -> None:
    """pack = m draws m times as many rows; unpacked they are those of a plain step of that size."""
    packed, plain = shown(pack, 20 // pack), shown(1, 20)
    assert len(packed) == len(plain)
    for together, alone in zip(packed, plain, strict=True):
        assert together.shape == (len(alone) // pack, 2 * pack)
        assert torch.equal(together.reshape(-1, 2), alone)
