"""The persistent engine on CPU tensors, by way of the emulator: plans and calls as tests/simt/plan.h reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from emulator import STREAM, Emulator
from torch import Tensor

from fastgan import _schema
from fastgan.training.engines import cuda_persistent as persistent
from fastgan.training.engines.cuda_persistent import DeviceLimits
from fastgan.training.engines.state import HostState

LIMITS = DeviceLimits(multiprocessors=2, cluster=1, shared_bytes=227 << 10)


class Written:
    """Numbers and tensors one after another; an address becomes the tensor at that address."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.at = {t.data_ptr(): t for t in tensors if t.numel()}
        self.arguments: list[object] = []

    def struct(self, name: str, values: Any) -> None:
        """The fields of one of FIELDS, from a dictionary, or from a tuple in their order."""
        if name == "PlayerPlan":
            self.arguments.append(len(values["layers"]))
            for layer in values["layers"]:
                self.struct("LayerPlan", layer)
        for i, (field, kind) in enumerate(_schema.FIELDS[name].items()):
            self.field(kind, values[i if isinstance(values, tuple) else field])

    def field(self, kind: str, value: Any) -> None:
        if kind in _schema.FIELDS:
            self.struct(kind, value)
        elif kind == "address":
            self.arguments.append(self.at[value] if value else None)
        elif kind[0] == "[":
            self.arguments.append(len(value))
            for item in value:
                self.field(kind[1:-1], item)
        elif kind in _schema.ENUMS:
            self.arguments.append(_schema.number(kind, value))
        else:
            self.arguments.append(float(value) if kind == "real" else int(value))


def tensors_of(engine: HostState) -> list[Tensor]:
    """All memory that a plan of the engine names."""
    states = [state for optimizer in engine.optimizers.values() for state in optimizer.state.values()]
    kept = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    kept += [value for updater in engine.updaters.values() for value in updater.spare.values()]
    ema = engine.gan.ema
    average = [] if ema is None else list(ema.parameters())
    of_gan = [*engine.gan.parameters(), *engine.gan.buffers(), *average]
    labels = [] if engine.labels is None else [engine.labels]
    return [*(t.detach() for t in of_gan), *kept, engine.data, *labels]


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
            written.struct("TrainPlan", engine.description["plan"])
            written.struct("TrainCall", call)
        head = (dtype, *given, len(engines))
        launches.append(machine.call("train", *head, *written.arguments, STREAM, schedules=schedules, seed=seed))
        for part, end, own in zip(parts, ends, metrics, strict=True):
            part[:end] = own

    def needs(engine: HostState, given: DeviceLimits) -> tuple[int, int]:
        written = Written(tensors_of(engine))
        written.struct("TrainPlan", engine.description["plan"])
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
