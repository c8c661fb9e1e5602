"""TrainConfig: everything that decides what a training run computes, in one frozen dataclass."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from fastgan import _options
from fastgan._errors import Invalid
from fastgan._options import (
    DiscriminatorKind,
    EngineName,
    Impl,
    InnerLoop,
    Nonfinite,
    PenaltyKind,
    Precision,
    TrainLoss,
    UpdateMode,
)
from fastgan.losses import GENERATOR
from fastgan.training import plugins
from fastgan.training.optimizers import SGD, Adam, AdamW, Momentum, Optimizer, RMSprop
from fastgan.training.plain import take_plain_numbers
from fastgan.training.plugins import Built, OptimizerFactory, OwnLoss, SchedulerFactory
from fastgan.training.schedules import CosineDecay, ExponentialDecay, LinearDecay, Schedule, StepDecay

invalid = Invalid("TrainConfig")

# generator's loss -> the discriminator's loss it belongs to
DISCRIMINATOR_LOSS: dict[str, DiscriminatorKind] = {kind: of_d for kind, (_, _, of_d) in GENERATOR.items()}
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "mode": _options.names(UpdateMode),
    "inner": _options.names(InnerLoop),
    "engine": _options.names(EngineName),
    "precision": _options.names(Precision),
    "nonfinite": _options.names(Nonfinite),
    "impl": _options.names(Impl),
}
_LEAST = {
    "steps": 0,
    "batch_size": 1,
    "k": 1,
    "generator_steps": 1,
    "unroll": 0,
    "micro_batches": 1,
    "pack": 1,
    "checkpoint_every": 0,
    "keep_checkpoints": 1,
    "instance_noise_steps": 0,
    "seed": 0,
}
_BOUNDS = ("max_col_norm", "max_grad_norm", "max_grad_value", "clip_weights")  # None: no bound
_OPTIONAL = ("ema_decay", *_BOUNDS)
_NOT_NEGATIVE = ("instance_noise", "historical_averaging")
_NUMBERS = ("inner_tolerance", "real_label", "fake_label", "penalty_weight", *_NOT_NEGATIVE, *_OPTIONAL)
_OPTIMIZERS = ("optimizer", "generator_optimizer", "discriminator_optimizer")
_DESCRIBED = (Adam, AdamW, Momentum, SGD, RMSprop, CosineDecay, StepDecay, LinearDecay, ExponentialDecay)
DESCRIPTIONS: dict[str, Any] = {kind.__name__: kind for kind in _DESCRIBED}
_SCHEDULERS = ("scheduler", "generator_scheduler", "discriminator_scheduler")


@dataclass(frozen=True)
class TrainConfig:
    """The numbers of a training: the game (steps to pack), the updates (optimizer to ema_decay), and how it runs.

    Args:
        steps: iterations of Algorithm 1; one iteration is k discriminator steps and then the generator's.
        batch_size: m, the rows of data and of noise in each step.
        k: discriminator steps an iteration; 1 is the paper's choice. A large k keeps D near its optimum.
        generator_steps: generator steps an iteration. More than k invites the "Helvetica scenario" (section 6
            of the paper).
        inner: how D's loop ends: "steps", after k steps, each on fresh noise and data; "optimum", when the norm of D's
            gradient on one real and one fake batch is at most `inner_tolerance`, or after k steps on them (the
            theory's max over D, on samples). For the eager engine.
        inner_tolerance: norm of D's gradient at which it counts as optimal.
        unroll: updates of D that each generator step makes in advance, by D's optimiser on the last minibatch and G's
            noise, and differentiates through: G descends its loss against that later D (unrolled GANs). 0: against the
            present D. For the eager engine.
        loss: the generator's: "non_saturating", "minimax", "mle", "hinge", "least_squares", "wasserstein" or
            "relativistic"; it determines the discriminator's. "feature_matching", in the eager engine: the squared
            distance between the mean hidden features (D's last) of real rows and of fakes. Or, in Python, a pair of
            functions of D's logits that give one number each: the discriminator's (real_logits, fake_logits), and the
            generator's (fake_logits), or (fake_logits, real_logits). For the eager engine.
        real_label: target of D on real data; 0.9 is one-sided label smoothing.
        fake_label: target of D on fakes, below `real_label`; 0.1 beside a real_label of 0.9 is two-sided smoothing.
        gradient_penalty: None, "wgan-gp", "r1" or "r2", added to D's loss; several as
            ("r1", "r2"), or r1,r2 on a command line.
        penalty_weight: weight of the penalty, of each where there are several.
        instance_noise: standard deviation of Gaussian noise on all inputs of D, real and fake. For the eager engine.
        instance_noise_steps: iterations over which it falls linearly to 0; 0: constant.
        historical_averaging: weight of a term in each network's loss: the squared distance of its parameters from
            their average over all updates so far. For the eager engine.
        mode: "alternating", Algorithm 1; "simultaneous", the original code's rule: one real and one fake
            batch for both losses, D's halved, both gradients taken before either update.
        micro_batches: equal parts of each batch that go through the networks one after another, while their gradients
            add up (gradient accumulation, to save memory). Up to rounding the update is that of the whole batch, if
            the losses are means over rows; batch normalisation and dropout masks differ. Above 1 for the eager engine.
        pack: samples that D gets as one input, concatenated along the first axis of a sample (PacGAN's packing). 1:
            one at a time. A step draws `batch_size * pack` rows.
        optimizer: of each network that has none of its own: `Adam`, `AdamW`, `Momentum`, `SGD`, `RMSprop`, or a
            function that makes one of given parameters: a class of `torch.optim`, `functools.partial` of it with its
            arguments, a lambda. It may make a list of optimisers that share them.
        generator_optimizer, discriminator_optimizer: of one network; two rates make the two time-scale rule.
        scheduler: `CosineDecay`, `StepDecay`, `LinearDecay`, `ExponentialDecay`, or a function that makes a
            `torch.optim.lr_scheduler` of a given optimiser, for each network that has none of its own; it steps
            after each update of its network.
        generator_scheduler, discriminator_scheduler: of one network.
        max_grad_norm: greatest norm of all gradients of a network together; larger ones are scaled down before an
            update, as by `torch.nn.utils.clip_grad_norm_`.
        max_grad_value: greatest size of each number of a gradient, clamped before an update and before
            `max_grad_norm`.
        clip_weights: greatest size of each parameter of D, clamped after each of its updates (WGAN).
        max_col_norm: greatest norm of a unit's incoming weights, enforced after each update; None: no bound.
        ema_decay: of the moving average of G's weights, kept in `gan.ema` and used by `gan.sample`; None:
            no average. G's first weights keep a share of `ema_decay**steps`: 37% of 1,000 iterations at 0.999.
        engine: "auto", a compiled one if it supports networks and config, else "eager"; "fused", a compiled one or an
            error with the reason; or one by name: "eager", "cpu", "cuda-graph" or "cuda-persistent".
        precision: of matrix products. "fp32": in the networks' type; on a GPU, tensor cores are used if they reach its
            accuracy. "ieee": the same without tensor cores. "tf32" and "bf16": factors rounded to 11 and 8 bits; sums,
            weights, optimisers and everything else stay in float32. All but "fp32" need a compiled engine and hardware
            support. On a CPU, "bf16" uses AMX tiles or AVX512-BF16, and "tf32" uses AMX alone: each factor is the sum
            of two of 8 bits, an infinite factor gives NaN, and numbers below 1e-35 may be lost. Networks that are
            faster in fp32, such as small ones, keep its products; the result's `engine_reason` says so.
        nonfinite: what happens when a loss or a logit is NaN or infinite: "raise" FloatingPointError when the metrics
            are next read; "skip" the update (parameters, buffers and optimiser keep their values), also if it would
            make one of these not finite; "log" a warning and continue.
        checkpoint_every: iterations between checkpoints; 0: only at the end and on interruption. Needs a run
            folder.
        keep_checkpoints: how many of the newest a run folder keeps.
        seed: of the row order, the noise and the dropout masks.
        device: to which the networks are moved first; None: they are not moved.
        impl: "auto", "native" or "reference" for losses and random numbers; layers carry their own.

    Raises:
        ValueError, TypeError: a field that breaks its rule, named.

    Source: Goodfellow et al. (2014), Algorithm 1; Metz et al. (2017) for unrolling; Lin et al. (2018) for packing.
    """

    # what is played: Algorithm 1 and its losses
    steps: int
    batch_size: int
    k: int = 1
    generator_steps: int = 1
    inner: InnerLoop = "steps"
    inner_tolerance: float = 1e-3
    unroll: int = 0
    loss: TrainLoss | OwnLoss = "non_saturating"
    real_label: float = 1.0
    fake_label: float = 0.0
    gradient_penalty: PenaltyKind | tuple[PenaltyKind, ...] | None = None
    penalty_weight: float = 10.0
    instance_noise: float = 0.0
    instance_noise_steps: int = 0
    historical_averaging: float = 0.0
    mode: UpdateMode = "alternating"
    micro_batches: int = 1
    pack: int = 1
    # what updates the networks
    optimizer: Optimizer | OptimizerFactory = field(default_factory=Adam)
    generator_optimizer: Optimizer | OptimizerFactory | None = None
    discriminator_optimizer: Optimizer | OptimizerFactory | None = None
    scheduler: SchedulerFactory | None = None
    generator_scheduler: SchedulerFactory | None = None
    discriminator_scheduler: SchedulerFactory | None = None
    max_grad_norm: float | None = None
    max_grad_value: float | None = None
    clip_weights: float | None = None
    max_col_norm: float | None = None
    ema_decay: float | None = None
    # how it runs
    engine: EngineName = "auto"
    precision: Precision = "fp32"
    nonfinite: Nonfinite = "raise"
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    seed: int = 0
    device: str | None = None
    impl: Impl = "auto"

    def __post_init__(self) -> None:
        take_plain_numbers(self)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise invalid.type(name, f"must be an integer, got {value!r}")
            if value < least:
                raise invalid.value(name, f"must be at least {least}, got {value}")
        if self.seed >= 2**63:
            raise invalid.value("seed", f"must be below 2**63, got {self.seed}")
        for name in _NUMBERS:
            value = getattr(self, name)
            if not (isinstance(value, int | float) or value is None and name in _OPTIONAL) or isinstance(value, bool):
                raise invalid.type(name, f"must be a number, got {value!r}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                listed = ", ".join(map(str, choices))
                raise invalid.value(name, f"must be one of {listed}, got {getattr(self, name)!r}")
        self._check_optimizers()
        self._check_losses()
        if self.device is not None:
            object.__setattr__(self, "device", _device_name(self.device))

    def _check_optimizers(self) -> None:
        for name in _OPTIMIZERS:
            value = getattr(self, name)
            optional = value is None and name != "optimizer"
            if not (isinstance(value, Optimizer) or callable(value) or optional) or isinstance(value, Schedule):
                raise invalid.type(
                    name,
                    "must be fastgan.Adam, AdamW, Momentum, SGD, RMSprop or a function that makes a "
                    f"torch.optim.Optimizer of given parameters, got {_given(value)}",
                )
        for name in _SCHEDULERS:
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise invalid.type(
                    name,
                    "must be fastgan.CosineDecay, StepDecay, LinearDecay, ExponentialDecay or a function "
                    f"that makes a torch.optim.lr_scheduler of a given optimiser, got {_given(value)}",
                )
        for network in ("generator", "discriminator"):
            (field, scheduler), rule = self.scheduler_of(network), self.optimizer_of(network)
            if scheduler is not None and isinstance(rule, Momentum) and not rule.is_constant:
                raise invalid.value(field, f"must be None where Momentum has a schedule of its own, got {rule!r}")

    def _check_losses(self) -> None:
        own = isinstance(self.loss, tuple | list) and len(self.loss) == 2 and all(map(callable, self.loss))
        if own:
            object.__setattr__(self, "loss", tuple(self.loss))
        elif self.loss not in _options.names(TrainLoss):
            listed = ", ".join(_options.names(TrainLoss))
            raise invalid.value("loss", f"must be one of {listed} or a pair of functions, got {self.loss!r}")
        self._check_penalties()
        if not 0.0 < self.real_label <= 1.0:
            raise invalid.value("real_label", f"must lie in (0, 1], got {self.real_label!r}")
        if not 0.0 <= self.fake_label < self.real_label:
            bounds = f"lie in [0, real_label={self.real_label:g})"
            raise invalid.value("fake_label", f"must {bounds}, got {self.fake_label!r}")
        for name, hard in (("real_label", 1.0), ("fake_label", 0.0)):
            if getattr(self, name) != hard and self.discriminator_loss != "gan":
                loss = repr(self.loss) if isinstance(self.loss, str) else "of one's own"
                raise invalid.value(name, f"must be {hard:g} for loss {loss}, got {getattr(self, name)!r}")
        if not 0.0 <= self.penalty_weight < float("inf"):
            raise invalid.value("penalty_weight", f"must be finite and at least 0, got {self.penalty_weight!r}")
        for name in _NOT_NEGATIVE:
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise invalid.value(name, f"must be finite and at least 0, got {getattr(self, name)!r}")
        if self.loss == "feature_matching" and (self.mode, self.unroll) != ("alternating", 0):
            rule = "must be 'alternating' and 0 for feature_matching"
            raise invalid.value("mode and unroll", f"{rule}, got {self.mode!r} and {self.unroll}")
        for name in _BOUNDS:
            if (bound := getattr(self, name)) is not None and not 0.0 < bound < float("inf"):
                raise invalid.value(name, f"must be above 0 and finite, or None, got {bound!r}")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise invalid.value("ema_decay", f"must lie in (0, 1), got {self.ema_decay!r}")
        if self.mode == "simultaneous":
            for name in ("k", "generator_steps"):
                if getattr(self, name) != 1:
                    raise invalid.value(name, f"must be 1 in simultaneous mode, got {getattr(self, name)}")
        if self.inner == "optimum" and self.k < 2:
            raise invalid.value("k", f"must be at least 2 where inner is 'optimum', got {self.k}")
        if not 0.0 < self.inner_tolerance < float("inf"):
            raise invalid.value("inner_tolerance", f"must be above 0 and finite, got {self.inner_tolerance!r}")
        self._check_micro_batches()
        if self.unroll:
            self._check_unroll()
        if self.generator_steps > 5 * self.k:
            warnings.warn(
                f"TrainConfig: generator_steps={self.generator_steps} with k={self.k} trains G far ahead "
                "of D, which collapses many z to one x (Goodfellow et al. 2014, section 6)",
                stacklevel=4,
            )

    def _check_penalties(self) -> None:
        kinds, known = self.gradient_penalty, _options.names(PenaltyKind)
        if isinstance(kinds, tuple | list):  # a list from JSON
            if not kinds or any(kind in kinds[:i] for i, kind in enumerate(kinds)):
                raise invalid.value("gradient_penalty", f"must name distinct penalties, got {kinds!r}")
            object.__setattr__(self, "gradient_penalty", tuple(kinds) if len(kinds) > 1 else kinds[0])
        for kind in self.penalties:
            if kind not in known:
                listed = ", ".join(("None", *known))
                raise invalid.value("gradient_penalty", f"must be one of {listed}, got {kind!r}")

    def _check_micro_batches(self) -> None:
        if self.batch_size % self.micro_batches:
            rule = f"must divide batch_size={self.batch_size}"
            raise invalid.value("micro_batches", f"{rule}, got {self.micro_batches}")
        refused = "unroll" if self.unroll else "feature_matching" if self.loss == "feature_matching" else None
        if self.micro_batches > 1 and refused:  # the one looks ahead by a whole batch, the other is of its mean
            raise invalid.value("micro_batches", f"must be 1 with {refused}, got {self.micro_batches}")

    def _check_unroll(self) -> None:
        # A penalty looks at fakes without G's graph, and a bound on norms is no smooth function: the gradient that
        # flows through such updates would not be the true one.
        unbounded = ((name, None) for name in _BOUNDS)
        plain = ("mode", "alternating"), ("gradient_penalty", None), ("historical_averaging", 0.0)
        for name, needed in (*plain, *unbounded):
            if (value := getattr(self, name)) != needed:
                raise invalid.value(name, f"must be {needed!r} where unroll is above 0, got {value!r}")
        # The look-ahead writes D's updates out, as functions that have a gradient.
        (field, scheduler), rule = self.scheduler_of("discriminator"), self.optimizer_of("discriminator")
        if scheduler is not None:
            got = plugins.name_of(scheduler)
            raise invalid.value(field, f"must be None where unroll is above 0, got {got}")
        written_out = type(rule) is Adam and not rule.weight_decay or isinstance(rule, Momentum)
        if not written_out:
            field = rule.field if isinstance(rule, Built) else "the discriminator's optimizer"
            got = plugins.name_of(rule.factory) if isinstance(rule, Built) else repr(rule)
            raise invalid.value(
                field,
                f"must be fastgan.Adam without weight decay or fastgan.Momentum where unroll is above 0, got {got}",
            )

    @property
    def discriminator_loss(self) -> DiscriminatorKind | None:
        """The discriminator's loss that belongs to the generator's; None if both are functions."""
        if not isinstance(self.loss, str):
            return None
        return DISCRIMINATOR_LOSS.get(self.loss, "gan")  # "feature_matching" is of D's features, not of its logits

    def instance_noise_at(self, it: int) -> float:
        """The standard deviation of the noise on D's input in an iteration, counted from 0."""
        left = 1.0 - it / self.instance_noise_steps if self.instance_noise_steps else 1.0
        return self.instance_noise * max(left, 0.0)

    @property
    def threshold(self) -> float:
        """The logit above which D classifies a row as real: D's optimum where p_g = p_data."""
        middle = (self.real_label + self.fake_label) / 2
        if self.discriminator_loss == "least_squares":
            return middle  # its D gives the target itself
        return math.log(middle / (1 - middle)) if self.discriminator_loss == "gan" else 0.0

    @property
    def generator_sees_real(self) -> bool:
        """Whether the generator's loss depends on D's logits of real data."""
        if isinstance(self.loss, str):
            return self.loss == "relativistic"
        return plugins.takes_real_logits(self.loss[1])

    @property
    def penalties(self) -> tuple[PenaltyKind, ...]:
        """All penalties in D's loss."""
        kinds = self.gradient_penalty
        return kinds if isinstance(kinds, tuple) else () if kinds is None else (kinds,)

    def with_ema_for_its_length(self) -> TrainConfig:
        """This config with a decay of the moving average, at most its own, that suits its number of iterations.

        The average begins at G's first weights, whose share at the end is `ema_decay**steps`: 14% after 2,000
        iterations at 0.999, a grey veil in pictures. In a short training this share is below e^-10 then.
        """
        if self.ema_decay is None:
            return self
        return dataclasses.replace(self, ema_decay=min(self.ema_decay, 1.0 - 10.0 / max(self.steps, 20)))

    def optimizer_of(self, network: str) -> Optimizer | Built:
        """The optimiser of the "generator" or the "discriminator"."""
        name = f"{network}_optimizer" if getattr(self, f"{network}_optimizer") is not None else "optimizer"
        rule = getattr(self, name)
        return rule if isinstance(rule, Optimizer) else Built(rule, name)

    @property
    def optimizer_of_generator(self) -> Optimizer | Built:
        """The optimiser of G."""
        return self.optimizer_of("generator")

    @property
    def optimizer_of_discriminator(self) -> Optimizer | Built:
        """The optimiser of D."""
        return self.optimizer_of("discriminator")

    def clip_weights_of(self, network: str) -> float | None:
        """The bound of each parameter; only the "discriminator" has one."""
        return self.clip_weights if network == "discriminator" else None

    def scheduler_of(self, network: str) -> tuple[str, SchedulerFactory | None]:
        """The field with the scheduler of the "generator" or the "discriminator", and what is there."""
        own = f"{network}_scheduler"
        name = own if getattr(self, own) is not None else "scheduler"
        return name, getattr(self, name)

    def __eq__(self, other: object) -> bool:
        """Field by field; two `functools.partial` are equal where they call the same with equal arguments."""
        if type(other) is not type(self):
            return NotImplemented
        names = [item.name for item in dataclasses.fields(self)]
        return all(_comparable(getattr(self, name)) == _comparable(getattr(other, name)) for name in names)

    def __hash__(self) -> int:
        return hash((self.steps, self.batch_size, self.seed))

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON; `from_dict` reads it back.

        A function is described by its name. `from_dict` refuses that: replace it by the function first.
        """
        values: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Optimizer | Schedule):
                value = {"type": type(value).__name__, **dataclasses.asdict(value)}
                value = {key: list(part) if isinstance(part, tuple) else part for key, part in value.items()}
            elif callable(value) or item.name == "loss" and not isinstance(value, str):
                value = plugins.describe(value)
            elif isinstance(value, tuple):
                value = list(value)
            values[item.name] = value
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """The config that `as_dict` described.

        Raises:
            ValueError, TypeError: an unknown field, or one that breaks its rule.
        """
        if not isinstance(values, dict):
            raise invalid.type("it", f"must be described by an object, got {values!r}")
        fields = dataclasses.fields(cls)
        known = {item.name for item in fields}
        needed = [item.name for item in fields if dataclasses.MISSING == item.default == item.default_factory]
        if unknown := sorted(set(values) - known):
            raise invalid.value(f"unknown field {unknown[0]!r}")
        if missing := [name for name in needed if name not in values]:
            raise invalid.value(missing[0], "must be given, got none")
        read: dict[str, Any] = {
            name: _recalled(name, value) if isinstance(value, dict) else value for name, value in values.items()
        }
        return cls(**read)


def _recalled(field: str, values: dict[str, Any]) -> Any:
    kind = values.get("type")
    if kind not in DESCRIPTIONS:
        return plugins.recall(values)
    given = {name: value for name, value in values.items() if name != "type"}
    known = [item.name for item in dataclasses.fields(DESCRIPTIONS[kind])]
    if unknown := sorted(set(given) - set(known)):
        raise invalid.value(field, f"must have fields of {kind}: {', '.join(known)}, got {unknown[0]!r}")
    try:
        return DESCRIPTIONS[kind](**given)
    except TypeError as error:  # a text for a number
        raise invalid.type(field, f"must describe {kind}, got {values} ({error})") from None


def _comparable(value: Any) -> Any:
    """A partial by what it calls: by itself it equals no other one."""
    if isinstance(value, functools.partial):
        return functools.partial, value.func, value.args, value.keywords
    return tuple(map(_comparable, value)) if isinstance(value, tuple) else value


def _given(value: object) -> str:
    built = isinstance(value, torch.optim.Optimizer | LRScheduler)
    return f"{type(value).__name__} that is already built" if built else repr(value)


def _device_name(device: object) -> str:
    try:
        return str(torch.device(device))  # type: ignore[call-overload]
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise invalid.value("device", f"must name a torch device, got {device!r} ({reason})") from None
