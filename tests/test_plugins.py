"""Optimisers, schedulers, bounds and losses of others: the eager engine is plain PyTorch written out, to 1e-10."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from fastgan import GAN, reference
from fastgan._backend import native
from fastgan.random import Purpose
from fastgan.training import SGD as Sgd
from fastgan.training import (
    Adam,
    AdamW,
    CosineDecay,
    ExponentialDecay,
    LinearDecay,
    Momentum,
    RMSprop,
    StepDecay,
    TrainConfig,
    train,
)
from fastgan.training.engines.updater import Updater

DATA = torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
STEPS, SIZE = 12, 8


def config(**fields: Any) -> TrainConfig:
    return TrainConfig(**{"steps": STEPS, "batch_size": SIZE, "seed": 3, **fields})


def new_gan(dtype: torch.dtype = torch.float64) -> GAN:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
    discriminator = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    return GAN(generator, discriminator, latent_dim=2).to(dtype)


def noise(purpose: Purpose, step: int) -> Tensor:
    return reference.random_normal(SIZE * 2, seed=3, purpose=int(purpose), step=step, substream=0).view(SIZE, 2)


def real_rows(draw: int, data: Tensor = DATA) -> Tensor:
    epoch, batch = divmod(draw, len(data) // SIZE)
    purpose = int(Purpose.ROWS)
    return data[reference.permutation(len(data), seed=3, epoch=epoch, start=batch * SIZE, count=SIZE, purpose=purpose)]


def log_losses(real: Tensor, fake: Tensor) -> Tensor:
    return nn.functional.softplus(-real).mean() + nn.functional.softplus(fake).mean()


def wasserstein_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    return fake_logits.mean() - real_logits.mean()


def wasserstein_g(fake_logits: Tensor) -> Tensor:
    return -fake_logits.mean()


def pairing_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    return nn.functional.softplus(fake_logits - real_logits).mean()


def pairing_g(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    return nn.functional.softplus(real_logits - fake_logits).mean()


def plain_torch(
    make: Callable[[list[Tensor]], Any],
    schedule: Callable[[Any], Any] | None = None,
    *,
    before: Callable[[list[Tensor]], Any] = lambda parameters: None,
    after_d: Callable[[list[Tensor]], Any] = lambda parameters: None,
    loss_d: Callable[[Tensor, Tensor], Tensor] = log_losses,
    loss_g: Callable[[Tensor, Tensor], Tensor] = lambda fake, real: nn.functional.softplus(-fake).mean(),
    penalty: Callable[[nn.Module, Tensor, Tensor], Tensor | float] = lambda d, real, fake: 0.0,
    rows: Callable[[int], Tensor] = real_rows,
    k: int = 1,
    steps: int = STEPS,
) -> GAN:
    """The loop that a user of PyTorch writes."""
    gan = new_gan()
    players = []
    for network in (gan.discriminator, gan.generator):
        made = make(list(network.parameters()))
        optimizers = made if isinstance(made, list) else [made]
        schedulers = [schedule and schedule(optimizer) for optimizer in optimizers]
        players.append((list(network.parameters()), optimizers, schedulers))

    def update(player: Any, loss: Tensor) -> None:
        parameters, optimizers, schedulers = player
        gan.zero_grad()
        loss.backward()
        before(parameters)
        for each in (*optimizers, *filter(None, schedulers)):
            each.step()

    for it in range(steps):
        for draw in range(it * k, (it + 1) * k):
            real, fake = rows(draw), gan.generator(noise(Purpose.NOISE_D, draw)).detach()
            loss = loss_d(gan.discriminator(real), gan.discriminator(fake)) + penalty(gan.discriminator, real, fake)
            update(players[0], loss)
            after_d(players[0][0])
        on_fake = gan.discriminator(gan.generator(noise(Purpose.NOISE_G, it)))
        update(players[1], loss_g(on_fake, gan.discriminator(real)))
    return gan


def distance(a: GAN, b: GAN) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


def moved(gan: GAN) -> float:
    return distance(gan, new_gan())


OPTIMIZERS: dict[str, Any] = {
    "RMSprop": functools.partial(torch.optim.RMSprop, lr=1e-2),
    "RMSprop, centered": lambda params: torch.optim.RMSprop(params, 1e-2, centered=True, momentum=0.5),
    "SGD": functools.partial(torch.optim.SGD, lr=0.1),
    "SGD, nesterov, decay": lambda params: torch.optim.SGD(params, 0.1, 0.9, weight_decay=0.01, nesterov=True),
    "Adam": torch.optim.Adam,
    "Adam, weight decay": functools.partial(torch.optim.Adam, lr=1e-2, weight_decay=0.1),
    "AdamW": functools.partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1),
    "NAdam": torch.optim.NAdam,
    "RAdam": functools.partial(torch.optim.RAdam, lr=1e-2),
    "Adamax": torch.optim.Adamax,
    "Adagrad": torch.optim.Adagrad,
    "Adadelta": torch.optim.Adadelta,
    "ASGD": functools.partial(torch.optim.ASGD, lr=0.1, t0=3),
    "Rprop": functools.partial(torch.optim.Rprop, lr=1e-3),
    "Adafactor": torch.optim.Adafactor,
    "two groups": lambda params: torch.optim.SGD([{"params": params[:2], "lr": 0.2}, {"params": params[2:]}], lr=0.05),
    "Adagrad and SGD": lambda params: [torch.optim.Adagrad(params[:1]), torch.optim.SGD(params[1:], 0.1, 0.9)],
}
if hasattr(torch.optim, "Muon"):  # from PyTorch 2.9 on
    OPTIMIZERS["Muon and AdamW"] = lambda params: [
        torch.optim.Muon([p for p in params if p.ndim == 2], lr=0.02),
        torch.optim.AdamW([p for p in params if p.ndim != 2]),
    ]
SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.5)
SCHEDULERS: dict[str, Any] = {
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 10),
    "step": functools.partial(lr_scheduler.StepLR, step_size=3, gamma=0.5),
    "multi-step": functools.partial(lr_scheduler.MultiStepLR, milestones=[2, 5, 5, 9]),
    "linear": lr_scheduler.LinearLR,
    "exponential": functools.partial(lr_scheduler.ExponentialLR, gamma=0.9),
    "one cycle": functools.partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=40),
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda t: 1.0 / (1.0 + t)),
    "warm-up, then cosine": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4), lr_scheduler.CosineAnnealingLR(optimizer, 8)],
        milestones=[4],
    ),
    "constant": functools.partial(lr_scheduler.ConstantLR, factor=0.5, total_iters=6),
    "multiplicative": lambda optimizer: lr_scheduler.MultiplicativeLR(optimizer, lambda t: 0.9),
    "polynomial": functools.partial(lr_scheduler.PolynomialLR, total_iters=20, power=2.0),
    "warm restarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 5),
    "cyclic": functools.partial(lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=4),
    "chained": lambda optimizer: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer, 0.5, 6), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    ),
}


COMPILED = ("RMSprop", "SGD", "SGD, nesterov, decay", "Adam", "Adam, weight decay", "AdamW")
ENGINES = ("eager", pytest.param("cpu", marks=pytest.mark.skipif(native is None, reason="it is compiled")))


@pytest.mark.parametrize("engine", ["eager", "auto"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_of_torch_is_plain_torch(name: str, engine: str) -> None:
    gan, make = new_gan(), OPTIMIZERS[name]
    result = train(gan, DATA, config(optimizer=make, engine=engine))
    compiled = native is not None and engine == "auto" and name in COMPILED
    assert result.engine == ("cpu" if compiled else "eager")
    if native is not None and engine == "auto" and not compiled:
        assert re.match(r"config\.optimizer (is|has) ", result.engine_reason)
    assert distance(gan, plain_torch(make)) < 1e-10 < 1e-4 < moved(gan)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_steps_after_each_update(name: str, engine: str) -> None:
    gan, schedule = new_gan(), SCHEDULERS[name]
    result = train(gan, DATA, config(optimizer=SGD, scheduler=schedule, k=2, engine=engine))
    assert result.engine == engine
    assert distance(gan, plain_torch(SGD, schedule, k=2)) < 1e-10
    assert distance(gan, plain_torch(SGD, k=2)) > 1e-4  # the schedule tells


OWN: dict[str, tuple[dict[str, Any], Any, Any]] = {  # fields of the config, and what PyTorch calls the same
    "fastgan.Adam": ({"optimizer": Adam(1e-2)}, functools.partial(torch.optim.Adam, lr=1e-2, betas=(0.5, 0.999)), None),
    "fastgan.AdamW": (
        {"optimizer": AdamW(1e-2, weight_decay=0.1)},
        functools.partial(torch.optim.AdamW, lr=1e-2, betas=(0.5, 0.999), weight_decay=0.1),
        None,
    ),
    "fastgan.Momentum": ({"optimizer": Momentum(0.1)}, SGD, None),
    "fastgan.SGD": (
        {"optimizer": Sgd(0.1, 0.9, nesterov=True)},
        functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
        None,
    ),
    "fastgan.RMSprop": ({"optimizer": RMSprop(1e-2)}, functools.partial(torch.optim.RMSprop, lr=1e-2), None),
    "fastgan.CosineDecay": (
        {"optimizer": Adam(1e-2), "scheduler": CosineDecay(10)},
        functools.partial(torch.optim.Adam, lr=1e-2, betas=(0.5, 0.999)),
        SCHEDULERS["cosine"],
    ),
    "fastgan.StepDecay": (
        {"optimizer": Momentum(0.1), "scheduler": StepDecay(3, 0.5)}, SGD, SCHEDULERS["step"]
    ),
    "fastgan.LinearDecay": (
        {"optimizer": Momentum(0.1), "scheduler": LinearDecay(5, 1 / 3, 1.0)}, SGD, SCHEDULERS["linear"]
    ),
    "fastgan.ExponentialDecay": (
        {"optimizer": Momentum(0.1), "scheduler": ExponentialDecay(0.9)}, SGD, SCHEDULERS["exponential"]
    ),
    "a scheduler of torch": (
        {"optimizer": Momentum(0.1), "scheduler": SCHEDULERS["cosine"]}, SGD, SCHEDULERS["cosine"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", OWN)
def test_own_optimisers_and_schedules_are_those_of_torch(name: str, engine: str) -> None:
    fields, make, schedule = OWN[name]
    gan = new_gan()
    assert train(gan, DATA, config(engine=engine, **fields)).engine == engine
    assert distance(gan, plain_torch(make, schedule)) < 1e-10 < 1e-4 < moved(gan)
    if schedule is not None:
        assert distance(gan, plain_torch(make)) > 1e-4  # the schedule tells


def test_a_scheduler_goes_back_to_the_updates_that_were_made() -> None:
    """A launch took the rates of five updates, and made two."""
    fields = config(optimizer=SGD, scheduler=lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.5))
    updater = Updater.of(fields, "generator", new_gan())
    rates, _ = updater.take(range(5))
    updater.commit(2)
    assert rates[:3] == [rates[0], rates[0] / 2, rates[0] / 4]
    assert updater.optimizer.param_groups[0]["lr"] == rates[2]
    assert updater.take(range(2, 5))[0] == rates[2:]
    updater.commit(3)  # of the updates from 2 on, one
    assert updater.optimizer.param_groups[0]["lr"] == rates[3]


@pytest.mark.parametrize("name", ["cosine", "step", "chained"])
def test_a_scheduler_is_of_all_optimisers_that_share_a_network(name: str) -> None:
    gan, make, schedule = new_gan(), OPTIMIZERS["Adagrad and SGD"], SCHEDULERS[name]
    train(gan, DATA, config(optimizer=make, scheduler=schedule))
    assert distance(gan, plain_torch(make, schedule)) < 1e-10 < 1e-4 < distance(gan, plain_torch(make))


def test_each_network_has_its_own() -> None:
    gan = new_gan()
    fields = {"generator_optimizer": SGD, "discriminator_scheduler": SCHEDULERS["step"], "optimizer": torch.optim.Adam}
    train(gan, DATA, config(**fields))

    def make(params: list[Tensor]) -> torch.optim.Optimizer:
        return (SGD if len(params[0][0]) == 2 else torch.optim.Adam)(params)

    def schedule(optimizer: Any) -> Any:
        return SCHEDULERS["step"](optimizer) if isinstance(optimizer, torch.optim.Adam) else None

    assert distance(gan, plain_torch(make, schedule)) < 1e-10


def clamp_(parameters: list[Tensor]) -> None:
    with torch.no_grad():
        for p in parameters:
            p.clamp_(-0.01, 0.01)


BOUNDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "norm": ({"max_grad_norm": 0.05}, {"before": lambda ps: nn.utils.clip_grad_norm_(ps, 0.05)}),
    "value": ({"max_grad_value": 0.01}, {"before": lambda ps: nn.utils.clip_grad_value_(ps, 0.01)}),
    "both": (
        {"max_grad_norm": 0.05, "max_grad_value": 0.01},
        {"before": lambda ps: (nn.utils.clip_grad_value_(ps, 0.01), nn.utils.clip_grad_norm_(ps, 0.05))},
    ),
    "weights": ({"clip_weights": 0.01}, {"after_d": clamp_}),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_on_gradients_and_weights_are_plain_torch(name: str, engine: str) -> None:
    fields, loop = BOUNDS[name]
    gan = new_gan()
    result = train(gan, DATA, config(optimizer=Momentum(0.1), k=2, engine=engine, **fields))
    assert result.engine == engine and result.engine_reason == f"config.engine is {engine!r}"
    assert distance(gan, plain_torch(SGD, k=2, **loop)) < 1e-10
    assert distance(gan, plain_torch(SGD, k=2)) > 1e-4  # the bound tells


# ---------------------------------------------------------------- bad input


def other(_: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)


BAD: dict[str, dict[str, Any]] = {
    "config.optimizer must update the parameters it is given, got 2 others": {"optimizer": other},
    "config.optimizer must update all 4 parameters it is given, got 2 left out": {
        "optimizer": lambda params: torch.optim.SGD(params[:2], 0.1)
    },
    "config.optimizer must give a torch.optim.Optimizer, got list": {"optimizer": list},
    "config.generator_optimizer must build from what it is given, got no": {
        "generator_optimizer": lambda params: (_ for _ in ()).throw(RuntimeError("no"))
    },
    "must give an optimiser whose step needs no closure, got LBFGS": {"optimizer": torch.optim.LBFGS},
    "must give an optimiser of dense gradients, got SparseAdam": {"optimizer": torch.optim.SparseAdam},
    "must update all 4 parameters it is given, got 1 left out": {
        "optimizer": lambda params: (torch.optim.Adam(params[:2]), torch.optim.SGD(params[2:3]))
    },
    "got some parameters appear in more than one parameter group": {
        "optimizer": lambda params: (torch.optim.Adam(params), torch.optim.SGD(params[2:]))
    },
    "got 'fused': config.optimizer is Adagrad and SGD, which PyTorch alone computes": {
        "optimizer": OPTIMIZERS["Adagrad and SGD"], "engine": "fused"
    },
    "config.scheduler must give a torch.optim.lr_scheduler.LRScheduler, got SGD": {"scheduler": other},
    "config.scheduler must schedule the optimiser it is given, got StepLR of another": {
        "scheduler": lambda _: lr_scheduler.StepLR(other(None), 3)
    },
    "got ReduceLROnPlateau": {"scheduler": lr_scheduler.ReduceLROnPlateau},
    "optimizer must be fastgan.Adam, AdamW, Momentum, SGD, RMSprop or a function": {"optimizer": other(None)},
    "scheduler must be fastgan.CosineDecay, StepDecay, LinearDecay, ExponentialDecay or a function": {
        "scheduler": lr_scheduler.StepLR(other(None), 3)
    },
    "scheduler must be None where Momentum has a schedule": {
        "scheduler": SCHEDULERS["step"], "optimizer": Momentum(0.1, lr_decay=1.1)
    },
    "max_grad_norm must be above 0": {"max_grad_norm": 0.0},
    "clip_weights must be above 0": {"clip_weights": float("nan")},
    "scheduler must be None where unroll": {"scheduler": SCHEDULERS["step"], "unroll": 2},
    "optimizer must be fastgan.Adam without weight decay or fastgan.Momentum where unroll": {
        "optimizer": SGD, "unroll": 2
    },
    "max_grad_norm must be None where unroll": {"max_grad_norm": 1.0, "unroll": 2},
    "loss must be one of non_saturating": {"loss": (wasserstein_d, "hinge")},
    "or a pair of functions, got (": {"loss": (wasserstein_d,)},
    "the discriminator's must take 2 Tensors of logits, got": {"loss": (wasserstein_g, wasserstein_g)},
    "the generator's must give one floating number, as a Tensor of no dimension, got shape (2, 1)": {
        "loss": (wasserstein_d, torch.neg)
    },
    "the generator's must depend on the logits": {"loss": (wasserstein_d, lambda fake: torch.tensor(1.0))},
    "the discriminator's must give one floating number, as a Tensor of no dimension, got float": {
        "loss": (lambda real, fake: 1.0, wasserstein_g)
    },
    "gradient_penalty must name distinct penalties": {"gradient_penalty": ("r1", "r1")},
    "gradient_penalty must be one of None, wgan-gp, r1, r2, got 'r3'": {"gradient_penalty": ("r1", "r3")},
    "real_label must be 1 for loss of one's own": {"loss": (wasserstein_d, wasserstein_g), "real_label": 0.9},
    "must be 'auto' or 'eager' here, got 'fused': config.loss is": {
        "loss": (wasserstein_d, wasserstein_g), "engine": "fused"
    },
    "must be 'auto' or 'eager' here, got 'fused': config.optimizer is NAdam, which PyTorch alone computes": {
        "optimizer": torch.optim.NAdam, "engine": "fused"
    },
    "got 'fused': config.optimizer is Adam with amsgrad=True, which": {
        "optimizer": functools.partial(torch.optim.Adam, amsgrad=True), "engine": "fused"
    },
    "got 'fused': config.scheduler is OneCycleLR, which changes the optimiser's betas": {
        "optimizer": torch.optim.Adam, "scheduler": SCHEDULERS["one cycle"], "engine": "fused"
    },
    "must be 'auto' or 'eager' here, got 'cuda-graph': ": {"engine": "cuda-graph"},
    "got 'cuda-persistent': the networks are on cpu; this engine is built for CUDA": {"engine": "cuda-persistent"},
    "here, got 'cpu': config.impl is 'reference'": {"engine": "cpu", "impl": "reference"},
    "engine must be one of auto, eager, fused, cpu, cuda-graph, cuda-persistent, got 'gpu'": {"engine": "gpu"},
}  # fmt: skip


if hasattr(torch.optim, "Muon"):
    BAD["got Muon, which takes matrices alone: give a list of optimisers, as [Muon("] = {"optimizer": torch.optim.Muon}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_sentence(message: str, tmp_path: Path) -> None:
    gan = new_gan()
    with pytest.raises((TypeError, ValueError)) as caught:
        train(gan, DATA, config(**BAD[message]), run_dir=tmp_path / "run")
    text = str(caught.value)
    compiled = BAD[message].get("engine") in ("fused", "cpu") and native is None
    assert (", got" in text and "FASTGAN_DISABLE_NATIVE is set" in text) if compiled else message in text
    assert "\n" not in text
    assert moved(gan) == 0.0 and not (tmp_path / "run").exists()


# ---------------------------------------------------------------- the page

PAGE = Path(__file__).parents[1] / "docs" / "bring-your-own.md"
needs_page = pytest.mark.skipif(not PAGE.is_file(), reason="an installed package has no docs folder")


@needs_page
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) == 9
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), space)


@needs_page
def test_the_table_of_the_page_has_every_row() -> None:
    from plugin_table import rows

    found = dict(re.findall(r"^\| (\w+: .*?) \| (?:eager|cpu) \| (.*?) \|$", PAGE.read_text(), re.M))
    newer = () if hasattr(torch.optim, "Muon") else ("optimiser: Muon and AdamW",)
    assert [name for name in found if name not in newer] == [name for name, *_ in rows()]
    assert all(float(difference) < 1e-10 for difference in found.values())


def test_configs_with_partials_are_equal_where_they_call_the_same() -> None:
    def of(lr: float, **fields: Any) -> TrainConfig:
        return TrainConfig(4, 2, optimizer=functools.partial(torch.optim.RMSprop, lr=lr), **fields)

    assert of(1e-3) == of(1e-3) and hash(of(1e-3)) == hash(of(1e-3))
    assert of(1e-3) != of(2e-3) and of(1e-3) != of(1e-3, k=2) and of(1e-3) != 3
    assert of(1e-3) != TrainConfig(4, 2, optimizer=functools.partial(torch.optim.SGD, lr=1e-3))
    assert TrainConfig.from_dict(of(1e-3).as_dict()) == of(1e-3)
