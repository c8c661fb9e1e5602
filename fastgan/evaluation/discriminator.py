"""How well a discriminator separates real and fake rows: it is fitted to its optimum and measured on held-out rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgan import losses, random, theory
from fastgan._errors import Invalid
from fastgan.models.gan import GAN, evaluating

from .rows import Rows, take_rows

_BATCH = 4096


@dataclass(frozen=True)
class DiscriminatorGap:
    """A discriminator's values on its training data and on held-out data.

    Args:
        value_train, value_held_out: V(G, D) in nats, from samples.
        accuracy_train, accuracy_held_out: share of rows on the right side of 1/2, with equal weights of real and fake.
        js_train, js_held_out: the Jensen-Shannon divergence that these values give. On held-out rows it is at most the
            true one, up to chance; on training rows it grows to log 2 as D memorises them.
    """

    value_train: float
    value_held_out: float
    accuracy_train: float
    accuracy_held_out: float
    js_train: float
    js_held_out: float

    @property
    def gap(self) -> float:
        """value_train - value_held_out: how far D overfits, in nats."""
        return self.value_train - self.value_held_out

    def __str__(self) -> str:
        return (
            f"V {self.value_train:.4f} on training rows and {self.value_held_out:.4f} on held-out ones, a gap of "
            f"{self.gap:.4f} nats; accuracy {100 * self.accuracy_train:.1f}% and {100 * self.accuracy_held_out:.1f}%"
        )


def discriminator_gap(
    discriminator: GAN | torch.nn.Module | Callable[[Tensor], Tensor],
    train: Rows,
    held_out: Rows,
    fake: Rows,
    *,
    held_out_fake: Rows | None = None,
) -> DiscriminatorGap:
    """How much better a discriminator does on its training data than on new data: its overfitting.

    Args:
        discriminator: a GAN, a module (run in eval mode) or a function from float64 rows (m, features) to logits.
        train: (n, ...) real rows that it was trained on.
        held_out: (m, ...) real rows that it was not trained on.
        fake: (k, ...) generated rows, as in its training.
        held_out_fake: (l, ...) generated rows that it was not trained on; None: fake, because a generator's rows are
            always new.

    Returns:
        DiscriminatorGap.

    Raises:
        TypeError, ValueError: rows that are not finite numbers or differ in width.

    Source: Goodfellow et al. (2014), section 4: "optimizing D to completion [...] on finite datasets would result in
        overfitting".
    """
    new_fake = fake if held_out_fake is None else held_out_fake
    rows, _ = take_rows("discriminator_gap", train=train, held_out=held_out, fake=fake, held_out_fake=new_fake)
    real, new_real, fake_, new_fake_ = (logits_of(discriminator, x) for x in rows)
    return DiscriminatorGap(
        value_train=(train_value := float(theory.sample_value(real, fake_))),
        value_held_out=(new_value := float(theory.sample_value(new_real, new_fake_))),
        accuracy_train=_accuracy(real, fake_),
        accuracy_held_out=_accuracy(new_real, new_fake_),
        js_train=theory.js_from_value(train_value).item(),
        js_held_out=theory.js_from_value(new_value).item(),
    )


def _accuracy(real: Tensor, fake: Tensor) -> float:
    return float((real > 0).double().mean() + (fake < 0).double().mean()) / 2


@torch.no_grad()
def logits_of(discriminator: GAN | torch.nn.Module | Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A discriminator's logits of rows (n, features), in its own type, batch by batch."""
    network = discriminator.discriminator if isinstance(discriminator, GAN) else discriminator
    if not isinstance(network, torch.nn.Module):
        return torch.cat([network(part).flatten() for part in x.split(_BATCH)]).double()
    like = next(iter(network.parameters()), x)
    shape = discriminator.data_shape if isinstance(discriminator, GAN) else None
    x = x if shape is None else x.reshape(len(x), *shape)
    with evaluating(network):
        return torch.cat([network(part.to(like)).flatten() for part in x.split(_BATCH)]).double()


@torch.inference_mode(False)
def fit_discriminator(
    discriminator: torch.nn.Module,
    real: Rows,
    fake: Rows,
    *,
    epochs: int = 10,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> list[float]:
    """Train a discriminator against a fixed set of samples, towards D* = p_data / (p_data + p_g).

    By Adam, whose rate falls to 0 along a cosine, so that the last weights are stable. It measures the distance of two
    sets of rows: V(G, D*) = 2 JSD - log 4, on held-out rows (`discriminator_gap`).

    Args:
        discriminator: module from (m, features) to logits; trained in place, in its current mode.
        real: (n, ...) rows of the data.
        fake: (m, ...) rows of the generator.
        epochs: passes over the smaller of the two.
        batch_size: rows of each kind in a step; all of them if there are fewer.
        learning_rate: of the first step.
        seed: of the order of the rows.

    Returns:
        The mean of V(G, D) over each epoch, in nats.

    Raises:
        TypeError, ValueError: rows that are not finite numbers or differ in width, a number that breaks its rule.

    Source: Goodfellow et al. (2014), Algorithm 1, its inner loop.
    """
    caller = "fit_discriminator"
    for name, number in (("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise Invalid(caller).value(name, f"must be an integer of at least 1, got {number!r}")
    Invalid(caller).check_number("learning_rate", learning_rate)
    if not 0 < learning_rate < float("inf"):
        raise Invalid(caller).value("learning_rate", f"must be above 0 and finite, got {learning_rate}")
    rows, _ = take_rows(caller, real=real, fake=fake)
    parameters: list[Any] = list(discriminator.parameters())
    x, y = (part.to(parameters[0]) for part in rows)
    size = min(batch_size, len(x), len(y))
    steps = min(len(x), len(y)) // size
    optimizer = torch.optim.Adam(parameters, learning_rate, betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    values = []
    for epoch in range(epochs):
        order_x, order_y = (
            random.permutation(len(part), seed=seed, epoch=2 * epoch + kind, count=steps * size, device=part.device)
            for kind, part in enumerate((x, y))
        )
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        for real_rows, fake_rows in zip(order_x.split(size), order_y.split(size), strict=True):
            optimizer.zero_grad()
            loss = losses.discriminator_loss(discriminator(x[real_rows]), discriminator(y[fake_rows]))
            loss.backward()
            optimizer.step()
            schedule.step()
            total -= loss.detach()
        values.append(total.item() / steps)
    return values
