"""The CPU engine keeps weights in blocks while a run lasts: callers must not notice between iterations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from resuming import check_resumed
from torch import Tensor

from fastgan import GAN, Adam, TrainConfig, _backend, nn, train
from fastgan.training import Callback, Run, session
from fastgan.training.engines.cpu import CpuEngine

pytestmark = pytest.mark.skipif(_backend.native is None, reason="the CPU engine is compiled")

DATA = torch.randn(200, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
DTYPES = (torch.float32, torch.float64)


def make(dtype: torch.dtype = torch.float32) -> GAN:
    """Of weights with one block of inputs, with whole blocks, and with a rest, whatever the width of a block."""
    torch.manual_seed(1)
    generator = nn.MLP([3, 64, 70, 40], activation="relu", dtype=dtype)
    return GAN(generator, nn.MLP([40, 33, 1], activation="leaky_relu", dtype=dtype), latent_dim=3)


def config_of(steps: int, **changes: Any) -> TrainConfig:
    usual = {"batch_size": 10, "optimizer": Adam(1e-2), "engine": "fused", "ema_decay": 0.9, "max_col_norm": 2.0}
    return TrainConfig(steps, **(usual | changes))


def run(steps: int, *callbacks: Callback, dtype: torch.dtype = torch.float32, **options: Any) -> GAN:
    gan = make(dtype)
    train(gan, DATA.to(dtype), config_of(steps, **options), callbacks=callbacks)
    return gan


def engine_of(gan: GAN, steps: int = 9) -> CpuEngine:
    config = config_of(steps)
    gan.keep_ema()
    return CpuEngine(gan, session.rows_for(DATA.to(gan.dtype), gan, config), config)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


class Every(Callback):
    def __init__(self, every: int, look: Callable[[Run], None]) -> None:
        self.every, self.look = every, look

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        if run.step % self.every == 0:
            self.look(run)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_callback_sees_what_so_many_iterations_leave(dtype: torch.dtype) -> None:
    seen: dict[int, dict[str, Tensor]] = {}
    keep = Every(3, lambda run: seen.update({run.step: {n: v.clone() for n, v in run.gan.state_dict().items()}}))
    whole = run(9, keep, dtype=dtype)
    assert [*seen] == [3, 6, 9]
    for steps, state in seen.items():
        assert same(run(steps, dtype=dtype).state_dict(), state), steps
    assert same(run(9, dtype=dtype).state_dict(), whole.state_dict())
    assert not same(seen[3], seen[6])


def test_a_callback_may_change_parameters_and_the_moving_average() -> None:
    def halve(run: Run) -> None:
        with torch.no_grad():
            for value in (*run.gan.parameters(), *run.gan.ema.parameters()):  # type: ignore[union-attr]
                value.data.numpy()[...] *= 0.5  # seen by no counter of torch

    found = {engine: run(9, Every(3, halve), dtype=torch.float64, engine=engine) for engine in ("fused", "eager")}
    for (name, a), b in zip(found["fused"].state_dict().items(), found["eager"].state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12), name
    assert not same(found["fused"].state_dict(), run(9, dtype=torch.float64).state_dict())


def test_bits_do_not_depend_on_chunks_or_on_looks() -> None:
    engines = [engine_of(make()) for _ in range(3)]
    for first in range(9):
        engines[0].begin(first, 1, lambda: False)()
        engines[1].begin(first, 1, lambda: False)()
        engines[1].write_back()
    engines[2].begin(0, 9, lambda: False)()
    states = [{str(i): s for i, s in enumerate(_all(engine))} for engine in engines]
    assert same(states[0], states[2]) and same(states[1], states[2])


def _all(engine: CpuEngine) -> list[Tensor]:
    """Parameters, averages and optimiser states."""
    optimizers = engine.optimizers.values()
    states = [value for o in optimizers for state in o.state.values() for value in state.values()]
    return [*engine.state.gan.state_dict().values(), *states]


def test_nothing_is_written_back_for_a_callback_that_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    usual = CpuEngine.write_back
    monkeypatch.setattr(CpuEngine, "write_back", lambda self: (written.append(1), usual(self))[1])
    steps: list[int] = []
    blind = Every(3, lambda run: steps.append(run.step))
    blind.reads_networks = False
    gan = run(9, blind)
    assert steps == [3, 6, 9]
    without = len(written)
    run(9, Every(3, lambda run: None))
    assert len(written) >= without + 3
    assert same(gan.state_dict(), run(9).state_dict())


def test_an_error_of_a_callback_leaves_the_networks_of_the_last_iteration() -> None:
    gan = make()

    def fail(run: Run) -> None:
        raise RuntimeError("enough")

    blind = Every(6, fail)
    blind.reads_networks = False
    with pytest.raises(RuntimeError, match="enough"):
        train(gan, DATA.float(), config_of(9), callbacks=[blind])
    assert same(run(6).state_dict(), gan.state_dict())


def test_a_loss_that_is_not_finite_leaves_the_networks_of_the_last_iteration() -> None:
    data, gans = DATA.float() * 1e30, [make(), make()]
    with pytest.raises(FloatingPointError):
        train(gans[0], data, config_of(1, loss="least_squares"))
    train(gans[1], data, config_of(1, loss="least_squares", nonfinite="log"))
    states = [{name: value.nan_to_num(7.0) for name, value in gan.state_dict().items()} for gan in gans]
    assert same(*states) and not same(states[0], make().state_dict())


def test_a_checkpoint_has_what_its_iteration_left(tmp_path: Path) -> None:
    check_resumed(make, DATA.float(), config_of(9, checkpoint_every=4), 4, tmp_path)


def test_a_parameter_may_be_replaced_without_notice() -> None:
    """Its old memory gets what the engine has of it; the next call reads the new one."""
    gan = make()
    engine = engine_of(gan)
    engine.begin(0, 3, lambda: False)()
    weight = gan.generator[2].weight  # 64 inputs
    before, other = weight.data, torch.zeros_like(weight)
    weight.data = other
    engine.begin(3, 1, lambda: False)()
    engine.write_back()
    assert torch.equal(before, run(3).generator[2].weight)
    assert 0 < float(other.abs().max()) < 0.1
