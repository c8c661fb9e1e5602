"""The compiled engines against the eager loop on the same random numbers: every layer, loss and mode of a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fused_rows import (
    ALL_ROWS,
    ROWS,
    ROWS_OF_TABLE,
    SCHEDULED,
    STEPS,
    Row,
    config_of,
    distance,
    mlp,
    of,
    run,
    same_runs,
)

from fastgan import (
    GAN,
    Adam,
    Momentum,
    TrainConfig,
    _backend,
    nn,
    random,
    train,
)
from fastgan._backend import native
from fastgan.training import checkpoint, session
from fastgan.training.callbacks import Callback
from fastgan.training.engines import cpu, plan

pytestmark = pytest.mark.skipif(_backend.native is None, reason="the engine is compiled")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "float"])
@pytest.mark.parametrize("name", ALL_ROWS)
def test_fused_equals_eager(name: str, dtype: torch.dtype) -> None:
    eager, expected = run(ALL_ROWS[name], dtype, "eager")
    fused, got = run(ALL_ROWS[name], dtype, "fused")
    assert (expected.engine, got.engine) == ("eager", "cpu")
    tolerance = 1e-10 if dtype == torch.float64 else 2e-4
    assert distance(eager, fused) < tolerance
    for column, values in expected.history.items():
        assert np.abs(values - got.history[column]).max() < tolerance, column
    assert distance(eager, run(ALL_ROWS[name], dtype, "fused", seed=6)[0]) > 10 * tolerance


THREADED = (
    "plain", "maxout", "batch normalisation", "wgan-gp maxout", "wide", "pack 2, relativistic",
    "r1 dropout, simultaneous", "moving average", "a batch of no round size", "clip by norm, wide",
    "conditional, pack 2, relativistic, r1", "conditional, wide", "heads", "residual blocks",
    "three penalties, simultaneous", "a batch of vectors and a rest, 20 rows", "a batch of vectors and a rest, 72 rows",
)  # fmt: skip


@pytest.mark.parametrize("name", THREADED)
def test_R16_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    results = []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        results.append(run(ALL_ROWS[name], torch.float32, "fused", steps=400))
    assert all(same_runs(results[0], other) for other in results[1:])


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 12), (torch.float64, 27)], ids=str)
def test_R16_products_are_fused_whatever_the_batch(dtype: torch.dtype, digits: int) -> None:
    """(1 + e)^2 - (1 + 2 e) is e^2 where the square is not rounded before the sum, and else 0. From version 14 on, g++
    left to itself rounds it in a lone sum of 256 bits or less, and so in the tiles of few rows alone."""
    e = 2.0**-digits
    rows = torch.tensor([[1.0, 1.0 + e]], dtype=dtype).repeat(20, 1)
    losses = set()
    for m in range(1, 21):
        generator, discriminator = (nn.Linear(*sizes, bias=False, dtype=dtype) for sizes in ((1, 2), (2, 1)))
        with torch.no_grad():
            generator.weight.zero_()
            discriminator.weight.copy_(torch.tensor([[-1.0 - 2.0 * e, 1.0 + e]], dtype=dtype))
        config = TrainConfig(1, m, loss="wasserstein", engine="cpu")
        losses.add(train(GAN(generator, discriminator, latent_dim=1), rows, config).history["loss_d"].item())
    fuses = _backend.native.build_info()["instruction_set"] != "v2"
    assert losses == {-e * e if fuses else 0.0}


def test_the_optimizers_states_are_the_eager_loops(tmp_path: Any) -> None:
    found = {}
    for engine in ("eager", "fused"):
        for name, optimizer in (("adam", Adam(1e-2)), ("momentum", Momentum(0.05, momentum=0.5, **SCHEDULED))):
            torch.manual_seed(1)
            gan = mlp(torch.float64)
            config = TrainConfig(STEPS, 20, k=2, optimizer=optimizer, engine=engine)
            data = torch.randn(ROWS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
            train(gan, data, config, run_dir=tmp_path / f"{engine}-{name}")
            found[engine, name] = checkpoint.load(tmp_path / f"{engine}-{name}")
    for name in ("adam", "momentum"):
        eager, fused = found["eager", name], found["fused", name]
        assert eager.groups["generator"][0]["lr"] == fused.groups["generator"][0]["lr"]
        assert eager.groups["discriminator"][0].get("momentum") == fused.groups["discriminator"][0].get("momentum")
        for key, value in eager.tensors.items():
            assert torch.allclose(value.double(), fused.tensors[key].double(), rtol=1e-9, atol=1e-12), key


def test_the_optimizers_numbers_are_read_once_and_written_where_they_are_wanted(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU they are on the device: each look at one waits for it, each number written is a launch."""
    looks: list[str] = []
    for name in ("__int__", "item", "fill_"):
        usual = getattr(torch.Tensor, name)
        watched = lambda tensor, *rest, n=name, f=usual: (looks.append(n), f(tensor, *rest))[1]  # noqa: E731
        monkeypatch.setattr(torch.Tensor, name, watched)

    row = Row(config={"k": 2})
    for steps in (8, 16):  # the second goes on from a checkpoint: what that says counts
        torch.manual_seed(1)
        gan, config = row.make(torch.float32), config_of(row, "fused", steps=steps)
        engine = cpu.CpuEngine(gan, session.rows_for(row.data(torch.float32), gan, config), config)
        if steps > 8:
            checkpoint.load(tmp_path).restore(gan, engine.optimizers)
        looks.clear()
        for first in range(steps - 8, steps, 2):
            engine.begin(first, 2, lambda: False)()
        assert looks == ["__int__"] * 2
        checkpoint.save(tmp_path, gan, engine.optimizers, step=steps)
        assert looks == ["__int__"] * 2 + ["fill_"] * 12
        for name, each in (("generator", 1), ("discriminator", 2)):
            assert {float(state["step"]) for state in engine.optimizers[name].state.values()} == {each * steps}
    assert distance(run(row, torch.float32, "fused", steps=16)[0], gan) == 0.0


def test_resume_goes_on_bit_for_bit_in_the_middle_of_an_epoch(tmp_path: Any) -> None:
    row = Row(of(dropout=0.3), config={"ema_decay": 0.9, "k": 2})
    whole = run(row, torch.float32, "fused", steps=37)
    for steps in (11, 12, 37):
        resumed = run(row, torch.float32, "fused", steps=steps, run_dir=tmp_path, resume=steps > 11)
    assert same_runs(whole, resumed) and whole[1].history["step"][-1] == 37


def test_both_engines_count_the_seeds_of_dropout_masks() -> None:
    row = Row(of(dropout=0.5))
    fused, _ = run(row, torch.float64, "fused", steps=3, seed=2**63 - 1)
    eager, _ = run(row, torch.float64, "eager", steps=3, seed=2**63 - 1)
    other, _ = run(row, torch.float64, "eager", steps=3, seed=2**62)
    assert distance(eager, fused) < 1e-12 < distance(eager, other)
    assert random.torch_seed(1, 2) != random.torch_seed(1, 3)


def test_nan_data_of_one_iteration_is_skipped_and_all_else_kept() -> None:
    torch.manual_seed(1)
    gan = mlp(torch.float32)
    with torch.no_grad():
        gan.generator[0].weight.fill_(torch.nan)
    before = {name: value.clone() for name, value in gan.state_dict().items()}
    data = torch.randn(ROWS, 2)
    result = train(gan, data, TrainConfig(5, 20, nonfinite="skip", engine="fused"))
    assert not np.isfinite(result.history["loss_d"]).any()
    assert all(
        torch.equal(before[name].nan_to_num(7.0), value.nan_to_num(7.0)) for name, value in gan.state_dict().items()
    )


def test_R33_not_finite_is_named_with_its_iteration() -> None:
    torch.manual_seed(1)
    data = torch.randn(ROWS, 2)
    with pytest.raises(FloatingPointError, match=r"train: loss_d is not finite \((inf|nan)\) at iteration [0-9]+"):
        train(
            mlp(torch.float32),
            data,
            TrainConfig(2000, 20, optimizer=Momentum(1e6), loss="least_squares", engine="fused"),
        )


# ---------------------------------------------------------------- what a plan cannot say


def hooked(dtype: torch.dtype) -> GAN:
    gan = mlp(dtype)
    gan.generator[0].register_forward_hook(lambda *_: None)
    return gan


def shared(dtype: torch.dtype) -> GAN:
    layer = torch.nn.Linear(2, 2)
    return GAN(torch.nn.Sequential(torch.nn.Linear(3, 2), layer, layer), nn.MLP([2, 1], activation=None), latent_dim=3)


class Doubled(torch.nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


REFUSED: dict[str, tuple[Callable[[torch.dtype], GAN], dict[str, Any], str]] = {
    "hook": (hooked, {}, "gan.generator: it has hooks"),
    "shared": (shared, {}, "gan.generator: two layers share a parameter"),
    "own forward": (
        lambda dtype: GAN(Doubled(torch.nn.Linear(3, 2)), nn.MLP([2, 1], activation=None), latent_dim=3),
        {},
        "gan.generator: Doubled is no layer that fuses",
    ),
    "torch dropout": (
        lambda dtype: GAN(
            nn.MLP([3, 2], activation=None),
            torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1)),
            latent_dim=3,
        ),
        {},
        "gan.discriminator: torch.nn.Dropout draws its masks itself",
    ),
    "penalty and batch normalisation": (
        lambda dtype: GAN(
            nn.MLP([3, 2], activation=None),
            torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)),
            latent_dim=3,
        ),
        {"gradient_penalty": "r1"},
        "gan.discriminator: BatchNorm1d under a gradient penalty",
    ),
    "reference": (of(), {"impl": "reference"}, "config.impl is 'reference'"),
    "penalty and residual block": (
        lambda dtype: GAN(
            nn.MLP([3, 2], activation=None),
            torch.nn.Sequential(nn.Residual(2, 4), torch.nn.Linear(6, 1)),
            latent_dim=3,
        ),
        {"gradient_penalty": "r1"},
        "gan.discriminator: Residual under a gradient penalty",
    ),
    "dropout of a residual block": (
        lambda dtype: GAN(
            nn.Sequential(nn.Residual(3, 4), nn.Dropout(0.5), torch.nn.Linear(7, 2)),
            nn.MLP([2, 1], activation=None),
            latent_dim=3,
        ),
        {},
        "gan.generator: a dropout follows Residual",
    ),
    "heads before a layer": (
        lambda dtype: GAN(
            torch.nn.Sequential(torch.nn.Linear(3, 2), nn.Heads([("softmax", 2)]), torch.nn.Linear(2, 2)),
            nn.MLP([2, 1], activation=None),
            latent_dim=3,
        ),
        {},
        "gan.generator: a layer follows Heads",
    ),
    "heads of an activation": (
        lambda dtype: GAN(
            torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), nn.Heads([("softmax", 2)])),
            nn.MLP([2, 1], activation=None),
            latent_dim=3,
        ),
        {},
        "gan.generator: Heads does not follow a linear layer",
    ),
    "heads of a discriminator": (
        lambda dtype: GAN(
            nn.MLP([3, 2], activation=None),
            torch.nn.Sequential(torch.nn.Linear(2, 1), nn.Heads([("none", 1)])),
            latent_dim=3,
        ),
        {},
        "gan.discriminator: Heads is for the output of a generator",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_plan_cannot_say_runs_eagerly_with_the_reason(name: str) -> None:
    make, changes, reason = REFUSED[name]
    data = torch.randn(ROWS, 2)
    result = train(make(torch.float32), data, TrainConfig(2, 20, **changes))
    assert result.engine == "eager" and result.engine_reason.startswith(reason)
    with pytest.raises(ValueError, match="got 'fused'") as caught:
        train(make(torch.float32), data, TrainConfig(2, 20, engine="fused", **changes))
    assert result.engine_reason in str(caught.value)


def test_a_residual_block_whose_parts_are_exchanged_is_refused() -> None:
    swapped = nn.Residual(4, 4)
    swapped.linear, swapped.norm = swapped.norm, swapped.linear  # type: ignore[assignment]
    other = nn.Residual(4, 4)
    other.norm = torch.nn.Linear(4, 4)  # type: ignore[assignment]
    for block, what in ((swapped, "BatchNorm1d in the place of Linear"), (other, "Linear in the place of BatchNorm1d")):
        with pytest.raises(plan.UnsupportedByEngine, match=f"gan.generator: Residual with {what}"):
            plan.network_plan("gan.generator", torch.nn.Sequential(torch.nn.Linear(2, 4), block))


def test_a_bias_that_only_broadcasts_is_refused() -> None:
    gan = mlp(torch.float32)
    gan.discriminator[0].bias = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(plan.UnsupportedByEngine, match="its bias is not one number a row"):
        plan.network_plan("gan.discriminator", gan.discriminator)


@pytest.mark.parametrize("what", [torch.nn.Flatten(), torch.nn.BatchNorm1d(4)])
def test_a_module_whose_forward_was_replaced_is_refused(what: torch.nn.Module) -> None:
    what.forward = lambda x: 2 * x  # type: ignore[method-assign]
    network = torch.nn.Sequential(torch.nn.Linear(2, 4), what, torch.nn.Linear(4, 1))
    with pytest.raises(plan.UnsupportedByEngine, match="its forward is replaced"):
        plan.network_plan("gan.discriminator", network)


def test_rows_in_any_order_of_memory_train_alike() -> None:
    data = torch.randn(ROWS, 2).numpy()
    gans = []
    for given in (data[::-1].copy(), data[::-1]):
        torch.manual_seed(1)
        gans.append(mlp(torch.float32))
        assert train(gans[-1], given, TrainConfig(5, 20)).engine == "cpu"
    assert distance(*gans) == 0.0


def test_what_changes_during_a_run_is_said_instead_of_computed() -> None:
    class Widen(Callback):
        every = 2

        def on_chunk(self, run: Any, rows: Any) -> None:
            run.gan.double()

    with pytest.raises(RuntimeError, match="the cpu engine cannot continue, because the model changed during .* dtype"):
        train(mlp(torch.float32), torch.randn(ROWS, 2), TrainConfig(6, 20, engine="fused"), callbacks=[Widen()])


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_an_average_of_another_network_is_refused(engine: str) -> None:
    """One kept from an earlier training: its memory is not that of the weights which are averaged now."""
    config = TrainConfig(6, 20, ema_decay=0.9, engine=engine)
    gan = mlp(torch.float32)
    gan.ema = torch.nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"ema must be None, or have the parameters .*, got \(\(2, 3\), torch"):
        train(gan, torch.randn(ROWS, 2), config)
    gan.ema = torch.nn.Identity()
    with pytest.raises(ValueError, match="or have the parameters and buffers of generator, got 0 for [1-9]"):
        train(gan, torch.randn(ROWS, 2), config)
    gan.ema = None
    assert train(gan, torch.randn(ROWS, 2), config).engine == engine.replace("fused", "cpu")


def test_an_average_that_is_replaced_during_a_run_is_said() -> None:
    class Replace(Callback):
        every = 2

        def on_chunk(self, run: Any, rows: Any) -> None:
            run.gan.ema = torch.nn.Identity()

    config = TrainConfig(6, 20, ema_decay=0.9, engine="fused")
    with pytest.raises(
        RuntimeError, match="cannot continue, because the model changed during training: GAN: ema must be None"
    ):
        train(mlp(torch.float32), torch.randn(ROWS, 2), config, callbacks=[Replace()])


def test_half_precision_networks_keep_the_eager_loop() -> None:
    with pytest.raises(plan.UnsupportedByEngine, match="bfloat16, neither float32 nor float64"):
        plan.check_config(mlp(torch.bfloat16), TrainConfig(1, 1))


# ---------------------------------------------------------------- bfloat16 products


def test_ieee_is_what_a_processor_computes_anyway() -> None:
    gans = [run(ROWS_OF_TABLE["wide"], torch.float32, "fused", steps=5, precision=p)[0] for p in ("fp32", "ieee")]
    assert distance(*gans) == 0.0


def test_bf16_is_refused_where_it_cannot_be_had() -> None:
    data = torch.randn(ROWS, 2)
    with pytest.raises(ValueError, match="precision must be 'fp32' for the eager engine, got 'bf16'"):
        train(mlp(torch.float32), data, TrainConfig(1, 20, engine="eager", precision="bf16"))
    with pytest.raises(ValueError, match="got 'bf16': config.precision is 'bf16', which is for float32 networks"):
        train(mlp(torch.float64), data.double(), TrainConfig(1, 20, precision="bf16"))
    if native.bf16_products()["amx"] == "yes":  # where tests/test_amx.py trains in it
        return
    with pytest.raises(ValueError, match="got 'tf32': config.precision is 'tf32', which is for CUDA"):
        train(mlp(torch.float32), data, TrainConfig(1, 20, precision="tf32"))
