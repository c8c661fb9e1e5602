"""The table of whole engines' tests: pairs of networks with configs, one a row, and how a row is run."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastgan import (
    GAN,
    SGD,
    Adam,
    AdamW,
    CosineDecay,
    ExponentialDecay,
    LinearDecay,
    Momentum,
    RMSprop,
    StepDecay,
    TrainConfig,
    nn,
    train,
)
from fastgan.data import Dataset
from fastgan.training import TrainResult
from fastgan.training.config import DISCRIMINATOR_LOSS

STEPS, ROWS = 20, 300
# Where a gradient is zero in theory (a bias under batch normalisation or in a difference of logits, D's last bias where
# the loss is linear in real and fake logits alike), Adam blows its rounding up to a whole step: such rows use momentum.
MOMENTUM = Momentum(0.05, momentum=0.5)
SLOW = Momentum(0.01, momentum=0.5)
LINEAR = ("hinge", "wasserstein", "relativistic")


def mlp(
    dtype: torch.dtype,
    g: str = "relu",
    d: str = "leaky_relu",
    output: str | None = None,
    *,
    width: int = 24,
    features: int = 2,
    d_inputs: int = 2,
    logits: int = 1,
    prior: str = "normal",
    **drop: float,
) -> GAN:
    generator = nn.MLP([3, width, width + 3, features], activation=g, output_activation=output, dtype=dtype)
    discriminator = nn.MLP([d_inputs, width + 5, width, logits], activation=d, dtype=dtype, **drop)
    return GAN(generator, discriminator, latent_dim=3, prior=prior)


def of(*arguments: Any, **options: Any) -> Callable[[torch.dtype], GAN]:
    return lambda dtype: mlp(dtype, *arguments, **options)


def normalized(dtype: torch.dtype, eps: float = 1e-5) -> GAN:
    plain = torch.nn
    generator = nn.Sequential(
        plain.Linear(3, 40, bias=False), plain.BatchNorm1d(40, eps), plain.ReLU(),
        plain.Linear(40, 17), plain.BatchNorm1d(17, eps, affine=False, momentum=0.3), plain.GELU(), plain.Linear(17, 2),
    )  # fmt: skip
    discriminator = nn.Sequential(
        nn.Maxout(2, 20, 5), nn.Dropout(0.5), plain.Linear(20, 9), plain.BatchNorm1d(9, eps), nn.Dropout(0.2),
        plain.Linear(9, 1),
    )  # fmt: skip
    return GAN(generator, discriminator, latent_dim=3).to(dtype)


def maxout(dtype: torch.dtype) -> GAN:
    """Maxout with dropout before and after, as in the original code, and a layer with a second derivative between."""
    discriminator = nn.Sequential(
        nn.Dropout(0.2), nn.Maxout(2, 20, 5), nn.Dropout(0.5), nn.Linear(20, 13, activation="tanh"),
        nn.Maxout(13, 12, 3, bias=False), torch.nn.Linear(12, 9), nn.Dropout(0.2), torch.nn.Linear(9, 1),
    )  # fmt: skip
    return GAN(nn.MLP([3, 30, 2], activation="relu"), discriminator, latent_dim=3).to(dtype)


def plain_torch(dtype: torch.dtype) -> GAN:
    """Nothing of fastgan's: nested Sequentials, a Flatten, a frozen layer, dropout that is switched off."""
    t = torch.nn
    generator = t.Sequential(t.Sequential(t.Linear(3, 8), t.ELU()), t.Linear(8, 2), t.Identity())
    discriminator = t.Sequential(t.Flatten(), t.Linear(2, 9), t.Softplus(), t.Dropout(0.0), t.Linear(9, 1))
    generator[0][0].requires_grad_(False)
    discriminator[1].bias.requires_grad_(False)
    return GAN(generator, discriminator, latent_dim=3).to(dtype)


def no_width(dtype: torch.dtype) -> GAN:
    """A bias is all that is left of G."""
    t = torch.nn
    with warnings.catch_warnings():  # torch warns that there is nothing to fill
        warnings.simplefilter("ignore")
        generator = t.Sequential(t.Linear(3, 0), t.Tanh(), t.Linear(0, 2))
    return GAN(generator, nn.MLP([2, 9, 1], activation="tanh"), latent_dim=3).to(dtype)


def overflowing(dtype: torch.dtype) -> GAN:
    """Of large gradients, which a rate of 3e38 carries beyond float32."""
    gan = mlp(dtype)
    with torch.no_grad():
        gan.discriminator[0].weight.mul_(1e4)
    return gan


@dataclass(frozen=True)
class Row:
    """A pair of networks and what differs from the usual config."""

    make: Callable[[torch.dtype], GAN] = field(default_factory=of)
    features: int = 2
    config: dict[str, Any] = field(default_factory=dict)
    rows: int = ROWS
    classes: int = 0

    def data(self, dtype: torch.dtype) -> torch.Tensor | Dataset:
        """Random rows, and labels where there are classes."""
        generator = torch.Generator().manual_seed(2)
        data = torch.randn(self.rows, self.features, dtype=dtype, generator=generator)
        labels = torch.randint(self.classes, (self.rows,), generator=generator) if self.classes else None
        return data if labels is None else Dataset(data, labels=labels, dtype=dtype)


def conditional(dtype: torch.dtype, *, classes: int, pack: int = 1, features: int = 2, **options: Any) -> GAN:
    """Both networks see a label's one-hot vector behind their input."""
    options = {"d": "leaky_relu", "width": 24} | options
    width = options["width"]
    drop = {name: options[name] for name in ("dropout", "input_dropout") if name in options}
    generator = nn.MLP([3 + classes, width, width + 3, features], activation="relu", dtype=dtype)
    discriminator = nn.MLP(
        [(features + classes) * pack, width + 5, width, 1], activation=options["d"], dtype=dtype, **drop
    )
    return GAN(generator, discriminator, latent_dim=3, classes=classes, prior=options.get("prior", "normal"))


def of_classes(classes: int, options: dict[str, Any] | None = None, **config: Any) -> Row:
    options = {"pack": config.get("pack", 1)} | (options or {})
    make = functools.partial(conditional, classes=classes, **options)
    return Row(make, options.get("features", 2), config, classes=classes)


def with_heads(dtype: torch.dtype, *, classes: int = 0, norm: bool = False, width: int = 14) -> GAN:
    """Rows of numbers in six groups; no group begins where a random block does."""
    groups = [("tanh", 1), ("gumbel_softmax", 3), ("none", 2), ("softmax", 2), ("gumbel_softmax", 5)]
    groups.append(("tanh", width - 13))
    last = [torch.nn.Linear(9, width), *([torch.nn.BatchNorm1d(width)] if norm else [])]
    generator = nn.Sequential(
        torch.nn.Linear(3 + classes, 9), torch.nn.ReLU(), nn.Dropout(0.2), *last, nn.Heads(groups, tau=0.7)
    )
    discriminator = nn.MLP([width + classes, 15, 1], activation="leaky_relu", dropout=0.3)
    return GAN(generator, discriminator, latent_dim=3, classes=classes).to(dtype)


def residual(dtype: torch.dtype, *, pack: int = 1) -> GAN:
    """G as in CTGAN, with the dropout and activations of others between; a block in D."""
    groups = [("tanh", 1), ("gumbel_softmax", 3), ("softmax", 2), ("tanh", 1)]
    generator = nn.Sequential(
        nn.Residual(3, 9), nn.Residual(12, 17), nn.Linear(29, 5, activation="tanh"), nn.Dropout(0.2), nn.Residual(5, 4),
        torch.nn.Linear(9, 7), nn.Heads(groups),
    )  # fmt: skip
    discriminator = torch.nn.Sequential(torch.nn.Linear(7 * pack, 11), torch.nn.LeakyReLU(0.2), nn.Residual(11, 6))
    discriminator.append(torch.nn.Linear(17, 1))
    return GAN(generator, discriminator, latent_dim=3).to(dtype)


def residuals_alone(dtype: torch.dtype) -> GAN:
    """The first layer and the last one: every row of the data ends in the noise."""
    discriminator = nn.MLP([8, 15, 1], activation="leaky_relu", dropout=0.3)
    return GAN(nn.Sequential(nn.Residual(2, 4), nn.Residual(6, 2)), discriminator, latent_dim=2).to(dtype)


def row(make: Callable[[torch.dtype], GAN] | None = None, features: int = 2, **config: Any) -> Row:
    return Row(make or of(), features, config)


# Losses and gradients are finite, what the updates leave is not.
OVERFLOWING = Row(overflowing, config={
    "optimizer": Momentum(3e38, momentum=0.5), "loss": "wasserstein", "nonfinite": "skip", "max_col_norm": 1e9
})  # fmt: skip
SCHEDULED = {"lr_decay": 1.01, "min_lr": 0.03, "momentum_final": 0.7, "saturate_epochs": 3.0}
ROWS_OF_TABLE: dict[str, Row] = {
    "plain": row(),
    **{f"activation {a}": row(of(a, a, a)) for a in ("leaky_relu", "tanh", "sigmoid", "elu", "softplus", "gelu")},
    **{
        f"loss {loss}": row(loss=loss, optimizer=SLOW if loss in LINEAR else Adam(1e-2)) for loss in DISCRIMINATOR_LOSS
    },
    "loss relativistic, three logits": row(of(logits=3), loss="relativistic", optimizer=MOMENTUM),
    "label smoothing": row(real_label=0.9),
    "both labels": row(real_label=0.8, fake_label=0.1),
    "three logits": row(of(logits=3)),
    "k = 3, two steps of G": row(k=3, generator_steps=2),
    "two time scales": row(
        generator_optimizer=Adam(1e-3, betas=(0.9, 0.99), eps=1e-6), discriminator_optimizer=MOMENTUM
    ),
    "momentum": row(optimizer=Momentum(0.05, momentum=0.5, **SCHEDULED)),
    **{f"momentum from 0, {c}": row(optimizer=Momentum(0.05, 0.0, c, momentum_final=0.9, saturate_epochs=3.0))
       for c in ("torch", "pylearn2")},
    "momentum, pylearn2": row(optimizer=Momentum(0.05, convention="pylearn2", **SCHEDULED), k=2),
    "adam, weight decay": row(optimizer=Adam(1e-2, weight_decay=0.3)),
    "adamw, cosine": row(optimizer=AdamW(1e-2, weight_decay=2.0), scheduler=CosineDecay(30, 1e-3), k=2),
    "sgd, step": row(optimizer=SGD(0.05), scheduler=StepDecay(3, 0.5), nonfinite="skip"),
    "sgd, nesterov, decay, linear": row(
        optimizer=SGD(0.03, 0.5, nesterov=True, weight_decay=0.2), scheduler=LinearDecay(12, 1.0, 0.1),
        generator_steps=2,
    ),
    "rmsprop, exponential": row(optimizer=RMSprop(1e-3, eps=1e-3), generator_scheduler=ExponentialDecay(0.9)),
    "rmsprop, momentum, decay, two networks": row(
        discriminator_optimizer=RMSprop(1e-3, 0.9, 1e-3, 0.5, 0.1), discriminator_scheduler=StepDecay(2), k=3,
        generator_optimizer=Momentum(0.05), max_grad_norm=0.5, ema_decay=0.9,
    ),
    "sgd, simultaneous, linear": row(optimizer=SGD(0.03), scheduler=LinearDecay(9), mode="simultaneous"),
    "simultaneous": row(mode="simultaneous"),
    "simultaneous, relativistic": row(mode="simultaneous", loss="relativistic", optimizer=MOMENTUM),
    "max norm": row(max_col_norm=0.8),
    "max norm, simultaneous": row(max_col_norm=0.4, mode="simultaneous"),
    "max norm, frozen parameters": row(plain_torch, max_col_norm=0.3),
    "clip by norm": row(max_grad_norm=0.1, optimizer=MOMENTUM, k=2, generator_steps=2),
    "clip by norm, batch normalisation": row(normalized, max_grad_norm=0.2, optimizer=MOMENTUM),
    "clip by norm and value, penalty, simultaneous": row(
        of(d="tanh"), max_grad_norm=0.2, max_grad_value=0.05, optimizer=MOMENTUM, gradient_penalty="r1",
        mode="simultaneous",
    ),
    "clip by norm, frozen parameters": row(plain_torch, max_grad_norm=0.1, optimizer=MOMENTUM),
    "clip by norm, wide": row(
        of(width=130, features=70, d_inputs=70), 70, batch_size=100, optimizer=MOMENTUM, max_grad_norm=0.1
    ),
    "clip by value": row(max_grad_value=0.01, optimizer=MOMENTUM),
    "clip weights": row(loss="wasserstein", clip_weights=0.05, k=2, optimizer=SLOW),
    "prior uniform": row(of(prior="uniform")),
    "prior spherical": row(of(prior="spherical")),
    "dropout": row(of(dropout=0.3, input_dropout=0.2)),
    "maxout": row(maxout),
    "maxout, simultaneous": row(maxout, mode="simultaneous"),
    "plain torch, frozen parameters": row(plain_torch),
    "batch normalisation": row(normalized, optimizer=MOMENTUM),
    # Two rows are normalised to 1 and -1 whatever they are; a large eps leaves them a gradient above the rounding.
    **{f"batch normalisation, {n} rows": row(functools.partial(normalized, eps=0.5), optimizer=MOMENTUM, batch_size=n)
       for n in (2, 3)},
    "batch normalisation, simultaneous": row(normalized, optimizer=MOMENTUM, mode="simultaneous"),
    "batch normalisation, relativistic": row(normalized, optimizer=MOMENTUM, loss="relativistic"),
    "batch normalisation, skip, average": row(normalized, optimizer=MOMENTUM, nonfinite="skip", ema_decay=0.8, k=2),
    "moving average": row(ema_decay=0.9, generator_steps=2, max_col_norm=0.7),
    **{f"pack {n}": row(of(d_inputs=2 * n), pack=n, optimizer=MOMENTUM) for n in (2, 3)},
    "pack 2, relativistic": row(of(d_inputs=4), pack=2, loss="relativistic", optimizer=MOMENTUM),
    "pack 2, simultaneous, wgan-gp": row(of(d_inputs=4), pack=2, mode="simultaneous", gradient_penalty="wgan-gp"),
    **{f"r1 {a}": row(of(d=a), gradient_penalty="r1", penalty_weight=3.0) for a in ("leaky_relu", "sigmoid", "elu")},
    **{f"r2 {a}": row(of(d=a), gradient_penalty="r2", penalty_weight=3.0) for a in ("tanh", "softplus")},
    "r1 and r2, relativistic": row(
        of(d="tanh"), gradient_penalty=("r1", "r2"), loss="relativistic", optimizer=MOMENTUM, penalty_weight=1.0
    ),
    "r2 and wgan-gp, piecewise linear, dropout": row(
        of(dropout=0.3, input_dropout=0.2), gradient_penalty=("r2", "wgan-gp"), optimizer=MOMENTUM, batch_size=37
    ),
    "three penalties, simultaneous": row(
        maxout, gradient_penalty=("wgan-gp", "r2", "r1"), optimizer=SLOW, mode="simultaneous", nonfinite="skip"
    ),
    "wgan-gp": row(loss="wasserstein", gradient_penalty="wgan-gp", k=2, optimizer=SLOW),
    "wgan-gp gelu, three logits": row(
        of(d="gelu", logits=3), loss="wasserstein", gradient_penalty="wgan-gp", optimizer=SLOW
    ),
    "wgan-gp maxout": row(maxout, gradient_penalty="wgan-gp", optimizer=SLOW),
    "r1 relativistic": row(of(d="tanh"), gradient_penalty="r1", loss="relativistic", optimizer=MOMENTUM),
    "r1 dropout, simultaneous": row(
        of(d="tanh", dropout=0.3, input_dropout=0.2), gradient_penalty="r1", mode="simultaneous"
    ),
    "wide": row(of(width=130, features=70, d_inputs=70), 70, batch_size=100, optimizer=MOMENTUM),
    "wide, wgan-gp": row(of(d="softplus", width=130, features=70, d_inputs=70), 70, batch_size=100, optimizer=MOMENTUM,
                         gradient_penalty="wgan-gp"),
    "conditional": of_classes(3, k=2, generator_steps=2, ema_decay=0.9),
    "conditional, one class": of_classes(1, {"prior": "spherical"}),
    "conditional, dropout": of_classes(3, {"dropout": 0.3, "input_dropout": 0.2}),
    "conditional, simultaneous": of_classes(3, mode="simultaneous", batch_size=17),
    "conditional, relativistic": of_classes(3, loss="relativistic", optimizer=MOMENTUM),
    "conditional, pack 2": of_classes(3, pack=2, optimizer=MOMENTUM),
    "conditional, pack 2, relativistic, r1": of_classes(
        3, {"d": "tanh"}, pack=2, loss="relativistic", gradient_penalty="r1", optimizer=MOMENTUM
    ),
    "conditional, wgan-gp": of_classes(
        3, {"d": "softplus", "dropout": 0.3}, loss="wasserstein", gradient_penalty="wgan-gp", optimizer=SLOW, k=2
    ),
    "conditional, r2, simultaneous": of_classes(3, mode="simultaneous", gradient_penalty="r2", penalty_weight=3.0),
    "conditional, wide": of_classes(21, {"width": 130, "features": 70}, batch_size=100, optimizer=MOMENTUM),
    "one row a batch": row(batch_size=1),
    "a layer of no width": row(no_width),
    "a batch of no round size": row(batch_size=37),
    "a batch of blocks and a rest": row(batch_size=133),
    # 4 and 8 columns behind whole vectors of them; inputs of one block and a half
    **{f"a batch of vectors and a rest, {n} rows": row(of(width=48), batch_size=n) for n in (20, 72)},
}  # fmt: skip


# What the persistent kernel does not compute.
ROWS_OF_GRAPH: dict[str, Row] = {
    "heads": row(with_heads, 14, k=2, generator_steps=2, ema_decay=0.9),
    # A row of 16 numbers ends where a random block does.
    "heads, simultaneous": row(functools.partial(with_heads, width=16), 16, mode="simultaneous", batch_size=37),
    "heads, conditional, wgan-gp": Row(
        functools.partial(with_heads, classes=3), 14,
        {"loss": "wasserstein", "gradient_penalty": "wgan-gp", "optimizer": SLOW}, classes=3,
    ),
    "heads, batch normalisation": row(functools.partial(with_heads, norm=True), 14, optimizer=MOMENTUM, batch_size=133),
    # Each step makes a difference of rounding 1.3 times as large, and the 20th 14 times.
    "residual blocks": row(residual, 7, optimizer=MOMENTUM, k=2, ema_decay=0.9, steps=12),
    "residual blocks, simultaneous, pack 2": row(
        functools.partial(residual, pack=2), 7, optimizer=MOMENTUM, mode="simultaneous", pack=2, max_col_norm=0.8,
        batch_size=19,
    ),
    "residual blocks alone, wgan-gp": row(
        residuals_alone, 8, optimizer=MOMENTUM, gradient_penalty="wgan-gp", nonfinite="skip"
    ),
}  # fmt: skip
ALL_ROWS = ROWS_OF_TABLE | ROWS_OF_GRAPH


def config_of(row: Row, engine: str, **changes: Any) -> TrainConfig:
    usual = {"steps": STEPS, "batch_size": 20, "optimizer": Adam(1e-2), "seed": 5}
    return TrainConfig(**(usual | row.config | {"engine": engine} | changes))


def run(
    row: Row, dtype: torch.dtype, engine: str, run_dir: Path | None = None, resume: bool = False, **changes: Any
) -> tuple[GAN, TrainResult]:
    torch.manual_seed(1)
    gan = row.make(dtype)
    return gan, train(gan, row.data(dtype), config_of(row, engine, **changes), run_dir=run_dir, resume=resume)


def same_bits(one: GAN, other: GAN) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def same_runs(one: tuple[GAN, Any], other: tuple[GAN, Any]) -> bool:
    """Whether two runs have the same bits, their histories too: of results, or of members."""
    a, b = one[1].history, other[1].history
    same_history = all(np.array_equal(values, b[column], equal_nan=True) for column, values in a.items())
    return same_bits(one[0], other[0]) and a.keys() == b.keys() and same_history


def distance(gan: GAN, other: GAN) -> float:
    """The largest difference of any tensor, against that tensor's largest element."""
    return max(
        float((a.double() - b.double()).abs().max() / (a.double().abs().max() + 1e-300))
        for a, b in zip(gan.state_dict().values(), other.state_dict().values(), strict=True)
        if a.numel()
    )
