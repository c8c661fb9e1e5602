"""Random training plans that the compiled engine can run: networks, data and a config from one number."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fastgan.nn
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
)
from fastgan.data import Dataset

ACTIVATIONS: dict[str, Any] = {
    "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "elu": nn.ELU,
    "softplus": nn.Softplus, "gelu": nn.GELU,
}  # fmt: skip
LOSSES = ("non_saturating", "minimax", "mle", "hinge", "least_squares", "wasserstein", "relativistic")


@dataclass(frozen=True)
class Plan:
    """A run: the same networks each time `gan()` is called."""

    number: int
    dtype: torch.dtype
    networks: tuple[nn.Module, nn.Module]
    latent: int
    prior: str
    classes: int  # of a conditional model, whose data have labels; 0: none
    data: Tensor | Dataset
    config: TrainConfig
    chunks: tuple[int, ...]
    threads: int

    def gan(self) -> GAN:
        import copy

        generator, discriminator = copy.deepcopy(self.networks)
        return GAN(generator, discriminator, latent_dim=self.latent, prior=self.prior, classes=self.classes)

    def __str__(self) -> str:
        config = {k: v for k, v in vars(self.config).items() if v != getattr(TrainConfig(1, 1), k, None)}
        return f"plan {self.number}: {self.dtype}, {self.threads} threads, {config}\n{self.gan()}"


class Maker:
    """Draws what a plan consists of."""

    def __init__(self, name: str) -> None:
        self.r = random.Random(name)

    def maybe(self, probability: float) -> bool:
        return self.r.random() < probability

    def width(self) -> int:
        if self.maybe(0.1):
            return self.r.randint(33, 140)
        return self.r.choice([1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33])

    def activation(self, smooth: bool) -> tuple[str, float]:
        names = [n for n in ACTIVATIONS if not smooth or n not in ("relu", "leaky_relu")]
        return self.r.choice(names), self.r.choice([0.01, 0.2, 0.5])

    def module(self, name: str, derivative: float) -> nn.Module:
        return nn.LeakyReLU(derivative) if name == "leaky_relu" else ACTIVATIONS[name]()

    def network(self, inputs: int, outputs: int, *, norm: bool, drop: float, pieces: bool) -> nn.Module:
        """Of widths, layers and containers of any kind that the engine takes."""
        widths = [inputs, *(self.width() for _ in range(self.r.randint(0, 3))), outputs]
        if not norm and not pieces and self.maybe(0.4):
            name, derivative = self.activation(False)
            return fastgan.nn.MLP(
                widths, activation=name, negative_slope=derivative, bias=self.maybe(0.8),
                output_activation=self.r.choice([None, None, "tanh", "sigmoid"]),
                dropout=drop, input_dropout=self.r.choice([0.0, drop]),
            )  # fmt: skip
        modules: list[nn.Module] = [nn.Flatten()] if self.maybe(0.1) else []
        if drop and self.maybe(0.3):
            modules.append(fastgan.nn.Dropout(drop))
        for i, (fan_in, units) in enumerate(zip(widths, widths[1:], strict=False)):
            modules += self.layer(fan_in, units, last=i == len(widths) - 2, norm=norm, drop=drop, pieces=pieces)
        if len(modules) > 3 and self.maybe(0.15):  # the front in a Sequential of its own
            cut = self.r.randint(1, len(modules) - 1)
            modules = [self.container(modules[:cut]), *modules[cut:]]
        return self.container(modules)

    def container(self, modules: list[nn.Module]) -> nn.Module:
        return (fastgan.nn.Sequential if self.maybe(0.7) else nn.Sequential)(*modules)

    def layer(self, fan_in: int, units: int, *, last: bool, norm: bool, drop: float, pieces: bool) -> list[nn.Module]:
        name, derivative = self.activation(False)
        bias = self.maybe(0.8)
        if pieces and self.maybe(0.5):
            made: list[nn.Module] = [fastgan.nn.Maxout(fan_in, units, self.r.randint(1, 5), bias=bias)]
        elif self.maybe(0.3):
            inside = None if last else name
            made = [fastgan.nn.Linear(fan_in, units, activation=inside, negative_slope=derivative, bias=bias)]
        else:
            made = [nn.Linear(fan_in, units, bias=bias)]
            if norm and not last and self.maybe(0.7):
                made.append(
                    nn.BatchNorm1d(
                        units,
                        affine=self.maybe(0.7),
                        momentum=self.r.choice([0.1, 0.3, 0.9]),
                        eps=self.r.choice([1e-5, 1e-3]),
                        track_running_stats=self.maybe(0.8),
                    )  # fmt: skip
                )
            if not last or self.maybe(0.2):
                made.append(self.module(name, derivative))
            elif self.maybe(0.1):
                made.append(nn.Identity())
        if drop and self.maybe(0.5) and not (last and self.maybe(0.8)):
            made.append(fastgan.nn.Dropout(drop))
        return made

    def optimizer(self, large_epsilon: bool) -> Adam | Momentum:
        """Where a gradient may be zero in theory, Adam would blow its rounding up to a step: there epsilon is large."""
        if self.maybe(0.55):
            return Adam(
                self.r.choice([1e-3, 1e-2]), betas=self.r.choice([(0.5, 0.999), (0.9, 0.99), (0.0, 0.9)]),
                eps=1e-2 if large_epsilon else self.r.choice([1e-8, 1e-6, 1e-3]),
            )  # fmt: skip
        schedule: dict[str, Any] = {}
        if self.maybe(0.4):
            schedule = {"lr_decay": self.r.choice([1.01, 1.3]), "min_lr": self.r.choice([0.0, 0.02])}
        if self.maybe(0.4):
            schedule |= {"momentum_final": self.r.choice([0.3, 0.9]), "saturate_epochs": self.r.choice([1.0, 3.0])}
        return Momentum(
            self.r.choice([0.01, 0.05]), momentum=self.r.choice([0.2, 0.5, 0.9]),
            convention=self.r.choice(["torch", "pylearn2"]), **schedule,
        )  # fmt: skip

    def optimizer_of_torch(self) -> Adam | AdamW | SGD | RMSprop:
        """With any decay of the weights; a large epsilon for the reason of `optimizer`."""
        lr, decay, momentum = (self.r.choice(x) for x in ([1e-3, 1e-2], [0.0, 0.1, 2.0], [0.0, 0.5, 0.9]))
        kind = self.r.choice([Adam, AdamW, SGD, RMSprop])
        if kind is SGD:
            return SGD(5 * lr, momentum, nesterov=momentum > 0 and self.maybe(0.5), weight_decay=decay)
        if kind is RMSprop:
            return RMSprop(lr, self.r.choice([0.0, 0.9, 0.99]), 1e-2, momentum, decay)
        return kind(lr, self.r.choice([(0.5, 0.999), (0.0, 0.9)]), 1e-2, decay)

    def scheduler(self) -> Any:
        updates = self.r.choice([1, 2, 3, 8])
        return self.r.choice([
            CosineDecay(updates, self.r.choice([0.0, 5e-4])), StepDecay(updates, 0.5), LinearDecay(updates, 1.0, 0.2),
            ExponentialDecay(0.8),
        ])  # fmt: skip

    def residuals(self, inputs: int) -> tuple[list[nn.Module], int]:
        """Layers that give their input on, and the width behind them."""
        made: list[nn.Module] = []
        for _ in range(self.r.randint(1, 3)):
            made.append(fastgan.nn.Residual(inputs, features := self.width()))
            inputs += features
        return made, inputs

    def penalties(self, one: Any) -> Any:
        """Sometimes several where there is one."""
        kinds = ["wgan-gp", "r1", "r2"]
        return tuple(self.r.sample(kinds, self.r.randint(1, 3))) if one and self.maybe(0.4) else one

    def heads(self, features: int) -> fastgan.nn.Heads:
        groups = []
        while features:
            groups.append((self.r.choice(["none", "tanh", "softmax", "gumbel_softmax"]), self.r.randint(1, features)))
            features -= groups[-1][1]
        return fastgan.nn.Heads(groups, tau=self.r.choice([0.2, 0.7, 1.0]))


def random_plan(number: int) -> Plan:
    """Plan `number`; the same on every machine."""
    m, more = Maker(f"plan {number}"), Maker(f"more of plan {number}")
    r = m.r
    torch.manual_seed(number)
    dtype = r.choice([torch.float64, torch.float64, torch.float32])
    features = r.choice([1, 2, 3, 5, 8, 16, 17, 40])
    pack, latent = r.choice([1, 1, 1, 2, 3]), r.choice([1, 2, 3, 8, 17])
    batch = r.choice([1, 2, 3, 5, 8, 15, 16, 17, 20, 32, 33, 48, 64, 100, 133, 200])
    penalty = r.choice([None, None, "wgan-gp", "r1", "r2"])
    classes = random.Random(f"classes {number}").choice([0, 0, 0, 1, 2, 10])
    norm_g, norm_d = m.maybe(0.25) and batch > 1, m.maybe(0.25) and batch > 1 and penalty is None
    with_heads, residual_g, residual_d = more.maybe(0.25), more.maybe(0.2), more.maybe(0.2)
    networks = []
    for inputs, outputs, norm, drops, pieces, residual, ends in (
        (latent + classes, features, norm_g, [0.0, 0.0, 0.0, 0.3], 0.1, residual_g, with_heads),
        ((features + classes) * pack, 0, norm_d, [0.0, 0.0, 0.3, 0.5], 0.3, residual_d and penalty is None, False),
    ):
        front, behind = [], []
        outputs = outputs or r.choice([1, 1, 1, 2, 3])
        drop = r.choice(drops)
        if residual and batch > 1:
            (front, inputs), drop = more.residuals(inputs), 0.0  # no dropout may follow them
        if ends:
            behind = [nn.Linear(width := more.width(), outputs), more.heads(outputs)]
            outputs = width
        network = m.network(inputs, outputs, norm=norm, drop=drop, pieces=m.maybe(pieces))
        networks.append(more.container([*front, network, *behind]) if front or behind else network)
    generator, discriminator = networks
    frozen = m.maybe(0.1)
    if frozen:
        for network in (generator, discriminator):
            r.choice(list(network.parameters())[:-1] or [torch.empty(0)]).requires_grad_(False)
    loss = r.choice(LOSSES)
    mode = r.choice(["alternating", "alternating", "simultaneous"])
    nonfinite = r.choice(["raise", "log", "skip"])
    steps = r.randint(2, 5)
    # A bound makes the pieces of a maxout of one input equal, and rounding decides between them.
    thin = any(isinstance(m, fastgan.nn.Maxout) and m.in_features == 1
               for network in (generator, discriminator) for m in network.modules())  # fmt: skip
    config = TrainConfig(
        steps, batch,
        k=1 if mode == "simultaneous" else r.choice([1, 1, 2, 3]),
        generator_steps=1 if mode == "simultaneous" else r.choice([1, 1, 2]),
        generator_optimizer=m.optimizer(True), discriminator_optimizer=m.optimizer(True),
        loss=loss, real_label=(label := r.choice([1.0, 0.9, 0.7]) if loss in LOSSES[:3] else 1.0),
        fake_label=0.2 if label == 0.7 else 0.0,
        gradient_penalty=more.penalties(penalty), penalty_weight=r.choice([0.0, 0.5, 10.0]), mode=mode, pack=pack,
        ema_decay=r.choice([None, None, 0.5, 0.99]),
        max_col_norm=None if frozen or thin else r.choice([None, None, 0.3, 1.0]),
        nonfinite=nonfinite, seed=r.choice([0, 1, r.randrange(2**63)]), engine="fused",
    )  # fmt: skip
    rows = batch * pack
    data = torch.randn(rows + r.randint(0, 3 * rows), features, dtype=dtype)
    if nonfinite == "skip" and dtype == torch.float64 and loss == "least_squares" and m.maybe(0.7):
        data[r.randrange(len(data))] = 1e200  # the loss of its batch overflows, where D is not bounded
    labels = torch.arange(len(data)) % classes if classes else None
    cut = r.randint(1, steps)
    config = dataclasses.replace(
        config,
        max_grad_norm=r.choice([None, None, None, 0.1, 1.0]), max_grad_value=r.choice([None, None, None, 0.01]),
        clip_weights=r.choice([None, None, None, 0.1]),
    )  # fmt: skip
    for name in ("generator", "discriminator"):
        own = {}
        if more.maybe(0.5):
            own[f"{name}_optimizer"] = more.optimizer_of_torch()
        rule = own.get(f"{name}_optimizer", config.optimizer_of(name))
        if more.maybe(0.4) and not (isinstance(rule, Momentum) and not rule.is_constant):
            own[f"{name}_scheduler"] = more.scheduler()
        config = dataclasses.replace(config, **own)
    # Clipped weights are equal numbers: pieces of a maxout become equal, and products cancel. Rounding would decide
    # between the pieces, and whether a derivative is 0 and the penalty (norm - 1)^2 pushes it. The plan is changed
    # last: no draw depends on it.
    pieces = any(isinstance(m, fastgan.nn.Maxout) and m.pieces > 1 for m in discriminator.modules())
    if config.clip_weights is not None and (pieces or "wgan-gp" in config.penalties):
        config = dataclasses.replace(config, clip_weights=None)
    return Plan(
        number, dtype, (generator.to(dtype), discriminator.to(dtype)), latent,
        r.choice(["normal", "uniform", "spherical"]), classes,
        data if labels is None else Dataset(data, labels=labels, dtype=dtype), config,
        () if cut == steps else (cut,), r.randint(1, 5),
    )  # fmt: skip
