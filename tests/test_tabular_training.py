"""The iteration of TabularGAN against the algorithm written out, in float64; training-by-sampling; heads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastgan import random
from fastgan.random import Purpose
from fastgan.tabular.encoded import EncodedTable, Head
from fastgan.tabular.networks import Layout, TableDiscriminator, TableGenerator
from fastgan.tabular.sampling import Conditions, ConditionSampler
from fastgan.tabular.training import Draws, Losses, Settings, Trainer

HEADS = (Head(0, 1, "tanh"), Head(1, 3, "softmax"), Head(4, 4, "softmax"), Head(8, 1, "tanh"), Head(9, 2, "softmax"))
PLACES, SIZES = (1, 2), (4, 2)  # of the softmax heads, those of columns of labels
CONDITIONS = (HEADS[2], HEADS[4])
WIDTH, COND = 11, 6


def table(n: int = 200, seed: int = 0) -> EncodedTable:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, 3, n), rng.choice(4, n, p=[0.9, 0.07, 0.02, 0.01]), rng.integers(0, 2, n)], 1)
    return EncodedTable(torch.tensor(rng.uniform(-1, 1, (n, 2)), dtype=torch.float32), torch.tensor(codes), HEADS)


def trainer(dtype: torch.dtype = torch.float64, **settings: Any) -> Trainer:
    torch.manual_seed(1)
    rows = table()
    numbers = Settings(**{"batch_size": 40, "pack": 4, "latent_dim": 5, "lr": 1e-3, "seed": 3} | settings)
    dropout = 0.0 if numbers.seed == 99 else 0.5
    generator = TableGenerator(5 + COND, (8, 7), WIDTH).to(dtype)
    discriminator = TableDiscriminator(numbers.pack * (WIDTH + COND), (9, 6), dropout=dropout).to(dtype)
    sampler = ConditionSampler(rows, PLACES, SIZES)
    return Trainer(generator, discriminator, rows, sampler, Layout(HEADS, CONDITIONS), numbers)


# ---------------------------------------------------------------- the algorithm, written out


class WrittenOut:
    """Algorithm 1 of Xu et al. (2019) on plain tensors: torch.autograd and formulas, nothing of fastgan's networks."""

    def __init__(self, trained: Trainer) -> None:
        self.s = trained.settings
        self.dropout = trained.discriminator.dropout
        self.g = {name: x.detach().clone().requires_grad_() for name, x in trained.generator.named_parameters()}
        self.d = {name: x.detach().clone().requires_grad_() for name, x in trained.discriminator.named_parameters()}
        self.table = trained.table
        self.moments: dict[str, list[Tensor]] = {}
        self.running = [[torch.zeros(w, dtype=torch.float64), torch.ones(w, dtype=torch.float64)] for w in (8, 7)]

    def generator(self, z: Tensor, c: Tensor) -> Tensor:
        h = torch.cat([z, c], 1)
        for k in (0, 1):
            a = h @ self.g[f"blocks.{k}.linear.weight"].T + self.g[f"blocks.{k}.linear.bias"]
            mean, variance = a.mean(0), a.var(0, correction=0)
            for running, now in zip(self.running[k], (mean, a.var(0, correction=1)), strict=True):
                running.mul_(0.9).add_(0.1 * now.detach())
            a = (a - mean) / torch.sqrt(variance + 1e-5)
            a = a * self.g[f"blocks.{k}.norm.weight"] + self.g[f"blocks.{k}.norm.bias"]
            h = torch.cat([a.clamp(min=0), h], 1)
        return h @ self.g["out.weight"].T + self.g["out.bias"]

    def rows(self, logits: Tensor, uniform: Tensor) -> Tensor:
        parts = []
        for head in HEADS:
            x = logits[:, head.start : head.stop]
            if head.kind == "tanh":
                parts.append((torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1))
                continue
            e = torch.exp((x - torch.log(-torch.log(uniform[:, head.start : head.stop]))) / self.s.temperature)
            parts.append(e / e.sum(1, keepdim=True))
        return torch.cat(parts, 1)

    def discriminator(self, x: Tensor, c: Tensor, uniform: list[Tensor]) -> Tensor:
        """x and c of all rows; packs of them."""
        pack = self.s.pack
        packs = [torch.cat([*x[i : i + pack], *c[i : i + pack]]) for i in range(0, len(x), pack)]
        return self.of_packs(torch.stack(packs), uniform)

    def of_packs(self, h: Tensor, uniform: list[Tensor]) -> Tensor:
        for k in (0, 1):
            a = h @ self.d[f"layers.{k}.weight"].T + self.d[f"layers.{k}.bias"]
            h = torch.where(a > 0, a, 0.2 * a)
            if self.dropout:
                h = torch.where(uniform[k] < self.dropout, torch.zeros_like(h), h / (1 - self.dropout))
        return (h @ self.d["out.weight"].T + self.d["out.bias"])[:, 0]

    def adam(self, parameters: dict[str, Tensor], loss: Tensor, of: str, decay: float) -> None:
        grads = torch.autograd.grad(loss, list(parameters.values()))
        for (name, x), grad in zip(parameters.items(), grads, strict=True):
            m, v, t = self.moments.setdefault(
                of + name, [torch.zeros_like(x), torch.zeros_like(x), torch.zeros((), dtype=torch.float64)]
            )
            grad = grad + decay * x.detach()
            first, second = self.s.betas
            m.mul_(first).add_((1 - first) * grad)
            v.mul_(second).add_((1 - second) * grad**2)
            t.add_(1)
            step = m / (1 - first**t) / (torch.sqrt(v / (1 - second**t)) + 1e-8)
            x.data.sub_(self.s.lr * step)

    def one_hot(self, conditions: Conditions) -> Tensor:
        out = torch.zeros(len(conditions.column), COND, dtype=torch.float64)
        for row, (column, code) in enumerate(zip(*conditions, strict=True)):
            out[row, (0, 4)[column] + code] = 1
        return out

    def iterate(self, draws_d: list[Draws], draws_g: Draws) -> list[float]:
        packs = self.s.batch_size // self.s.pack
        for draws in draws_d:
            c = self.one_hot(draws.conditions)
            real = self.table.rows(draws.rows, torch.float64)
            fake = self.rows(self.generator(draws.z, c), draws.gumbel).detach()
            real_masks, fake_masks, between_masks = ([u[k * packs : (k + 1) * packs] for u in draws.dropout or []]
                                                     if self.dropout else [] for k in range(3))  # fmt: skip
            loss = self.discriminator(fake, c, fake_masks).mean() - self.discriminator(real, c, real_masks).mean()
            rho = draws.rho.repeat_interleave(self.s.pack, 0)
            between = (rho * fake + (1 - rho) * real).requires_grad_()
            out = self.discriminator(between, c, between_masks)
            (slope,) = torch.autograd.grad(out.sum(), between, create_graph=True)
            square = (slope.reshape(packs, -1) ** 2).sum(1)  # 0 where dropout leaves no unit: no gradient there
            norm = torch.sqrt(square.clamp(min=1e-300))
            penalty = self.s.penalty_weight * ((norm - 1) ** 2).mean()
            self.adam(self.d, loss + penalty, "d", 0.0)
        c = self.one_hot(draws_g.conditions)
        logits = self.generator(draws_g.z, c)
        fake = self.rows(logits, draws_g.gumbel)
        loss_g = -self.discriminator(fake, c, draws_g.dropout).mean()
        entropy = torch.zeros((), dtype=torch.float64)
        for row, (column, code) in enumerate(zip(*draws_g.conditions, strict=True)):
            head = CONDITIONS[int(column)]
            x = logits[row, head.start : head.stop]
            entropy = entropy - torch.log(torch.exp(x[code]) / torch.exp(x).sum()) / self.s.batch_size
        self.adam(self.g, loss_g + entropy, "g", self.s.weight_decay)
        return [float(value.detach()) for value in (loss, penalty, loss_g, entropy)]


@pytest.mark.parametrize(
    "settings",
    [{}, {"pack": 1}, {"discriminator_steps": 2, "weight_decay": 0.1}, {"temperature": 1.0, "penalty_weight": 3.0},
     {"seed": 99}],
    ids=["plain", "one-row-packs", "two-steps", "numbers", "no-dropout"],
)  # fmt: skip
def test_an_iteration_is_the_algorithm_written_out(settings: dict[str, Any]) -> None:
    tested = trainer(**settings)
    written = WrittenOut(tested)
    steps = tested.settings.discriminator_steps
    for step in range(3):
        draws_d = [tested.draws(Purpose.NOISE_D, step * steps + inner, 3) for inner in range(steps)]
        expected = written.iterate(draws_d, tested.draws(Purpose.NOISE_G, step, 1))
        assert [float(value) for value in tested.iterate()] == pytest.approx(expected, rel=1e-10, abs=1e-10)
    for network, parameters in ((tested.generator, written.g), (tested.discriminator, written.d)):
        for name, x in network.named_parameters():
            assert (x - parameters[name]).abs().max() < 1e-10, name
    for block, (mean, variance) in zip(tested.generator.blocks, written.running, strict=True):
        assert (block.norm.running_mean - mean).abs().max() < 1e-10
        assert (block.norm.running_var - variance).abs().max() < 1e-10


def test_float32_follows_float64() -> None:
    wide, narrow = trainer(), trainer(torch.float32)
    for network, other in ((wide.generator, narrow.generator), (wide.discriminator, narrow.discriminator)):
        other.load_state_dict(network.state_dict())
    for _ in range(3):
        a, b = wide.iterate(), narrow.iterate()
    assert [float(x) for x in b] == pytest.approx([float(x) for x in a], rel=2e-3, abs=2e-3)


def test_the_same_seed_gives_the_same_bits() -> None:
    first, second, other = trainer(), trainer(), trainer(seed=4)
    losses = [[float(value) for value in one.iterate()] for one in (first, second, other)]
    assert losses[0] == losses[1] != losses[2]


def test_an_update_of_g_leaves_d_alone_and_back() -> None:
    one = trainer()
    before = [x.clone() for x in one.discriminator.parameters()]
    one.update_generator(one.draws(Purpose.NOISE_G, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(before, one.discriminator.parameters(), strict=True))
    assert all(x.grad is None for x in one.discriminator.parameters())
    before = [x.clone() for x in one.generator.parameters()]
    one.update_discriminator(one.draws(Purpose.NOISE_D, 0, 3))
    assert all(torch.equal(x, y) for x, y in zip(before, one.generator.parameters(), strict=True))


# ---------------------------------------------------------------- heads


def test_heads_have_the_gradient_of_their_formula() -> None:
    layout = Layout(HEADS, CONDITIONS)
    logits = torch.randn(3, WIDTH, dtype=torch.float64, requires_grad=True)
    uniform = random.uniform((3, WIDTH), seed=1, purpose=0, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: layout.activate(x, uniform, 0.5), (logits,))


def test_gumbel_softmax_draws_by_the_softmax() -> None:
    layout = Layout((Head(0, 3, "softmax"),), ())
    p = torch.tensor([0.7, 0.2, 0.1])
    n = 20_000
    uniform = random.uniform((n, 3), seed=1, purpose=0)
    chosen = layout.activate(torch.log(p).expand(n, 3), uniform, 0.2).argmax(1)
    found = torch.bincount(chosen, minlength=3) / n
    assert ((found - p).abs() < 4 * torch.sqrt(p * (1 - p) / n)).all()


def test_extreme_logits_stay_finite() -> None:
    layout = Layout(HEADS, CONDITIONS)
    logits = torch.full((2, WIDTH), -1e4, requires_grad=True)
    with torch.no_grad():
        logits[0, 5] = 1e4
    uniform = torch.full((2, WIDTH), 1e-6)
    rows = layout.activate(logits, uniform, 0.2)
    entropy = layout.cross_entropy(logits, torch.tensor([0, 1]), torch.tensor([0, 1]))
    (rows.sum() + entropy).backward()
    assert torch.isfinite(rows).all() and torch.isfinite(entropy) and torch.isfinite(logits.grad).all()


# ---------------------------------------------------------------- training-by-sampling


def test_conditions_are_balanced_and_rows_meet_them() -> None:
    rows = table(2000)
    sampler = ConditionSampler(rows, PLACES, SIZES)
    m = 20_000
    drawn = sampler.draw(m, seed=1, purpose=Purpose.NOISE_D, step=0)
    assert abs(float((drawn.column == 0).double().mean()) - 0.5) < 0.02
    counts = torch.bincount(rows.codes[:, 1], minlength=4).double()
    share = torch.bincount(drawn.code[drawn.column == 0], minlength=4).double()
    share /= share.sum()
    expected = torch.log1p(counts) / torch.log1p(counts).sum()
    assert ((share - expected).abs() < 0.02).all()
    found = sampler.matching(drawn, seed=1, purpose=Purpose.NOISE_D, step=0)
    places = torch.tensor(PLACES)[drawn.column]
    assert torch.equal(rows.codes[found, places], drawn.code)
    rare = found[(drawn.column == 0) & (drawn.code == 3)]
    assert len(rare.unique()) == int(counts[3])  # every row of the rarest label has its turn


def test_conditions_of_samples_have_the_frequencies_of_the_table() -> None:
    rows = table(2000)
    sampler = ConditionSampler(rows, PLACES, SIZES)
    again = ConditionSampler.without_rows(sampler.counts)
    drawn = sampler.draw(20_000, seed=1, purpose=Purpose.SAMPLE, step=0, real=True)
    saved = again.draw(20_000, seed=1, purpose=Purpose.SAMPLE, step=0, real=True)
    assert torch.equal(drawn.code, saved.code) and torch.equal(drawn.column, saved.column)
    share = torch.bincount(drawn.code[drawn.column == 0], minlength=4).double()
    counts = torch.bincount(rows.codes[:, 1], minlength=4).double()
    assert ((share / share.sum() - counts / counts.sum()).abs() < 0.02).all()
    part = sampler.draw(10, seed=1, purpose=Purpose.SAMPLE, step=0, real=True, offset=5)
    assert torch.equal(part.code, drawn.code[5:15])


def test_a_label_of_no_row_is_never_drawn_for_training() -> None:
    rows = EncodedTable(torch.zeros(9, 0), torch.tensor([[0], [2]] * 4 + [[2]]), (Head(0, 3, "softmax"),))
    sampler = ConditionSampler(rows, (0,), (3,))
    drawn = sampler.draw(5000, seed=0, purpose=Purpose.NOISE_D, step=0)
    assert set(drawn.code.tolist()) == {0, 2}
    assert torch.equal(
        sampler.one_hot(Conditions(torch.tensor([0]), torch.tensor([2]))), torch.tensor([[0.0, 0.0, 1.0]])
    )


def test_a_table_without_labels_has_no_conditions() -> None:
    heads = (Head(0, 1, "tanh"), Head(1, 2, "softmax"))
    rows = EncodedTable(torch.rand(30, 1), torch.randint(0, 2, (30, 1)), heads)
    sampler = ConditionSampler(rows, (), ())
    generator, discriminator = TableGenerator(5, (8,), 3), TableDiscriminator(2 * 3, (9,))
    one = Trainer(
        generator, discriminator, rows, sampler, Layout(heads, ()), Settings(batch_size=10, pack=2, latent_dim=5)
    )
    losses = one.iterate()
    assert isinstance(losses, Losses) and float(losses.cross_entropy) == 0.0
    assert all(math.isfinite(float(value)) for value in losses)
