"""The CUDA-graph engine on a GPU: captured, replayed, never waiting. What needs no GPU is found by test_graph.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fused_rows import MOMENTUM, ROWS_OF_GRAPH, ROWS_OF_TABLE, Row, config_of, distance, of, row, same_bits
from test_tabular_training import CASES, made, sampled

from fastgan import GAN, _backend, train, train_population
from fastgan._options import Precision, names
from fastgan.training import TrainResult, engines, session
from fastgan.training.engines.cuda_graph import CudaLauncher, GraphEngine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
BUSY = row(of(dropout=0.3, input_dropout=0.2), gradient_penalty="r1", ema_decay=0.9, nonfinite="skip", max_col_norm=2.0)


@pytest.fixture(autouse=True)
def _graph_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    if (why := _backend.why_not("mlp", "cuda", torch.float32)) is not None:
        pytest.skip(why)
    monkeypatch.setattr(engines, "cuda_engine", lambda *of: (GraphEngine(*of), ""))


def run(row: Row, dtype: torch.dtype, device: str, **changes: Any) -> tuple[GAN, TrainResult]:
    torch.manual_seed(1)
    gan = row.make(dtype)
    result = train(gan, row.data(dtype), config_of(row, "fused", device=device, **changes))
    return gan.to("cpu"), result


def engine_of(row: Row, launcher: CudaLauncher | None = None, device: str = "cuda") -> tuple[GAN, GraphEngine]:
    torch.manual_seed(1)
    gan = row.make(torch.float32).to(device)
    config = config_of(row, "fused")
    return gan, GraphEngine(gan, session.rows_for(row.data(torch.float32), gan, config), config, launcher)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=("double", "float"))
@pytest.mark.parametrize("name", [*ROWS_OF_TABLE, *ROWS_OF_GRAPH])
def test_graph_equals_the_cpu(name: str, dtype: torch.dtype) -> None:
    row = (ROWS_OF_TABLE | ROWS_OF_GRAPH)[name]
    on_cpu, expected = run(row, dtype, "cpu", steps=6)
    on_gpu, got = run(row, dtype, "cuda", steps=6)
    assert (expected.engine, got.engine) == ("cpu", "cuda-graph")
    tolerance = 1e-9 if dtype == torch.float64 else 5e-4
    assert distance(on_cpu, on_gpu) < tolerance
    for column, values in expected.history.items():
        assert np.abs(values - got.history[column]).max() < tolerance, column


@pytest.mark.parametrize("name", ["plain", "two steps of G", "without labels", "columns of 1, 33 and 16 labels"])
def test_a_table_trains_as_on_the_cpu(name: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        options = dict(CASES[name])
        rows = options.pop("table")() if "table" in options else sampled(labelled=options.get("labelled", True))
        gan, config = made(rows=rows, **options)
        result = train(gan, rows, replace(config, device=device))
        assert result.engine == {"cpu": "cpu", "cuda": "cuda-graph"}[device]
        found.append((gan.to("cpu"), result.history))
    assert distance(found[0][0], found[1][0]) < 1e-7  # of biases under batch normalisation
    assert all(np.abs(values - found[1][1][column]).max() < 1e-8 for column, values in found[0][1].items())


def test_precisions_differ_by_their_rounding() -> None:
    row, options = ROWS_OF_TABLE["wide, wgan-gp"], {"steps": 4, "optimizer": MOMENTUM}
    gans = {p: run(row, torch.float32, "cuda", precision=p, **options)[0] for p in names(Precision)}
    tf32, bf16 = (distance(gans["fp32"], gans[p]) for p in ("tf32", "bf16"))
    assert same_bits(gans["fp32"], gans["ieee"])
    assert 0.0 < tf32 < 0.5 * bf16


class Uncaptured(CudaLauncher):
    """Makes the calls anew each time."""

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        return functools.partial(self.run, body)


@pytest.mark.parametrize("row", [BUSY, ROWS_OF_TABLE["batch normalisation, skip, average"], ROWS_OF_TABLE["wide"]])
def test_R24_a_thousand_replays_are_a_thousand_iterations(row: Row) -> None:
    one, captured = engine_of(row)
    other, called = engine_of(row, Uncaptured(torch.device("cuda", torch.cuda.current_device())))
    tables = [engine.begin(0, 1011, lambda: False)() for engine in (captured, called)]
    assert np.array_equal(*tables, equal_nan=True) and len(np.unique(tables[0][:, 0])) > 1000
    assert same_bits(one, other)


def test_G4_a_launch_a_hundred_iterations_and_nothing_waits(
    monkeypatch: pytest.MonkeyPatch, nothing_waits: Callable[[], AbstractContextManager[None]]
) -> None:
    _, engine = engine_of(BUSY)
    engine.begin(0, 112, lambda: False)()  # all graphs are captured
    iteration, launches = engine.prepare(), []
    for size, replay in list(engine._graphs.items()):
        monkeypatch.setitem(engine._graphs, size, lambda s=size, r=replay: (launches.append(s), r()))
    with nothing_waits():
        assert engine._queue(iteration, 1000, lambda: False) == 1000
    engine.launcher.fetch(iteration.counter)
    assert launches == [100] * 10


@pytest.mark.parametrize("name", ["batch normalisation, skip, average", "wide"])
def test_members_side_by_side_are_their_solo_runs(name: str) -> None:
    row = ROWS_OF_TABLE[name]
    config, data = config_of(row, "fused", steps=730, device="cuda"), row.data(torch.float32)
    result = train_population(lambda seed: row.make(torch.float32), data, config, seeds=range(11))
    for member in result.members[::5]:
        torch.manual_seed(member.seed)
        gan = row.make(torch.float32)
        solo = train(gan, data, replace(config, seed=member.seed))
        assert same_bits(gan, member.gan) and member.engine == "cuda-graph"
        assert np.array_equal(solo.history["loss_d"], member.history["loss_d"])


def test_members_share_the_device() -> None:
    """Work of one member is queued while another's is; each is done when its own is fetched."""
    engines = [engine_of(BUSY)[1] for _ in range(3)]
    for engine in engines:
        engine.begin(0, 112, lambda: False)()  # all graphs are captured: a capture waits for the device
    calls = [engine.begin(112, 1000, lambda: False) for engine in engines]
    assert not engines[0].launcher._stream.record_event().query()  # the first one's are still at work
    tables = [finish() for finish in calls]
    assert np.array_equal(tables[0], tables[1]) and np.array_equal(tables[0], tables[2])


def test_R25_same_bits_on_a_side_stream_whose_producers_are_late() -> None:
    found, side = [], torch.cuda.Stream()
    for late in (False, True):
        gan, engine = engine_of(BUSY)
        engine.begin(0, 25, lambda: False)()  # all graphs are captured: a capture waits for the device
        weight = next(gan.generator.parameters()).detach()
        right = weight.clone()
        if late:
            weight.zero_()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            if late:
                torch.cuda._sleep(50_000_000)
                weight.copy_(right)
            found.append((gan, engine.begin(25, 25, lambda: False)()))
        torch.cuda.current_stream().wait_stream(side)
    assert np.array_equal(found[0][1], found[1][1]) and same_bits(found[0][0], found[1][0])


def test_resume_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, _ = run(BUSY, torch.float32, "cuda", steps=137)
    for steps in (11, 125, 137):
        torch.manual_seed(1)
        gan = BUSY.make(torch.float32)
        config = config_of(BUSY, "fused", steps=steps, device="cuda")
        train(gan, BUSY.data(torch.float32), config, run_dir=tmp_path, resume=steps > 11)
    assert same_bits(whole, gan.to("cpu"))


def test_data_on_the_device_stays_where_it_lies() -> None:
    torch.manual_seed(1)
    gan, config = BUSY.make(torch.float32).to("cuda"), config_of(BUSY, "fused")
    data = BUSY.data(torch.float32).to("cuda")
    engine = GraphEngine(gan, session.rows_for(data, gan, config), config)
    assert engine.state.data.data_ptr() == data.data_ptr()
    other, expected = engine_of(BUSY)
    assert np.array_equal(engine.begin(0, 9, lambda: False)(), expected.begin(0, 9, lambda: False)())
    assert same_bits(gan, other)


def test_parameters_that_moved_are_captured_anew() -> None:
    found = []
    for moves in (False, True):
        gan, engine = engine_of(BUSY)
        tables = [engine.begin(0, 112, lambda: False)()]  # graphs of all sizes
        for parameter in gan.parameters() if moves else ():
            parameter.data = parameter.data.clone()
        tables.append(engine.begin(112, 112, lambda: False)())
        found.append((gan, np.concatenate(tables)))
    assert np.array_equal(found[0][1], found[1][1]) and same_bits(found[0][0], found[1][0])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_a_second_device_gives_the_bits_of_the_first() -> None:
    found = []
    for device in ("cuda:0", "cuda:1"):  # the current device stays the first
        gan, engine = engine_of(BUSY, device=device)
        table = engine.begin(0, 25, lambda: False)()
        found.append((gan.to("cpu"), table))
    assert np.array_equal(found[0][1], found[1][1]) and same_bits(found[0][0], found[1][0])


def test_a_capture_that_did_not_happen_is_an_error() -> None:
    """Last in this file: it leaves a broken capture behind."""
    launcher, stream = CudaLauncher(torch.device("cuda", torch.cuda.current_device())), torch.cuda.current_stream()
    with pytest.raises(RuntimeError, match="the cuda-graph engine could not capture an iteration: "):
        launcher.capture(lambda: torch.ones((), device="cuda").item() and None)
    assert torch.cuda.current_stream() == stream
