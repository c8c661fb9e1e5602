"""One iteration of the conditional GAN for tables, written as its paper writes it.

Source: Xu et al. (2019), algorithm 1; Gulrajani et al. (2017), eq. 3; Lin et al. (2018) for packs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastgan import random
from fastgan.random import Purpose

from .encoded import EncodedTable
from .networks import Layout, TableDiscriminator, TableGenerator
from .sampling import Conditions, ConditionSampler


@dataclass(frozen=True)
class Settings:
    """The numbers of an iteration.

    Args:
        batch_size: rows of a batch, a multiple of `pack`.
        pack: rows that D sees at once.
        latent_dim: length of z.
        temperature: of the Gumbel-softmax.
        penalty_weight: of the gradient penalty.
        lr, betas: of Adam.
        weight_decay: of G's Adam.
        discriminator_steps: updates of D before each of G.
        seed: of all random numbers.
    """

    batch_size: int = 500
    pack: int = 10
    latent_dim: int = 128
    temperature: float = 0.2
    penalty_weight: float = 10.0
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.9)
    weight_decay: float = 1e-6
    discriminator_steps: int = 1
    seed: int = 0


class Draws(NamedTuple):
    """The random numbers of an update.

    Args:
        conditions: of the rows.
        rows: of the table that meet them, (m,) int64.
        z: (m, latent_dim).
        gumbel: (m, width) in (0, 1).
        rho: where between real and fake the penalty looks, (packs, 1).
        dropout: for each of D's layers (packs, width) in (0, 1), of D's update for real, fake and between in turn.
    """

    conditions: Conditions
    rows: Tensor
    z: Tensor
    gumbel: Tensor
    rho: Tensor
    dropout: list[Tensor]


class Losses(NamedTuple):
    """What an iteration reports: D's loss, its penalty, G's loss, the cross-entropy of the conditions."""

    loss_d: Tensor
    penalty: Tensor
    loss_g: Tensor
    cross_entropy: Tensor


class Trainer:
    """Both networks with their optimisers, and the iteration.

    Args:
        generator, discriminator: the networks; G in train mode.
        table: the rows.
        sampler: of conditions.
        layout: of the heads.
        settings: numbers of the iteration.
    """

    def __init__(
        self,
        generator: TableGenerator,
        discriminator: TableDiscriminator,
        table: EncodedTable,
        sampler: ConditionSampler,
        layout: Layout,
        settings: Settings,
    ) -> None:
        self.generator, self.discriminator = generator, discriminator
        self.table, self.sampler, self.layout, self.settings = table, sampler, layout, settings
        parameter = next(generator.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device
        common = {"lr": settings.lr, "betas": settings.betas, "fused": True}
        self.optimizer_g = torch.optim.Adam(generator.parameters(), weight_decay=settings.weight_decay, **common)  # type: ignore[arg-type]
        self.optimizer_d = torch.optim.Adam(discriminator.parameters(), **common)  # type: ignore[arg-type]
        self.step = 0

    def draws(self, purpose: Purpose, step: int, passes: int) -> Draws:
        """The random numbers of an update of D (purpose NOISE_D) or G (NOISE_G). passes: of D in it."""
        s = self.settings
        packs = s.batch_size // s.pack

        def uniform(shape: tuple[int, ...], which: Purpose, substream: int) -> Tensor:
            return random.uniform(
                shape,
                seed=s.seed,
                purpose=which,
                step=step,
                substream=substream,
                dtype=self.dtype,
                device=self.device,
            )

        conditions = self.sampler.draw(s.batch_size, seed=s.seed, purpose=purpose, step=step)
        z = random.normal(
            (s.batch_size, s.latent_dim), seed=s.seed, purpose=purpose, step=step, dtype=self.dtype, device=self.device
        )
        begin = 0 if purpose is Purpose.NOISE_D else 64
        masks = [
            uniform((passes * packs, layer.out_features), Purpose.DROPOUT, begin + number)
            if self.discriminator.dropout
            else self._none
            for number, layer in enumerate(self.discriminator.layers)
        ]
        return Draws(
            conditions,
            self.sampler.matching(conditions, seed=s.seed, purpose=purpose, step=step)
            if passes > 1
            else conditions.code,
            z,
            uniform((s.batch_size, self.table.width), purpose, 4),
            uniform((packs, 1), Purpose.PENALTY, 0) if passes > 1 else self._none,
            masks,
        )

    @property
    def _none(self) -> Tensor:
        return torch.empty(0, dtype=self.dtype, device=self.device)

    def iterate(self) -> Losses:
        """Update D `discriminator_steps` times, then G once."""
        steps = self.settings.discriminator_steps
        for inner in range(steps):
            loss_d, penalty = self.update_discriminator(self.draws(Purpose.NOISE_D, self.step * steps + inner, 3))
        loss_g, cross_entropy = self.update_generator(self.draws(Purpose.NOISE_G, self.step, 1))
        self.step += 1
        return Losses(loss_d, penalty, loss_g, cross_entropy)

    def update_discriminator(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Descend mean D(fake) - mean D(real) + penalty; G gets no gradient."""
        condition = self.sampler.one_hot(draws.conditions, self.dtype).to(self.device)
        real = self._pack(self.table.rows(draws.rows, self.dtype).to(self.device))
        with torch.no_grad():
            logits = self.generator(torch.cat([draws.z, condition], 1))
            fake = self._pack(self.layout.activate(logits, draws.gumbel, self.settings.temperature))
        packed = self._pack(condition)
        between = draws.rho * fake + (1 - draws.rho) * real
        packs, features = real.shape
        all_three = torch.cat([torch.cat([x, packed], 1) for x in (real, fake, between)])
        logits, gradient = self.discriminator.with_gradient(all_three, draws.dropout, packs, features)
        penalty = self.settings.penalty_weight * (gradient.norm(dim=1) - 1).square().mean()
        loss = logits[packs : 2 * packs].mean() - logits[:packs].mean()
        self.optimizer_d.zero_grad(set_to_none=True)
        (loss + penalty).backward()
        self.optimizer_d.step()
        return loss.detach(), penalty.detach()

    def update_generator(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Descend cross-entropy - mean D(fake)."""
        condition = self.sampler.one_hot(draws.conditions, self.dtype).to(self.device)
        logits = self.generator(torch.cat([draws.z, condition], 1))
        fake = self._pack(self.layout.activate(logits, draws.gumbel, self.settings.temperature))
        loss = -self.discriminator(torch.cat([fake, self._pack(condition)], 1), draws.dropout).mean()
        cross_entropy = loss.new_zeros(())
        if self.sampler.sizes:
            column, code = (part.to(self.device) for part in draws.conditions)
            cross_entropy = self.layout.cross_entropy(logits, column, code)
        parameters = list(self.generator.parameters())
        for parameter, grad in zip(parameters, torch.autograd.grad(loss + cross_entropy, parameters), strict=True):
            parameter.grad = grad  # D's weights need none
        self.optimizer_g.step()
        return loss.detach(), cross_entropy.detach()

    def _pack(self, rows: Tensor) -> Tensor:
        """`pack` rows one after another, (packs, pack * width)."""
        return rows.reshape(len(rows) // self.settings.pack, -1)
