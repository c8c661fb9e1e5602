"""Members of a population side by side in the CUDA-graph engine: streams in any order, and each member's bits."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulator import NEEDS, Library
from fused_rows import same_runs
from graph_launcher import Recorder, Stream, Streams

import fastgan
from fastgan import GAN, Adam, Callback, PopulationResult, TrainConfig, _backend, _cuda, nn, train
from fastgan.training import Run, TrainResult, checkpoint, engines, session
from fastgan.training.engines import cuda_graph as graph
from fastgan.training.engines.cuda_graph import CudaLauncher, GraphEngine
from fastgan.training.rows import Minibatches

pytestmark = [*NEEDS, pytest.mark.skipif(_backend.native is None, reason="plans are read by the compiled core")]
DATA = torch.randn(60, 2, generator=torch.Generator().manual_seed(2))
# Chunks of 1, 4 and 11 iterations: graphs of ten and of one, and a call that has both.
CONFIG = TrainConfig(16, 20, k=2, optimizer=Adam(1e-2), nonfinite="skip", ema_decay=0.9, engine="fused")
SOLO: dict[TrainConfig, tuple[GAN, TrainResult]] = {}


def make(seed: int) -> GAN:
    """Masks, running statistics, an average: all that an iteration may write."""
    torch.manual_seed(seed)
    plain = torch.nn
    generator = nn.Sequential(plain.Linear(3, 8, bias=False), plain.BatchNorm1d(8), plain.ReLU(), plain.Linear(8, 2))
    return GAN(generator, nn.MLP([2, 7, 1], activation="leaky_relu", dropout=0.3), latent_dim=3)


class Device:
    """Gives each GraphEngine a stream of its own, and knows which engines are there."""

    def __init__(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        self.library, self.monkeypatch = library, monkeypatch
        self.streams = Streams(library)
        self.engines: weakref.WeakSet[GraphEngine] = weakref.WeakSet()
        self.launcher: Callable[[], Any] = self.streams.new
        self.use(self.engine)

    def use(self, engine: Callable[[GAN, Minibatches, TrainConfig], GraphEngine]) -> None:
        self.monkeypatch.setattr(engines, "CpuEngine", engine)

    def engine(self, gan: GAN, rows: Minibatches, config: TrainConfig) -> GraphEngine:
        made = GraphEngine(gan, rows, config, self.launcher())
        self.engines.add(made)
        return made

    def alone(self, config: TrainConfig) -> tuple[GAN, TrainResult]:
        """A solo run whose calls are made at once."""
        if config not in SOLO:
            self.use(lambda gan, rows, config: GraphEngine(gan, rows, config, Recorder(self.library)))
            gan = make(config.seed)
            SOLO[config] = gan, train(gan, DATA, config)
            self.use(self.engine)
        return SOLO[config]

    def check(self, result: PopulationResult, configs: list[TrainConfig]) -> None:
        """Every member has the bits of its solo run."""
        for member, config in zip(result.members, configs, strict=True):
            assert (member.engine, member.step) == ("cuda-graph", config.steps)
            assert same_runs(self.alone(config), (member.gan, member))


@pytest.fixture
def device(library: Library, monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setattr(GraphEngine, "calls_at_once", 3)
    monkeypatch.setattr(session, "_CHUNK_SECONDS", 1e9)  # chunks of 1, 4, 16, whatever time they take
    return Device(library, monkeypatch)


def seeded(count: int, config: TrainConfig = CONFIG) -> list[TrainConfig]:
    return [replace(config, seed=seed) for seed in range(count)]


# ---------------------------------------------------------------- the bits


@pytest.mark.parametrize("chance", range(2))
def test_members_side_by_side_are_their_solo_runs(chance: int, device: Device) -> None:
    device.streams.chance.seed(chance)
    result = fastgan.train_population(make, DATA, CONFIG, seeds=range(5))
    device.check(result, seeded(5))
    assert device.streams.most == 3  # that many, and never more
    assert len({member.history["loss_d"].tobytes() for member in result.members}) == 5


def test_members_enter_as_others_end(device: Device) -> None:
    class Listener(Callback):
        def on_start(self, run: Run) -> None:
            there.append(len(device.engines))

    configs = [replace(CONFIG, seed=seed, steps=steps) for seed, steps in enumerate((3, 14, 1, 9, 14, 0))]
    there: list[int] = []
    device.check(fastgan.train_population(make, DATA, configs, callbacks=[Listener()]), configs)
    assert there == [1, 2, 3, 3, 3, 3] and not device.streams.busy  # the memory of those that have ended is free


def test_a_member_that_breaks_down_ends_alone(device: Device) -> None:
    def diverging(seed: int) -> GAN:
        gan = make(seed)
        if seed == 1:
            torch.nn.init.constant_(gan.discriminator[-1].weight, float("inf"))
        return gan

    config = replace(CONFIG, nonfinite="raise")
    result = fastgan.train_population(diverging, DATA, config, seeds=range(4))
    good, bad, *others = result.members
    assert bad.failed is not None and "at iteration 1;" in bad.failed
    result.members[:] = [good, *others]
    device.check(result, [replace(config, seed=seed) for seed in (0, 2, 3)])


# ---------------------------------------------------------------- stops and errors


def test_resume_after_a_stop_is_exact(device: Device, tmp_path: Path) -> None:
    class Stop(Callback):
        every = 7

        def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
            if run.member == 1 and run.step >= 7:
                raise KeyboardInterrupt

    options: dict[str, Any] = {"seeds": range(5), "run_dir": tmp_path}
    stopped = fastgan.train_population(make, DATA, CONFIG, callbacks=[Stop()], **options)
    steps = [member.step for member in stopped.members]
    assert stopped.interrupted and 0 < min(steps[:3]) < CONFIG.steps and steps[4] == 0
    assert all(checkpoint.checkpoints(tmp_path / f"member-{number:04d}/checkpoint") for number in range(3))
    device.check(fastgan.train_population(make, DATA, CONFIG, resume=True, **options), seeded(5))


def test_after_an_error_no_member_trains_on(device: Device) -> None:
    class Full(Callback):
        def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
            if run.step > 3:
                left.append(len(device.streams.busy))
                raise OSError("the disk is full")

    left: list[int] = []
    with pytest.raises(OSError, match="the disk is full"):
        fastgan.train_population(make, DATA, CONFIG, seeds=range(4), callbacks=[Full()])
    assert left[0] > 0 and not device.streams.busy


def test_a_call_that_breaks_off_leaves_nothing_at_work(device: Device) -> None:
    class Broken(Stream):
        def capture(self, body: Callable[[], None]) -> Callable[[], None]:
            raise RuntimeError("no capture today")

    def broken() -> Stream:
        device.streams.all.add(stream := Broken(device.streams))
        return stream

    device.launcher = broken
    with pytest.raises(RuntimeError, match="no capture today"):
        train(make(0), DATA, CONFIG)  # the first iteration was queued
    assert not device.streams.busy


# ---------------------------------------------------------------- want of memory


class Narrow(Stream):
    """On a device that has room for the buffers of two engines and for two graphs."""

    engines: Any = ()
    refused: list[str] = []

    def _refuse(self, what: str, full: bool) -> None:
        if full:
            self.refused.append(what)
            raise torch.OutOfMemoryError("CUDA out of memory")

    def size(self, entry: str, *numbers: int) -> int:
        self._refuse("buffers", sum(engine._iteration is not None for engine in self.engines) >= 2)
        return super().size(entry, *numbers)

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        self._refuse("graph", sum(len(engine._graphs) for engine in self.engines) >= 2)
        return super().capture(body)


@pytest.mark.parametrize("engine", ["fused", "auto"])
def test_fewer_go_on_where_memory_is_short(engine: str, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def narrow() -> Stream:
        device.streams.all.add(stream := Narrow(device.streams))
        return stream

    monkeypatch.setattr(Narrow, "engines", device.engines)
    monkeypatch.setattr(Narrow, "refused", [])
    device.launcher = narrow
    config = replace(CONFIG, engine=engine)
    device.check(fastgan.train_population(make, DATA, config, seeds=range(5)), seeded(5, config))
    assert device.streams.most == 2 and set(Narrow.refused) == {"buffers", "graph"}


def test_who_has_no_memory_to_try_the_networks_waits(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, refused = nn.Sequential.forward, []

    def forward(layer: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
        """Of the dry run alone: a plan's passes do not call it."""
        if sum(engine._iteration is not None for engine in device.engines) >= 2:
            refused.append(layer)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return usual(layer, x)

    monkeypatch.setattr(nn.Sequential, "forward", forward)
    device.check(fastgan.train_population(make, DATA, CONFIG, seeds=range(4)), seeded(4))
    assert refused and device.streams.most == 2


def test_a_member_that_has_no_memory_even_alone_ends_the_run(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Stream, "capture", full)
    with pytest.raises(torch.OutOfMemoryError):
        fastgan.train_population(make, DATA, CONFIG, seeds=range(4))
    monkeypatch.setattr(Stream, "product", full)
    with pytest.raises(RuntimeError, match="ran out of memory within an iteration") as caught:
        fastgan.train_population(make, DATA, CONFIG, seeds=range(4))
    assert not isinstance(caught.value, torch.OutOfMemoryError)  # half an iteration cannot be made again


# ---------------------------------------------------------------- the GPU's machine


class Played:
    """In the place of torch.cuda: which stream is the current one, and what was put on which."""

    def __init__(self) -> None:
        self.current: Any = "the caller's"
        self.did: list[tuple[Any, str]] = []
        self.error: str | None = None  # when a capture ends
        self.replays: str | None = None  # likewise when a graph is replayed

    def note(self, what: str) -> None:
        self.did.append((self.current, what))

    @contextmanager
    def stream(self, stream: Any) -> Any:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph: Any, stream: Any, capture_error_mode: str) -> Any:
        self.current = stream
        self.note(f"capture, {capture_error_mode}")
        try:
            yield
        finally:
            if self.error:
                raise RuntimeError(self.error)  # and the stream stays
        self.current = stream


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played()

    class Own:
        number = 0

        def __init__(self, device: torch.device) -> None:
            Own.number = (Own.number + 1) % 4
            self.name = Own.number  # torch has a few streams, and gives the same ones again

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Own) and self.name == other.name

        def __hash__(self) -> int:
            return self.name

        def wait_stream(self, other: Any) -> None:
            played.did.append((self, f"wait for {other}"))

    class Graph:
        def replay(self) -> None:
            if played.replays:
                raise RuntimeError(played.replays)
            played.note("replay")

    monkeypatch.setattr(_cuda, "_has_tensor_cores", lambda device: True)
    monkeypatch.setattr(torch.cuda, "Stream", Own)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "stream", played.stream)
    monkeypatch.setattr(torch.cuda, "graph", played.graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: played.current)
    monkeypatch.setattr(CudaLauncher, "_all", weakref.WeakSet())
    monkeypatch.setattr(CudaLauncher, "_streams", defaultdict(list))
    return played


def test_a_machine_works_on_its_own_stream_after_the_callers(played: Played) -> None:
    launcher = CudaLauncher(torch.device("cpu"))
    launcher.fork()
    launcher.run(lambda: played.note("run"))
    launcher.capture(lambda: played.note("body"))()
    own = launcher._stream
    expected = ["wait for the caller's", "run", "capture, thread_local", "body", "replay"]
    assert played.did == [(own, what) for what in expected] and played.current == "the caller's"


def test_workspaces_are_made_before_iterations(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of products with and without a bias, and no more of them than machines work side by side."""
    for name in ("mm", "addmm"):
        usual = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *x, n=name, u=usual, **out: (played.note(n), u(*x, **out)))
    first = CudaLauncher(torch.device("cpu"))
    assert played.did == [(first._stream, "mm"), (first._stream, "addmm")]
    others = {CudaLauncher(torch.device("cpu"))._stream for _ in range(9)}  # each given up at once
    assert len(others) == 1 and first._stream not in others


def test_no_two_machines_have_a_stream_while_there_are_others(played: Played) -> None:
    held = [CudaLauncher(torch.device("cpu")) for _ in range(3)]
    for _ in range(9):
        torch.cuda.Stream(torch.device("cpu"))  # another user's, so that torch gives the first ones again
    held.append(CudaLauncher(torch.device("cpu")))
    assert len({launcher._stream for launcher in held}) == 4
    assert CudaLauncher(torch.device("cpu"))._stream in {launcher._stream for launcher in held}  # there is none left


@pytest.mark.parametrize(("says", "kind"), [
    ("CUDA error: out of memory\nmore", torch.OutOfMemoryError), ("operation not permitted", RuntimeError),
])  # fmt: skip
def test_a_capture_that_fails_leaves_the_callers_stream(says: str, kind: type[Exception], played: Played) -> None:
    launcher = CudaLauncher(torch.device("cpu"))
    played.error = says
    with pytest.raises(RuntimeError, match="could not capture an iteration: ") as caught:
        launcher.capture(lambda: None)
    assert type(caught.value) is kind and played.current == "the caller's" and "more" not in str(caught.value)


def test_want_of_memory_is_known_by_its_cause(played: Played) -> None:
    """Of a capture that torch ends with another error, and of a launch, of which CUDA says it."""

    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    launcher = CudaLauncher(torch.device("cpu"))
    replay = launcher.capture(lambda: None)
    played.replays = "CUDA error: out of memory\nmore"
    with pytest.raises(torch.OutOfMemoryError, match="could not replay an iteration: CUDA error: out of memory$"):
        replay()
    played.replays = "CUDA error: an illegal memory access was encountered"
    with pytest.raises(RuntimeError, match="could not replay an iteration: CUDA error: an illegal") as caught:
        replay()
    assert not isinstance(caught.value, torch.OutOfMemoryError)
    played.error = "CUDA error: operation failed due to a previous error during capture"
    with pytest.raises(torch.OutOfMemoryError, match="capture an iteration: CUDA out of memory. Tried"):
        launcher.capture(full)


def test_as_many_members_go_on_as_there_are_queues() -> None:
    assert GraphEngine.calls_at_once == graph._STREAMS == 8
