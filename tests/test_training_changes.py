"""What makes the compiled engines read their plan again, and that nothing else does."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from fastgan import GAN, Adam, Momentum, TrainConfig, _backend, _kernels, nn
from fastgan.training.engines import plan
from fastgan.training.engines.cpu import CpuEngine
from fastgan.training.session import rows_for

pytestmark = pytest.mark.skipif(_backend.native is None, reason="plans are read by the compiled core")
CONFIG = TrainConfig(
    100, 10, generator_optimizer=Momentum(0.1), discriminator_optimizer=Adam(1e-3), ema_decay=0.9, engine="fused"
)


class Chained(torch.nn.Sequential):
    """A user's own, with an attribute that no plan reads."""

    def __init__(self, *modules: torch.nn.Module) -> None:
        super().__init__(*modules)
        self.seen = np.zeros(3)


@pytest.fixture
def engine() -> CpuEngine:
    t = torch.nn
    generator = Chained(t.Linear(3, 8), t.BatchNorm1d(8), t.LeakyReLU(0.1), t.Linear(8, 4))
    judging = nn.Maxout(4, 6, 2), nn.Dropout(0.2), nn.Linear(6, 5, activation="tanh"), t.Linear(5, 1)
    gan = GAN(generator, nn.Sequential(*judging), latent_dim=3)
    return CpuEngine(gan, rows_for(torch.randn(40, 4), gan, CONFIG), CONFIG)


def is_current(engine: CpuEngine) -> bool:
    assert engine.state.changes is not None
    return engine.state.changes.is_current()


def same_plan(engine: CpuEngine) -> bool:
    try:
        of = engine.state
        return plan.describe(of.gan, of.config, of.updaters, of.data) == of.description
    except (plan.UnsupportedByEngine, AttributeError):
        return False


# ---------------------------------------------------------------- what changes a plan


def g(engine: CpuEngine, i: int) -> Any:
    return engine.state.gan.generator[i]


def d(engine: CpuEngine, i: int) -> Any:
    return engine.state.gan.discriminator[i]


def state(engine: CpuEngine, parameter: torch.Tensor) -> dict[str, Any]:
    return next(o.state[parameter] for o in engine.state.torch_optimizers.values() if parameter in o.state)


def put(thing: Any, name: str, value: Any) -> None:
    setattr(thing, name, value)


def move(tensor: torch.Tensor, to: Callable[[torch.Tensor], torch.Tensor] = torch.clone) -> None:
    tensor.data = to(tensor.data)


CHANGES: dict[str, Callable[[CpuEngine], Any]] = {
    "eval mode": lambda e: e.state.gan.eval(),
    "dropout off": lambda e: d(e, 1).eval(),
    "probability": lambda e: put(d(e, 1), "p", 0.3),
    "derivative": lambda e: put(g(e, 2), "negative_slope", 0.3),
    "momentum of statistics": lambda e: put(g(e, 1), "momentum", 0.3),
    "epsilon of statistics": lambda e: put(g(e, 1), "eps", 1e-3),
    "specification": lambda e: put(d(e, 2), "spec", d(e, 2).spec._replace(activation="relu")),
    "implementation": lambda e: put(d(e, 2), "impl", "reference"),
    "forward replaced": lambda e: put(g(e, 2), "forward", torch.nn.functional.relu),
    "another activation": lambda e: e.state.gan.generator.__setitem__(2, torch.nn.Tanh()),
    "one more": lambda e: e.state.gan.generator.append(torch.nn.Tanh()),
    "one less": lambda e: e.state.gan.generator.__delitem__(2),
    "another class": lambda e: put(g(e, 2), "__class__", torch.nn.Tanh),
    "another network": lambda e: put(e.state.gan, "generator", copy.deepcopy(e.state.gan.generator)),
    "latent vectors": lambda e: put(e.state.gan, "latent_dim", 4),
    "prior": lambda e: put(e.state.gan, "prior", "uniform"),
    "classes": lambda e: put(e.state.gan, "classes", 2),
    "forward hook": lambda e: g(e, 2).register_forward_hook(lambda *_: None),
    "forward hook of a chain": lambda e: e.state.gan.generator.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda e: g(e, 0).register_full_backward_hook(lambda *_: None),
    "backward hook before": lambda e: g(e, 0).register_full_backward_pre_hook(lambda *_: None),
    "hook of a parameter": lambda e: g(e, 0).weight.register_hook(lambda grad: grad),
    "hook after a gradient": lambda e: g(e, 0).weight.register_post_accumulate_grad_hook(lambda p: None),
    "weight moved": lambda e: move(g(e, 0).weight),
    "weight in another order": lambda e: move(g(e, 0).weight, lambda w: w.t().contiguous().t()),
    "weight in double": lambda e: move(g(e, 0).weight, torch.Tensor.double),
    "weight negated in a view": lambda e: move(g(e, 0).weight, torch._neg_view),
    "weight of another shape": lambda e: move(g(e, 0).weight, lambda w: w.view(4, 6)),
    "weight replaced": lambda e: put(g(e, 0), "weight", torch.nn.Parameter(g(e, 0).weight.detach())),
    "bias left out": lambda e: put(g(e, 0), "bias", None),
    "frozen": lambda e: g(e, 0).weight.requires_grad_(False),
    "statistics moved": lambda e: move(g(e, 1).running_mean),
    "statistics replaced": lambda e: put(g(e, 1), "running_var", torch.ones(8)),
    "counter moved": lambda e: move(g(e, 1).num_batches_tracked),
    "moment moved": lambda e: move(state(e, d(e, 0).weight)["exp_avg"]),
    "moment replaced": lambda e: state(e, d(e, 0).weight).update(exp_avg_sq=torch.zeros_like(d(e, 0).weight)),
    "moment of another shape": lambda e: move(state(e, d(e, 0).weight)["exp_avg"], lambda m: m.view(-1)),
    "velocity lost": lambda e: state(e, g(e, 0).weight).clear(),
    "state lost": lambda e: e.state.torch_optimizers["generator"].state.clear(),
    "state loaded": lambda e: e.state.torch_optimizers["discriminator"].load_state_dict(
        copy.deepcopy(e.state.torch_optimizers["discriminator"].state_dict())
    ),
    "average replaced": lambda e: put(e.state.gan, "ema", copy.deepcopy(e.state.gan.ema)),
    "average of another network": lambda e: put(e.state.gan, "ema", torch.nn.Linear(3, 4)),
    "average in another order": lambda e: move(
        next(e.state.gan.keep_ema().parameters()), lambda w: w.t().contiguous().t()
    ),
    "average moved": lambda e: move(next(e.state.gan.keep_ema().parameters())),
    "data moved": lambda e: move(e.state.data),
    "fewer data": lambda e: move(e.state.data, lambda x: x[:30]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_a_plan_is_noticed(name: str, engine: CpuEngine) -> None:
    assert is_current(engine) and same_plan(engine)
    CHANGES[name](engine)
    assert not same_plan(engine)  # else the row would say nothing
    assert not is_current(engine)


@pytest.fixture
def _globally(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    handles: list[Any] = []
    yield lambda: handles.append(request.param(lambda *_: None))
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(
    "_globally",
    [register_module_forward_hook, register_optimizer_step_pre_hook, register_optimizer_step_post_hook],
    indirect=True,
)
def test_hooks_of_all_modules_and_optimizers_are_noticed(_globally: Callable[[], None], engine: CpuEngine) -> None:
    _globally()
    assert not same_plan(engine) and not is_current(engine)


def test_a_forward_of_a_class_is_noticed(engine: CpuEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chained, "forward", lambda self, x: x)
    assert not same_plan(engine) and not is_current(engine)


def test_every_attribute_and_member_of_every_module_counts(engine: CpuEngine) -> None:
    """Whether a plan reads it or not."""
    for module in engine.state.gan.modules():
        for own in (vars(module), module._parameters, module._buffers, module._modules):
            for name, value in list(own.items()):
                if own is vars(module) and name.startswith("_"):
                    continue
                own[name] = object()
                assert not is_current(engine), name
                own[name] = value
    assert is_current(engine)


def test_members_in_a_dictionary_of_their_own_are_still_seen(engine: CpuEngine) -> None:
    layer = g(engine, 0)
    layer._parameters = OrderedDict(layer._parameters)
    layer._parameters["weight"] = torch.nn.Parameter(layer.weight.detach().clone())
    assert not same_plan(engine) and not is_current(engine)


def test_an_array_that_is_replaced_is_no_error(engine: CpuEngine) -> None:
    engine.state.gan.generator.seen = np.ones(3)
    assert not is_current(engine)


# ---------------------------------------------------------------- what does not


def test_training_describes_the_plan_once(engine: CpuEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    run = engine.state.compiled()
    monkeypatch.setattr(plan, "describe", lambda *_: pytest.fail("described again"))
    for first in (0, 7, 14):
        engine.begin(first, 7, lambda: False)()
        assert all(len(o.state_dict()["state"]) for o in engine.optimizers.values())  # a checkpoint's look
        assert engine.state.compiled() is run


def test_what_changes_back_keeps_the_run(engine: CpuEngine) -> None:
    run = engine.state.compiled()
    engine.state.gan.sample(5, ema=False)  # in eval mode and back
    weight = g(engine, 0).weight
    g(engine, 0).weight = torch.nn.Parameter(weight.detach().clone())
    g(engine, 0).weight = weight
    assert engine.state.compiled() is run and is_current(engine)


def test_a_description_that_the_core_refuses_is_not_run(engine: CpuEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def __init__(self, described: object) -> None:
            raise RuntimeError("not this one")

    monkeypatch.setattr(_kernels, "native", type("Native", (), {"CompiledPlan": Refusing}))
    d(engine, 1).p = 0.3
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not this one"):
            engine.state.compiled()


# ---------------------------------------------------------------- vectors that the core would read beyond their end

VECTORS: dict[str, tuple[str, Any]] = {
    "a short mean": ("running_mean", torch.zeros(3)),
    "a long variance": ("running_var", torch.ones(40)),
    "a mean of another type": ("running_mean", torch.zeros(8, dtype=torch.float64)),
    "a mean with gaps": ("running_mean", torch.zeros(16)[::2]),
    "no variance": ("running_var", None),
    "a short scale": ("weight", torch.nn.Parameter(torch.ones(1))),
    "a long shift": ("bias", torch.nn.Parameter(torch.ones(9))),
    "several counts": ("num_batches_tracked", torch.zeros(2, dtype=torch.int64)),
    "a count in float": ("num_batches_tracked", torch.tensor(0.0)),
}


@pytest.mark.parametrize("name", VECTORS)
def test_batch_normalisation_with_other_vectors_is_refused(name: str, engine: CpuEngine) -> None:
    attribute, value = VECTORS[name]
    setattr(engine.state.gan.generator[1], attribute, value)
    assert not is_current(engine)
    with pytest.raises(plan.UnsupportedByEngine, match="gan.generator: BatchNorm1d "):
        engine.state.described_anew()
