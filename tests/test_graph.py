"""The CUDA-graph engine without a GPU, against the CPU's engine on the same random numbers; replayed as a graph is.

The iteration's own code runs: products by torch on the CPU, the CUDA kernels emulated. What takes a GPU is in
tests/test_cuda_graph.py.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import switches
import torch
from emulator import NEEDS, Library
from fused_rows import (
    MOMENTUM,
    OVERFLOWING,
    ROWS,
    ROWS_OF_GRAPH,
    ROWS_OF_TABLE,
    Row,
    config_of,
    distance,
    mlp,
    normalized,
    of,
    row,
    run,
    same_bits,
    same_runs,
)
from graph_launcher import Processor, Recorder
from rounded import RoundedProduct
from torch import Tensor

from fastgan import GAN, Adam, Momentum, TrainConfig, _backend, nn, train
from fastgan._options import Precision, names
from fastgan.training import TrainResult, checkpoint, engines, session
from fastgan.training.callbacks import Callback
from fastgan.training.engines import cuda_engine, plan
from fastgan.training.engines import cuda_graph as graph
from fastgan.training.engines.cost_model import Work
from fastgan.training.engines.cuda_graph import GraphEngine
from fastgan.training.rows import Minibatches

pytestmark = [*NEEDS, pytest.mark.skipif(_backend.native is None, reason="the engine it is compared with is compiled")]
STEPS = 6


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Processor | None], None]]:
    """Lets `train` choose the CUDA-graph engine on a machine; None: what it would choose itself."""
    usual = engines.CpuEngine

    def choose(launcher: Processor | None) -> None:
        def engine(gan: GAN, rows: Minibatches, config: TrainConfig) -> GraphEngine:
            return GraphEngine(gan, rows, config, launcher)

        monkeypatch.setattr(engines, "CpuEngine", usual if launcher is None else engine)

    yield choose


On = Callable[[Processor | None], None]


def compare(row: Row, dtype: torch.dtype, launcher: Processor, on: On, **changes: Any) -> tuple[GAN, TrainResult]:
    """Both engines' runs must agree to rounding; gives the CUDA-graph engine's."""
    on(None)
    fused, expected = run(row, dtype, "fused", **changes)
    on(launcher)
    graph, got = run(row, dtype, "fused", **changes)
    assert (expected.engine, got.engine) == ("cpu", "cuda-graph")
    tolerance = 1e-10 if dtype == torch.float64 else 2e-4
    assert distance(fused, graph) < tolerance
    for column, values in expected.history.items():
        difference = np.abs(np.nan_to_num(values, posinf=1e300) - np.nan_to_num(got.history[column], posinf=1e300))
        assert difference.max() < tolerance, column
    return graph, got


ROWS_ON_A_GPU = ROWS_OF_TABLE | ROWS_OF_GRAPH


@pytest.mark.parametrize("name", ROWS_ON_A_GPU)
def test_graph_equals_fused(name: str, library: Library, on: On) -> None:
    launcher = Recorder(library)
    compare(ROWS_ON_A_GPU[name], torch.float64, launcher, on, steps=STEPS)
    assert len(launcher.captures) == 1  # six iterations: one alone, then a graph of one, replayed


IN_FLOAT = (
    "activation gelu", "dropout", "maxout, simultaneous", "batch normalisation, skip, average", "momentum, pylearn2",
    "pack 2, simultaneous, wgan-gp", "prior spherical", "r1 sigmoid", "loss relativistic", "loss hinge", "wgan-gp",
    "heads", "residual blocks",
)  # fmt: skip


@pytest.mark.parametrize("name", IN_FLOAT)
def test_graph_equals_fused_in_float(name: str, library: Library, on: On) -> None:
    compare(ROWS_ON_A_GPU[name], torch.float32, Recorder(library), on, steps=STEPS)


# ---------------------------------------------------------------- captured once, replayed


EVERYTHING = Row(normalized, config={"optimizer": MOMENTUM, "nonfinite": "skip", "ema_decay": 0.8, "max_col_norm": 2.0})
SCHEDULED = Momentum(0.05, momentum=0.5, lr_decay=1.01, min_lr=0.03, momentum_final=0.7, saturate_epochs=3.0)


@pytest.mark.parametrize(
    "row",
    [EVERYTHING, row(of(dropout=0.3), generator_optimizer=SCHEDULED, gradient_penalty="wgan-gp")],
    ids=["everything", "adam, schedules, penalty"],
)
def test_R24_replays_are_iterations(row: Row, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of 10, 3 and 1 iterations against calls made anew: nothing of the host's is baked in."""
    monkeypatch.setattr(graph, "_SIZES", (10, 3, 1))
    steps, gans, tables = 28, [], []
    launchers = Processor(library), Recorder(library)
    config = config_of(row, "fused")
    for launcher in launchers:
        torch.manual_seed(1)
        gan = row.make(torch.float32)
        engine = GraphEngine(gan, session.rows_for(row.data(torch.float32), gan, config), config, launcher)
        tables.append(engine.begin(0, steps, lambda: False)())
        gans.append(gan)
    ten, _, one = launchers[1].captures
    assert ten - 1 == 10 * (one - 1)  # the dropout seeds are drawn for all of them at once
    assert np.array_equal(*tables) and len(np.unique(tables[0][:, 0])) == steps
    assert same_bits(*gans)


def test_G4_a_call_has_whole_graphs_unless_a_mark_cuts_it(
    library: Library, on: On, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mark(Callback):
        every = 23

    monkeypatch.setattr(graph, "MOST", 5)
    monkeypatch.setattr(graph, "_SIZES", (5, 2, 1))
    monkeypatch.setattr(session, "_CHUNK_SECONDS", 1e9)  # calls of 1, 4, 16 and 64 iterations would be wanted
    begun: list[tuple[int, int]] = []
    begin = GraphEngine._queue

    def noted(engine: GraphEngine, iteration: Any, count: int, should_stop: Any) -> int:
        begun.append((count, begin(engine, iteration, count, should_stop)))
        return begun[-1][1]

    monkeypatch.setattr(GraphEngine, "_queue", noted)
    on(Recorder(library))
    data, config = torch.randn(ROWS, 2), TrainConfig(58, 20, engine="fused")
    result = train(mlp(torch.float32, width=4), data, config, callbacks=[Mark()])
    assert [done for _, done in begun] == [1, 4, 15, 3, 20, 3, 10, 2] and result.step == 58
    assert all(count == done for count, done in begun)


def test_resume_goes_on_bit_for_bit_in_the_middle_of_an_epoch(tmp_path: Path, library: Library, on: On) -> None:
    row = Row(of(dropout=0.3), config={"ema_decay": 0.9, "k": 2})
    on(Recorder(library))
    whole = run(row, torch.float32, "fused", steps=23)
    for steps in (11, 12, 23):
        on(Recorder(library))
        resumed = run(row, torch.float32, "fused", steps=steps, run_dir=tmp_path, resume=steps > 11)
    assert same_runs(whole, resumed)
    counted = checkpoint.load(tmp_path)
    steps_made = {int(value) for name, value in counted.tensors.items() if name.endswith("step")}
    assert steps_made == {23, 46}


def test_an_engine_goes_on_where_another_stopped(tmp_path: Path, library: Library, on: On) -> None:
    """A checkpoint of the CPU's engine, taken up by the CUDA-graph engine, is the CPU engine's run to rounding."""
    row, found = ROWS_OF_TABLE["momentum, pylearn2"], []
    for launcher in (None, Recorder(library)):
        for steps, engine in ((9, None), (20, launcher)):
            on(engine)
            folder = tmp_path / str(launcher)
            gan, _ = run(row, torch.float64, "fused", steps=steps, run_dir=folder, resume=steps > 9)
        found.append(gan)
    assert 0.0 < distance(*found) < 1e-10


def test_tensors_that_moved_are_found_again(library: Library, on: On) -> None:
    class Move(Callback):
        every = 5

        def on_chunk(self, run: Any, rows: Any) -> None:
            for parameter in run.gan.parameters():
                parameter.data = parameter.data.clone()

    gans, launcher = [], Recorder(library)
    for callbacks in ([], [Move()]):
        on(launcher)
        torch.manual_seed(1)
        gans.append(mlp(torch.float32))
        data = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(2))
        train(gans[-1], data, TrainConfig(12, 20, optimizer=Adam(1e-2), engine="fused"), callbacks=callbacks)
    assert same_bits(*gans)


def test_what_changes_during_a_run_is_said_instead_of_computed(library: Library, on: On) -> None:
    class Widen(Callback):
        every = 2

        def on_chunk(self, run: Any, rows: Any) -> None:
            run.gan.double()

    on(Recorder(library))
    with pytest.raises(
        RuntimeError, match="the cuda-graph engine cannot continue, because the model changed during training: .* dtype"
    ):
        train(mlp(torch.float32), torch.randn(ROWS, 2), TrainConfig(6, 20, engine="fused"), callbacks=[Widen()])


@pytest.mark.parametrize("precision", ("fp32", "bf16"))
@pytest.mark.parametrize(
    "name", ["plain", "k = 3, two steps of G", "simultaneous", "pack 2", "loss relativistic", "maxout", "wide"]
)
def test_the_choice_of_an_engine_expects_about_as_many_launches(name: str, precision: str, library: Library) -> None:
    row, launcher = ROWS_OF_TABLE[name], Recorder(library)
    gan, config = row.make(torch.float32), config_of(row, "fused", precision=precision)
    engine = GraphEngine(gan, session.rows_for(torch.randn(ROWS, row.features), gan, config), config, launcher)
    engine.begin(0, 2, lambda: False)()
    assert launcher.captures[-1] == pytest.approx(Work.of(gan, config).launches, rel=0.25)


# ---------------------------------------------------------------- what is not done


def test_the_step_of_g_computes_no_gradient_of_ds_weights(library: Library) -> None:
    class Watching(Processor):
        outs: list[int] = []

        def product(self, out: Tensor, *factors: Any) -> None:
            self.outs.append(out.data_ptr())
            super().product(out, *factors)

    gan, config, launcher = mlp(torch.float32), TrainConfig(1, 20, k=2, generator_steps=3), Watching(library)
    engine = GraphEngine(gan, session.rows_for(torch.randn(ROWS, 2), gan, config), config, launcher)
    engine.begin(0, 1, lambda: False)()
    iteration = engine.prepare()
    for network, times in ((iteration.d, 2), (iteration.g, 3)):
        for layer in network.layers:
            grad = layer.grad_of(layer.spec["weight"])
            assert grad is not None and launcher.outs.count(grad.data_ptr()) == times


# ---------------------------------------------------------------- precisions


def rounded_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product: Tensor = RoundedProduct.apply(x, weight, "bf16")
    return product if bias is None else product + bias


def by_reference(make: Callable[[torch.dtype], GAN]) -> Callable[[torch.dtype], GAN]:
    """Networks whose layers call torch's functions."""

    def made(dtype: torch.dtype) -> GAN:
        gan = make(dtype)
        for module in (*gan.generator.modules(), *gan.discriminator.modules()):
            if "impl" in module.__dict__:
                module.impl = "reference"  # type: ignore[assignment]
        return gan

    return made


IN_BF16 = (
    "activation gelu", "dropout", "maxout", "maxout, simultaneous", "batch normalisation, skip, average", "max norm",
    "k = 3, two steps of G", "pack 2, simultaneous, wgan-gp", "plain torch, frozen parameters", "r1 sigmoid",
    "r1 dropout, simultaneous", "wgan-gp", "wgan-gp maxout", "wide", "wide, wgan-gp", "residual blocks",
)  # fmt: skip


@pytest.mark.parametrize("name", IN_BF16)
def test_bf16_rounds_the_factors_of_products_and_nothing_else(
    name: str, library: Library, on: On, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, found = ROWS_ON_A_GPU[name], {}
    options: dict[str, Any] = {"steps": 4, "optimizer": MOMENTUM, "generator_optimizer": None}
    for precision in ("fp32", "bf16"):
        on(Recorder(library))
        found[precision] = run(row, torch.float32, "fused", precision=precision, **options)[0]
    monkeypatch.setattr(torch.nn.functional, "linear", rounded_linear)
    found["oracle"] = run(replace(row, make=by_reference(row.make)), torch.float32, "eager", **options)[0]
    # A sum that differs in its last bit may round to the neighbouring bfloat16: 2^-9 of one factor of one product.
    assert distance(found["oracle"], found["bf16"]) < 0.1 * distance(found["oracle"], found["fp32"])


def test_bf16_rounds_each_matrix_once(library: Library) -> None:
    """Of a step of each player: weights at the beginning and after their update, each layer's input and gradient."""
    copies: list[Tensor] = []

    class Watching(Processor):
        def copy(self, out: Tensor, x: Tensor) -> None:
            copies.append(out)
            super().copy(out, x)

        def copy_all(self, outs: list[Tensor], xs: list[Tensor]) -> None:
            copies.extend(outs)
            super().copy_all(outs, xs)

    gan, config = mlp(torch.float32), TrainConfig(1, 20, precision="bf16")
    engine = GraphEngine(gan, session.rows_for(torch.randn(ROWS, 2), gan, config), config, Watching(library))
    engine.begin(0, 1, lambda: False)()
    iteration, counts = engine.prepare(), Counter(out.data_ptr() for out in copies)
    assert all(out.dtype == torch.bfloat16 for out in copies)
    wanted: Counter[int] = Counter()
    for network, steps in ((iteration.g, 1), (iteration.d, 2)):  # D's step goes through G only forward
        for layer in network.layers:
            wanted += {layer.w.taken.data_ptr(): 2, layer.x.taken.data_ptr(): 2, layer.back.taken.data_ptr(): steps}
    assert counts == wanted


def test_bf16_takes_up_weights_that_were_changed_in_place(library: Library) -> None:
    found = []
    for launcher in (Processor(library), Recorder(library)):
        torch.manual_seed(1)
        gan, config = mlp(torch.float32), TrainConfig(1, 20, precision="bf16")
        engine = GraphEngine(gan, session.rows_for(torch.randn(ROWS, 2), gan, config), config, launcher)
        tables = [engine.begin(0, 3, lambda: False)()]
        with torch.no_grad():
            for parameter in gan.parameters():
                parameter.mul_(0.5)
        tables.append(engine.begin(3, 3, lambda: False)())
        found.append(np.concatenate(tables))
    assert np.array_equal(*found)


@pytest.mark.parametrize("precision", ("tf32", "bf16"))
def test_rounded_factors_are_refused_without_tensor_cores(precision: str, library: Library) -> None:
    gan, config, launcher = mlp(torch.float32), TrainConfig(1, 20, precision=precision), Processor(library)
    launcher.tensor_cores = False
    with pytest.raises(
        plan.UnsupportedByEngine, match=f"precision is '{precision}', which takes compute capability 8.0"
    ):
        GraphEngine(gan, session.rows_for(torch.randn(ROWS, 2), gan, config), config, launcher)


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("_switches_reset")
@pytest.mark.parametrize("fails", (False, True), ids=("captures", "fails"))
@pytest.mark.parametrize("ask", ["nothing", "medium", "the newer"])
@pytest.mark.parametrize("precision", names(Precision))
def test_products_have_the_requested_precision_whatever_the_switch_says(
    precision: str, ask: str, fails: bool, library: Library
) -> None:
    class Watching(Recorder):
        found: set[str] = set()

        def product(self, out: Tensor, *factors: Any) -> None:
            self.found.add("tf32" if switches.MATMUL.fp32_precision == "tf32" else "exact")
            super().product(out, *factors)

        def capture(self, body: Callable[[], None]) -> Callable[[], None]:
            replay = super().capture(body)
            if fails:
                raise RuntimeError("no capture today")
            return replay

    gan, config, launcher = mlp(torch.float32), TrainConfig(1, 20, precision=precision), Watching(library)
    engine = GraphEngine(gan, session.rows_for(torch.randn(ROWS, 2), gan, config), config, launcher)
    switches.ASKS[ask]()
    asked = switches.answers()
    with pytest.raises(RuntimeError, match="no capture today") if fails else contextlib.nullcontext():
        engine.begin(0, 3, lambda: False)()  # one by itself, one captured
    assert launcher.found == {"tf32" if precision == "tf32" else "exact"} and len(launcher.captures) == 1
    assert switches.answers() == asked


# ---------------------------------------------------------------- what is not finite


def test_R33_what_is_not_finite_is_skipped_on_the_device(library: Library, on: On) -> None:
    """One row of the data overflows a loss: D's updates that meet it are not made, and Adam does not count them."""

    def make(dtype: torch.dtype) -> GAN:
        linear = torch.nn.Linear
        generator = torch.nn.Sequential(
            linear(3, 9, bias=False), torch.nn.BatchNorm1d(9), torch.nn.ReLU(), linear(9, 2)
        )
        return GAN(generator, nn.MLP([2, 8, 1], activation="relu"), latent_dim=3).to(dtype)

    data = torch.randn(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    data[7] = 1e200  # its square is infinite
    plain = {"optimizer": Adam(1e-2), "ema_decay": 0.9, "loss": "least_squares"}
    config = TrainConfig(9, 20, nonfinite="skip", engine="fused", k=2, **plain)
    found, losses = [], []
    for launcher in (None, Recorder(library)):
        on(launcher)
        torch.manual_seed(1)
        gan = make(torch.float64)
        losses.append(train(gan, data, config).history["loss_d"])
        found.append(gan)
    bad = ~np.isfinite(losses[0])
    assert 0 < bad.sum() < len(bad) and np.array_equal(bad, ~np.isfinite(losses[1]))
    assert distance(*found) < 1e-10
    assert all(torch.isfinite(value).all() for value in found[1].state_dict().values())


@pytest.mark.parametrize("mode", ["alternating", "simultaneous"])
def test_R33_an_update_whose_result_is_not_finite_is_taken_back(mode: str, library: Library, on: On) -> None:
    on(Recorder(library))
    gan, got = run(OVERFLOWING, torch.float32, "fused", steps=3, mode=mode)
    assert np.isfinite(got.history["loss_d"]).all() and np.isfinite(got.history["loss_g"]).all()
    torch.manual_seed(1)
    assert same_bits(OVERFLOWING.make(torch.float32), gan)


def test_R33_nothing_but_nan_changes_nothing(library: Library, on: On) -> None:
    on(Recorder(library))
    torch.manual_seed(1)
    gan = normalized(torch.float32)
    with torch.no_grad():
        gan.generator[0].weight.fill_(torch.nan)
    before = {name: value.clone() for name, value in gan.state_dict().items()}
    config = TrainConfig(5, 20, nonfinite="skip", engine="fused")
    engine = GraphEngine(gan, session.rows_for(torch.randn(ROWS, 2), gan, config), config, Recorder(library))
    assert not np.isfinite(engine.begin(0, 5, lambda: False)()[:, :2]).any()
    for name, value in gan.state_dict().items():
        assert torch.equal(before[name].nan_to_num(7.0), value.nan_to_num(7.0)), name
    for optimizer in engine.optimizers.values():
        assert all(state["step"] == 0 and not state["exp_avg"].any() for state in optimizer.state.values())


def test_R33_not_finite_is_named_with_its_iteration(library: Library, on: On) -> None:
    on(Recorder(library))
    config = TrainConfig(300, 20, optimizer=Momentum(1e6), loss="least_squares", engine="fused")
    with pytest.raises(FloatingPointError, match=r"train: loss_d is not finite \((inf|nan)\) at iteration [0-9]+"):
        train(mlp(torch.float32), torch.randn(ROWS, 2), config)


# ---------------------------------------------------------------- which engine runs, and why not


def test_without_a_gpu_the_reason_is_said() -> None:
    if _backend.cuda_reason() is None:
        pytest.skip("there is a GPU")
    gan, config = mlp(torch.float32), TrainConfig(1, 20)
    with pytest.raises(plan.UnsupportedByEngine, match="built without CUDA|no CUDA device"):
        cuda_engine(gan, session.rows_for(torch.randn(ROWS, 2), gan, config), config)


def test_a_capture_that_fails_is_an_error(library: Library, on: On) -> None:
    class Broken(Processor):
        def capture(self, body: Callable[[], None]) -> Callable[[], None]:
            raise RuntimeError("no capture today")

    on(Broken(library))
    with pytest.raises(RuntimeError, match="no capture today"):
        train(mlp(torch.float32), torch.randn(ROWS, 2), TrainConfig(4, 20))
