"""The kernels of a captured iteration under the emulator: draws by the step counter, losses, norms, penalties,
updates."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import need
from emulator import MEMORY, NEEDS, RACES, STREAM, Builder, Emulator, begin_narrow
from test_tabular_training import made, sampled
from torch import Tensor
from torch.nn import functional

from fastgan import nn, random, reference
from fastgan._schema import DTYPES, FIELDS, FORMULAS, in_order, number
from fastgan.random import Purpose
from fastgan.reference import ACTIVATIONS
from fastgan.training.engines.plan import table_of
from fastgan.training.optimizers import Momentum
from fastgan.training.sampled import SampledRows

pytestmark = NEEDS
FLOAT, DOUBLE = torch.float32, torch.float64
SEED = 2**63 - 25


def counter_at(iteration: int, bad: int = 0) -> Tensor:
    """Step counter of csrc/step_counter.h."""
    return torch.tensor([iteration, 0, 0, bad])


def normal(*shape: int, dtype: torch.dtype = FLOAT, seed: int = 1) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)).to(dtype)


def garbage(*shape: int, dtype: torch.dtype = FLOAT) -> Tensor:
    return torch.full(shape, torch.nan, dtype=dtype)


def close(got: Tensor, want: Tensor, dtype: torch.dtype = FLOAT) -> None:
    tolerance = 1e-12 if dtype == DOUBLE else 1e-5
    torch.testing.assert_close(got.double(), want.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


# ---------------------------------------------------------------- drawn by the step counter


def check_noise(machine: Emulator, schedules: int = 4) -> None:
    for kind, name in ((1, "normal"), (2, "uniform"), (1, "spherical")):
        z = garbage(21, 37)
        stream = SEED, 1, counter_at(2**33), 3, 2, 0, 0
        machine.call("random_fill", 0, z, z.numel(), kind, *stream, STREAM, schedules=schedules)
        if name == "spherical":
            machine.call("to_sphere", 0, z, 21, 37, STREAM, schedules=schedules)
        close(z, random.prior(name, (21, 37), seed=SEED, purpose=1, step=3 * 2**33 + 2))


def check_dropout_seeds(machine: Emulator, each: int = 3) -> None:
    dropout_seeds = torch.zeros(3, each, dtype=torch.int64)
    machine.call("draw_dropout_seeds", counter_at(7), 1, 0, 3, SEED, dropout_seeds, each, STREAM, schedules=2)
    for i, row in enumerate(dropout_seeds):
        with random.dropout_seeds(SEED, 7 + i):
            assert row.tolist() == [int(random.next_dropout_seed()) for _ in row]


def check_many_dropout_seeds(machine: Emulator) -> None:
    check_dropout_seeds(machine, 330)  # more than a block has threads


def check_rows(machine: Emulator, schedules: int = 4) -> None:
    for features in (3, 40):
        data, out = normal(50, features), garbage(7, features)
        machine.call("gather", 0, data, 50, features, out, 7, SEED, counter_at(6), 2, 1, STREAM, schedules=schedules)
        # draw 13 of 7 batches an epoch
        assert torch.equal(out, data[random.permutation(50, seed=SEED, epoch=1, start=42, count=7)])


def check_labels(machine: Emulator, schedules: int = 4) -> None:
    for dtype, classes in ((torch.float32, 3), (torch.float64, 40)):
        labels, out = torch.arange(50, dtype=torch.int32) % classes, garbage(7, classes).to(dtype)
        head = DTYPES[dtype], labels, 50, classes, out, 7, SEED
        machine.call("gather_labels", *head, counter_at(6), 2, 1, STREAM, schedules=schedules)
        order = random.permutation(50, seed=SEED, epoch=1, start=42, count=7)
        assert torch.equal(out, torch.nn.functional.one_hot(labels[order].long(), classes).to(dtype))


def check_masks(machine: Emulator, schedules: int = 4) -> None:
    """Two sub-batches with dropout seeds of their own, whose rows count anew."""
    for features in (8, 5):
        dropout_seeds, x = torch.tensor([11, 0, 2**62]), torch.ones(12, features)
        out = garbage(12, features)
        mask = 0, dropout_seeds, 6, 2, 3
        machine.call("dropout", 0, x, out, 12, features, 0.4, *mask, STREAM, schedules=schedules)
        for half, dropout_seed in ((out[:6], 11), (out[6:], 2**62)):
            close(half, reference.dropout(torch.ones(6, features), 0.4, torch.tensor(dropout_seed), 3))


# ---------------------------------------------------------------- losses


def check_losses(machine: Emulator, schedules: int = 4, dtype: torch.dtype = FLOAT) -> None:
    n = 2500
    real, fake = normal(n, dtype=dtype), normal(n, dtype=dtype, seed=2)
    grads = [garbage(n, dtype=dtype) for _ in range(3)]
    size = machine.ask("loss_metrics_sums", n)
    of_d, of_g = garbage(2 * size, dtype=DOUBLE), garbage(size, dtype=DOUBLE)
    formulas = [FORMULAS[name] for name in ("non_saturating", "fake")]
    head = DTYPES[dtype], n, 0.5 / n
    threshold = -0.25
    of_real = real, None, grads[0], None, formulas[0], 0.0, True, threshold
    pair = *of_real, fake, None, grads[1], None, formulas[1], 0.0, False, threshold
    machine.call("loss_metrics", *head, of_d, 2, *pair, STREAM, schedules=schedules)
    one = fake, real, grads[2], None, formulas[0], 0.0, False, 0.0
    machine.call("loss_metrics", *head, of_g, 1, *one, STREAM, schedules=schedules)
    counter, metrics, penalties = counter_at(13), garbage(5, 6, dtype=DOUBLE), normal(9, dtype=dtype)
    entropies = normal(700, dtype=dtype, seed=3)
    tail = counter, metrics, 5, of_d, of_g, n, 0.5, penalties, 9, entropies, 700
    machine.call("record", DTYPES[dtype], *tail, STREAM, schedules=schedules)
    assert counter[0] == 14 and torch.isnan(metrics[[0, 1, 2, 4]]).all()
    a, b = real.double().clone().requires_grad_(), fake.double().clone().requires_grad_()
    halves = functional.softplus(-a).mean() + functional.softplus(b).mean()
    paired = functional.softplus(-(b - a.detach())).mean()
    of_a, of_b = torch.autograd.grad(0.5 * halves, (a, b))
    close(grads[0], of_a, dtype)
    close(grads[1], of_b, dtype)
    close(grads[2], 0.5 * torch.autograd.grad(paired, b)[0], dtype)
    loss_d = 0.5 * halves.detach() + penalties.double().sum()
    right = (a > threshold).double().mean(), (b < threshold).double().mean()
    opinions = [a.sigmoid().mean(), b.sigmoid().mean(), *right]
    loss_g = paired + entropies.double().mean()
    close(metrics[3], torch.stack([loss_d, loss_g, *opinions]).detach(), dtype)
    counter[0] = 14
    machine.call("record", DTYPES[dtype], *tail[:-4], None, 0, None, 0, STREAM, schedules=schedules)
    close(metrics[4, :2], torch.stack([0.5 * halves, paired]).detach(), dtype)


def check_relativistic(machine: Emulator, schedules: int = 4) -> None:
    real, fake = normal(20), normal(20, seed=2)
    grad, opposite, sums = garbage(20), garbage(20), garbage(6, dtype=DOUBLE)
    of_real = real, fake, grad, opposite, FORMULAS["non_saturating"], 0.0, True, 0.0
    pair = *of_real, fake, *(None,) * 3, -1, 0.0, False, 0.0
    machine.call("loss_metrics", 0, 20, 1.0, sums, 2, *pair, STREAM, schedules=schedules)
    assert torch.equal(opposite, -grad)
    close(grad, -torch.sigmoid(fake - real))
    close(sums[[0, 3]], torch.stack([functional.softplus(fake - real).sum(), torch.zeros(())]))


# ---------------------------------------------------------------- batch normalisation


def check_norm(machine: Emulator, schedules: int = 4, dtype: torch.dtype = FLOAT) -> None:
    rows, features = 21, 37
    product, bias, grad = (
        normal(rows, features, dtype=dtype),
        normal(features, dtype=dtype),
        normal(rows, features, seed=3),
    )
    scale, shift = normal(features, dtype=dtype, seed=4), normal(features, dtype=dtype, seed=5)
    mean, variance, batches = torch.zeros_like(bias), torch.ones_like(bias), torch.zeros((), dtype=torch.int64)
    statistics, out = garbage(2, features, dtype=dtype), garbage(rows, features, dtype=dtype)
    kept = statistics[0].clone(), statistics[1].clone()
    head = DTYPES[dtype], rows, features, 1e-5, 0.1, bias, scale, shift
    machine.call("norm_forward", *head, mean, variance, batches, *kept, product, out, STREAM, schedules=schedules)
    leaves = [t.double().clone().requires_grad_() for t in (product, scale, shift)]
    want_mean, want_variance = torch.zeros(features, dtype=DOUBLE), torch.ones(features, dtype=DOUBLE)
    want = functional.batch_norm(leaves[0] + bias.double(), want_mean, want_variance, *leaves[1:], training=True)
    close(out, want.detach(), dtype)
    close(mean, want_mean, dtype)
    close(variance, want_variance, dtype)
    assert batches == 1
    grad = grad.to(dtype)
    grads = torch.autograd.grad(want, leaves, grad.double())
    of_scale, of_shift = torch.ones_like(bias), garbage(features, dtype=dtype)
    for adds, sums in ((True, (of_scale, None)), (False, (None, of_shift))):
        own = grad.clone()
        tail = product, own, *sums, adds
        machine.call("norm_backward", *head, None, None, None, *kept, *tail, STREAM, schedules=schedules)
        close(own, grads[0], dtype)
    close(of_scale - 1, grads[1], FLOAT if dtype == FLOAT else DOUBLE)
    close(of_shift, grads[2], dtype)


# ---------------------------------------------------------------- heads


HEADS = (("tanh", 2), ("gumbel_softmax", 3), ("none", 1), ("softmax", 4), ("gumbel_softmax", 70), ("softmax", 1))


def check_heads(machine: Emulator, schedules: int = 4, dtype: torch.dtype = FLOAT) -> None:
    """Against nn.Heads, with the noise of a seed on the device; no group begins where a random block does."""
    rows, features, tau = 9, 81, 0.3
    firsts = [sum(width for _, width in HEADS[:i]) for i in range(len(HEADS))]
    groups = [(number("Head", kind), first, width) for (kind, width), first in zip(HEADS, firsts, strict=True)]
    x, out, grad = (normal(rows, features, dtype=dtype), garbage(rows, features, dtype=dtype),
                    normal(rows, features, dtype=dtype, seed=2))  # fmt: skip
    with random.dropout_seeds(SEED, 7):
        seed = torch.tensor([5, int(random.next_dropout_seed())])[1:].clone()
    given = x.double().requires_grad_()
    with random.dropout_seeds(SEED, 7):
        want = nn.Heads(HEADS, tau=tau, impl="reference")(given)
    (want_grad,) = torch.autograd.grad(want, given, grad.double())
    head = DTYPES[dtype], rows, features, torch.tensor(groups), len(groups), tau, 0, seed, rows, 0
    machine.call("heads_forward", *head, x, out, STREAM, schedules=schedules)
    close(out, want.detach(), dtype)
    machine.call("heads_backward", *head, out, grad, STREAM, schedules=schedules)
    close(grad, want_grad, dtype)


def check_heads_of_what_is_not_finite(machine: Emulator, schedules: int = 4) -> None:
    """A NaN spreads over its group alone; infinite numbers have equal shares."""
    inf, nan = torch.inf, torch.nan
    x = torch.tensor([[nan, 0.0, 1.0, 2.0], [inf, 0.0, inf, nan], [-inf, 0.0, 0.0, inf], [-inf, -inf, -inf, -inf]])
    groups, out = torch.tensor([[number("Head", "softmax"), 0, 3], [number("Head", "tanh"), 3, 1]]), garbage(4, 4)
    machine.call("heads_forward", 0, 4, 4, groups, 2, 1.0, 0, None, 0, 0, x, out, STREAM, schedules=schedules)
    third = 1 / 3
    shares = torch.tensor([[nan] * 3, [0.5, 0.0, 0.5], [0.0, 0.5, 0.5], [third] * 3])
    close(out, torch.cat([shares, torch.tanh(x[:, 3:])], 1))


# ---------------------------------------------------------------- rows drawn by their labels


def check_sampled(machine: Emulator, schedules: int = 4, dtype: torch.dtype = FLOAT) -> None:
    """Labels, rows that have them, and their cross-entropy, against the eager engine's; the second table has none."""
    need("native", "mlp")  # whose schema orders the table
    gan, m, step = made(dtype)[0], 37, 2**33
    stream = m, SEED, number("Purpose", "noise_g"), counter_at(2**32), 2, 0
    asked: dict[str, Any] = {"seed": SEED, "purpose": Purpose.NOISE_G, "step": step}
    for rows in (sampled(), sampled(kind=torch.int32), sampled(labelled=False)):
        table, sampler = table_of(gan, rows), rows.sampler
        labels, condition = torch.full((m,), -1, dtype=torch.int32), garbage(m, sampler.width, dtype=dtype)
        conditions = sampler.draw(m, **asked)
        want = sampler.labels(conditions)
        head = DTYPES[dtype], *table
        if sampler.width:
            tail = labels, sampler.width, condition, *stream
            machine.call("draw_labels", *head, *tail, STREAM, schedules=schedules)
            assert torch.equal(labels.long(), want)
            assert torch.equal(condition, functional.one_hot(want, sampler.width).to(dtype))
        out = garbage(m, rows.table.width, dtype=dtype)
        shape = rows.table.scalars.to(dtype), len(rows), rows.table.width
        tail = *shape, labels if sampler.width else None, out, *stream
        machine.call("gather_sampled", *head, *tail, STREAM, schedules=schedules)
        assert torch.equal(out, rows.rows(sampler.matching(conditions, **asked)).to(dtype))
        if sampler.width:
            check_cross_entropy(machine, rows, head, labels, schedules)


def check_cross_entropy(
    machine: Emulator, rows: SampledRows, head: tuple[Any, ...], labels: Tensor, schedules: int
) -> None:
    m, width, dtype = len(labels), rows.table.width, DOUBLE if head[0] else FLOAT
    logits, grad, entropies = 5 * normal(m, width, dtype=dtype), normal(m, width, dtype=dtype, seed=2), garbage(m)
    given, before, entropies = logits.double().clone().requires_grad_(), grad.double().clone(), entropies.to(dtype)
    entropy = rows.cross_entropy(given, labels.long())
    tail = labels, logits, grad, entropies, m, width, 0.5 / m
    machine.call("cross_entropy", *head, *tail, STREAM, schedules=schedules)
    close(entropies.double().mean(), entropy.detach(), dtype)
    close(grad, before + 0.5 * torch.autograd.grad(entropy, given)[0], dtype)


# ---------------------------------------------------------------- penalties


def check_penalty(machine: Emulator, schedules: int = 4) -> None:
    rows, features = 11, 37
    real, fake, out = normal(rows, features), normal(rows, features, seed=2), garbage(rows, features)
    mix = random.uniform(rows, seed=SEED, purpose=Purpose.PENALTY, step=9)[:, None]
    for kind, want in ((1, mix * real + (1 - mix) * fake), (2, real), (3, fake)):
        shape = rows, features, kind, SEED, counter_at(4), 2, 1
        machine.call("interpolate", 0, real, fake, out, *shape, STREAM, schedules=schedules)
        close(out, want)
    real[3] = 0.0  # no gradient there
    for kind in (1, 2):
        t, values = garbage(rows, features), garbage(rows)
        machine.call("penalty_grad", 0, real, t, values, rows, features, kind, 0.3, STREAM, schedules=schedules)
        g = real.double().requires_grad_()
        square = g.square().sum(1)
        want = 0.3 * ((square + 1e-300).sqrt() - 1).square() if kind == 1 else 0.15 * square
        close(values, want.detach())
        close(t, torch.autograd.grad(want.sum(), g)[0])


def check_second_order(machine: Emulator, schedules: int = 4) -> None:
    n = 300
    for name in ("none", "leaky_relu", "elu"):
        x, upstream, s = normal(n, dtype=DOUBLE).requires_grad_(), normal(n, dtype=DOUBLE, seed=2), normal(n, seed=3)
        y = ACTIVATIONS[name](x, 0.2)
        first = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)[0]
        second = torch.autograd.grad((first * upstream).sum(), x, allow_unused=True)[0] if first.requires_grad else None
        e, tangent, t = (first * upstream).detach().float(), garbage(n), garbage(n)
        numbers = n, 1, number("Activation", name), 0.2, True
        machine.call(
            "second_order", 0, *numbers, y.detach().float(), s, None, e, tangent, t, STREAM, schedules=schedules
        )
        close(t, first.detach() * s)
        close(tangent, (first * upstream).detach())
        close(e, torch.zeros(n) if second is None else second * s)
    winner, s = torch.arange(60, dtype=torch.int32) % 5, normal(60, 5)
    e, tangent, t = normal(60, 5, seed=2), garbage(60, 5), garbage(60)
    kept = e.clone()
    numbers = 60, 5, 0, 0.2, True
    machine.call("second_order", 0, *numbers, None, s, winner, e, tangent, t, STREAM, schedules=schedules)
    assert torch.equal(tangent, kept) and not e.any()
    assert torch.equal(t, s.gather(1, winner.long()[:, None])[:, 0])


# ---------------------------------------------------------------- updates


def check_schedules(machine: Emulator, schedules: int = 4) -> None:
    """The rate and the momentum of each update, as fastgan.Momentum has them."""
    need("native", "mlp")  # whose schema orders the plan
    rule = Momentum(0.5, momentum=0.5, lr_decay=1.01, min_lr=0.4, momentum_final=0.7, saturate_epochs=3.0)
    plan = dict.fromkeys(FIELDS["OptimizerPlan"], 0.0) | {"rule": "momentum_torch"}
    # Of 100 updates, two an iteration and five an epoch; number u is at u % 30, where the last of that number stays.
    rates, momenta = torch.empty(30, dtype=DOUBLE), torch.empty(30, dtype=DOUBLE)
    p, velocity, grad = normal(9, dtype=DOUBLE), normal(9, dtype=DOUBLE, seed=2), normal(9, dtype=DOUBLE, seed=3)
    for iteration in (0, 2, 3, 9, 40):
        counter, update = counter_at(iteration), 2 * iteration + 1
        rates[update % 30], momenta[update % 30] = rule.learning_rate(update), rule.momentum_at(update // 5 + 1)
        tables = rates, 30, momenta, 30
        want_v = rule.momentum_at(update // 5 + 1) * velocity + grad
        want = p - rule.learning_rate(update) * want_v
        members = 1, p, velocity, None, grad, 9
        head = 1, *in_order("OptimizerPlan", plan), *tables, counter, 2, 1, 0
        machine.call("update", *head, *members, STREAM, schedules=schedules)
        close(p, want, DOUBLE)


def check_finite(machine: Emulator, schedules: int = 4) -> None:
    for where, before, sums, bad in (
        (None, 1.0, 0.0, 0), (4100, 1.0, 0.0, 1), (4100, -torch.inf, 0.0, 0), (None, 1.0, torch.inf, 1)
    ):  # fmt: skip
        counter, numbers, of = counter_at(1), [torch.ones(7), torch.ones(5000)], torch.zeros(6, dtype=DOUBLE)
        saved = [None, torch.ones(5000)]
        of[3], of[4] = sums, torch.nan  # the opinion of a NaN is no loss
        if where is not None:
            numbers[1][where], saved[1][where] = torch.nan, before
        members = [a for n, s in zip(numbers, saved, strict=True) for a in (s, None, None, n, n.numel())]
        machine.call("inspect", 0, counter, of, 2, 3, 2, *members, STREAM, schedules=schedules)
        assert int(counter[3]) == bad
        live, copy = torch.ones(300), torch.zeros(300)
        machine.call("copy", 0, 1, counter, 1, live, None, None, copy, 300, STREAM, schedules=schedules)
        assert bool(live.any()) == (not bad)
        weight = 3 * torch.ones(9, 40)
        machine.call("bound_norms", 0, weight, 9, 40, 1.0, STREAM, schedules=schedules)
        close(weight.norm(dim=1), torch.ones(9))
        machine.call("count_skipped", counter, True, False, STREAM, schedules=schedules)
        assert counter.tolist() == [1, bad, 0, 0]
    mean, value = torch.zeros(5), torch.ones(5)
    machine.call("ema", 0, 0.75, 1, mean, None, None, value, 5, STREAM, schedules=schedules)
    close(mean, torch.full((5,), 0.25))


Check = Callable[[Emulator], None]
CHECKS: dict[str, tuple[Check, ...]] = {
    "random.cu": (check_noise, check_many_dropout_seeds, check_rows, check_labels, check_masks),
    "loss_metrics.cu": (check_losses, check_relativistic),
    "norm.cu": (check_norm,),
    "heads.cu": (check_heads, check_heads_of_what_is_not_finite),
    "sampled.cu": (check_sampled,),
    "penalty.cu": (check_penalty, check_second_order),
    "optimizer.cu": (check_schedules, check_finite),
}


@pytest.mark.parametrize("check", [check for checks in CHECKS.values() for check in checks])
def test_kernel(check: Check, machine: Emulator) -> None:
    check(machine)


@pytest.mark.parametrize("check", [check_losses, check_norm, check_heads, check_sampled])
def test_kernel_in_double(check: Callable[..., None], machine: Emulator) -> None:
    check(machine, dtype=DOUBLE)


RACING: dict[str, tuple[Check, ...]] = {  # what the narrowed sources hold
    "random.cu": (check_dropout_seeds, check_rows, check_labels, check_masks),
    "loss_metrics.cu": (check_losses,),
    "norm.cu": (check_norm,),
    "heads.cu": (check_heads,),
    "sampled.cu": (check_sampled,),
    "optimizer.cu": (check_finite,),
}


@pytest.fixture(scope="module")
def racing(emulator_builder: Builder) -> dict[str, Callable[[], Emulator]]:
    return {source: begin_narrow(emulator_builder, source, RACES) for source in RACING}


@pytest.mark.parametrize("source", RACING)
def test_no_race(source: str, racing: dict[str, Callable[[], Emulator]]) -> None:
    with contextlib.closing(racing[source]()) as emulator:
        for check in RACING[source]:
            check(emulator)


WANTED, SUMMED = "i < wanted;", "  all[threadIdx.x] = sum;\n"
# name -> source, the old text, the new text, the build's flavour, and what it says
FAULTS = {
    "rows_tail": ("random.cu", WANTED, "i <= wanted;", MEMORY, "overflow"),
    "no_barrier": ("norm.cu", SUMMED + "  __syncthreads();\n", SUMMED, RACES, "race|never written"),
    "features_tail": ("norm.cu", "inside(feature < features)", "inside(true)", MEMORY, "overflow"),
    "features_of_heads": ("heads.cu", "i < head.width;", "i <= head.width;", MEMORY, "overflow|not close"),
    "lanes_of_heads": ("heads.cu", "i = threadIdx.x % 32;", "i = threadIdx.x % 31;", RACES, "race"),
    "zeros_of_lanes": ("sampled.cu", "__syncwarp();", "", RACES, "race|never written|not equal"),
    "all_entropies": ("sampled.cu", "if (threadIdx.x % 32 == 0) entropies[row] =", "entropies[row] =", RACES, "race"),
    "all_record": ("loss_metrics.cu", "if (threadIdx.x > 0) return;", "", RACES, "race"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_R23_a_planted_fault_is_found(name: str, faulty: dict[str, Callable[[], Emulator]]) -> None:
    source, *_, says = FAULTS[name]
    with contextlib.closing(faulty[name]()) as emulator:
        with pytest.raises(AssertionError, match=says):
            for check in RACING[source]:
                check(emulator)
