"""The persistent engine on CPU tensors, by way of the emulator: plans and calls as tests/simt/plan.h reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from emulator import STREAM, Emulator
from torch import Tensor

from fastgan.training.engines import cuda_persistent as persistent
from fastgan.training.engines.cuda_persistent import DeviceLimits
from fastgan.training.engines.state import HostState

_LAYER = (
    "inputs", "outputs", "pieces", "activation", "negative_slope", "dropout", "dropout_seed_index", "dropout_substream",
    "batch_norm", "norm_epsilon", "norm_momentum",
)  # fmt: skip
_PARAMETERS = ("weight", "bias", "norm_scale", "norm_shift")
_BUFFERS = ("running_mean", "running_variance", "batches")
_RULE = ("input_dropout", "dropout_seeds", "precision", "rule", "beta1", "beta2", "epsilon", "max_norm")
_DATA = ("data", "rows", "features", "batch", "k", "generator_steps", "pack", "simultaneous")
_REAL = {
    "negative_slope", "dropout", "norm_epsilon", "norm_momentum", "input_dropout", "beta1", "beta2", "epsilon",
    "max_norm",
}  # fmt: skip
LIMITS = DeviceLimits(multiprocessors=2, cluster=1, shared_bytes=227 << 10)


class Written:
    """Numbers and tensors one after another; an address becomes the tensor at that address."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.at = {t.data_ptr(): t for t in tensors if t.numel()}
        self.arguments: list[object] = []

    def number(self, name: str, value: Any) -> None:
        self.arguments.append(float(value) if name in _REAL else int(value))

    def address(self, address: int) -> None:
        self.arguments.append(self.at[address] if address else None)

    def player(self, player: dict[str, Any]) -> None:
        self.arguments.append(len(player["layers"]))
        for layer in player["layers"]:
            for name in _LAYER:
                self.number(name, layer[name])
            for name in _PARAMETERS:
                for address in layer[name]:
                    self.address(address)
            for name in _BUFFERS:
                self.address(layer[name])
        for name in _RULE:
            self.number(name, player[name])

    def plan(self, plan: dict[str, Any]) -> None:
        self.player(plan["generator"])
        self.player(plan["discriminator"])
        for name in ("latent", "prior", "seed", *_DATA):
            self.address(plan[name]) if name == "data" else self.number(name, plan[name])
        for name in ("real", "fake", "generated"):
            formula, target = plan[name]
            self.arguments += [formula, float(target)]
        self.arguments += [int(plan["relativistic"]), plan["penalty"], float(plan["penalty_weight"])]
        self.arguments += [float(plan["ema_decay"]), int(plan["skip_nonfinite"])]

    def call(self, call: dict[str, Any]) -> None:
        self.arguments += [call["first"], call["count"]]
        for name in ("generator_schedule", "discriminator_schedule"):
            for numbers in call[name]:
                self.arguments += [len(numbers), *map(float, numbers)]
        self.arguments += [call["generator_updates"], call["discriminator_updates"]]
        self.address(call["metrics"])


def tensors_of(engine: HostState) -> list[Tensor]:
    """All memory that a plan of the engine names."""
    states = [state for optimizer in engine.optimizers.values() for state in optimizer.state.values()]
    kept = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    ema = engine.gan.ema
    average = [] if ema is None else list(ema.parameters())
    of_gan = [*engine.gan.parameters(), *engine.gan.buffers(), *average]
    return [*(t.detach() for t in of_gan), *kept, engine.data]


@contextlib.contextmanager
def emulated(
    machine: Emulator, limits: DeviceLimits = LIMITS, schedules: int = 1, seed: int = 0
) -> Iterator[list[int]]:
    """The persistent engine takes networks on the CPU and computes in the emulator; gives the launches of each call."""
    launches: list[int] = []

    def train(
        engines: Sequence[HostState],
        runs: object,
        calls: Sequence[dict[str, Any]],
        given: DeviceLimits,
        found: Tensor,
    ) -> None:
        parts = [found[(call["metrics"] - found.data_ptr()) // 8 :] for call in calls]
        ends = [call["count"] * persistent.METRICS + 2 for call in calls]
        metrics = [part[:end].clone() for part, end in zip(parts, ends, strict=True)]
        dtype = engines[0].description["dtype"]
        written = Written([t for engine in engines for t in tensors_of(engine)])
        written.at |= {call["metrics"]: own for call, own in zip(calls, metrics, strict=True)}
        for engine, call in zip(engines, calls, strict=True):
            written.plan(engine.description)
            written.call(call)
        head = (dtype, *given, len(engines))
        launches.append(machine.call("train", *head, *written.arguments, STREAM, schedules=schedules, seed=seed))
        for part, end, own in zip(parts, ends, metrics, strict=True):
            part[:end] = own

    def needs(engine: HostState, given: DeviceLimits) -> tuple[int, int]:
        written = Written(tensors_of(engine))
        written.plan(engine.description)
        machine.call("train_needs", engine.description["dtype"], *given, *written.arguments)
        return machine.answer & 0xFFFFFFFF, machine.answer >> 32

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(persistent, "train", train)
        patch.setattr(persistent, "obstacle", lambda device: None)
        patch.setattr(persistent, "has_tensor_cores", lambda device: True)
        patch.setattr(persistent, "needs", needs)
        patch.setattr(persistent, "limits_of", lambda device: limits)
        patch.setattr(persistent, "with_cluster", lambda limits, engines: limits)
        patch.setattr("fastgan.training.engines.CpuEngine", persistent.PersistentEngine)
        yield launches
