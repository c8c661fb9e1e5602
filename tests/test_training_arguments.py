"""train(): what it refuses, by name and before anything runs, and what it accepts."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_training_run import CONFIG, DATA, new_gan, same, state
from torch import Tensor, nn

from fastgan import _backend
from fastgan.models import GAN
from fastgan.training import Callback, Run, TrainConfig, train, train_population


class Nan:
    def __len__(self) -> int:
        return 20

    def rows(self, index: Tensor) -> Tensor:
        return torch.where(index[:, None] == 17, torch.nan, torch.zeros(len(index), 3))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (DATA.long(), TypeError, "train: data must be floating point, got torch.int64"),
        (np.zeros((20, 3), dtype=np.uint8), TypeError, "train: data must be floating point, got torch.uint8"),
        (DATA[:0], ValueError, "train: data must have at least one row, got none"),
        (DATA[:3], ValueError, "train: batch_size must be at most the 3 rows of data, got 4"),
        (
            DATA[:, 0],
            ValueError,
            r"train: data must have shape \(n, ...\), a row for each sample, got \(20,\)",
        ),
        (DATA[:, :0], ValueError, r"train: data must have features, got rows of shape \(0,\)"),
        (
            DATA[:, :2],
            ValueError,
            r"train: gan.generator must give samples of the data's shape \(2,\), got \(3,\)",
        ),
        (DATA / 0, ValueError, "train: data must be finite, got a NaN or an infinity in row 0"),
        (Nan(), ValueError, "train: data must be finite, got a NaN or an infinity in row 17"),
        (
            [[1.0, 2.0]],
            TypeError,
            "train: data must be a Tensor, a numpy array, a dataset, a DataLoader or a generator of batches, got list",
        ),
    ],
)
def test_bad_data_are_named_before_anything_runs(data: object, error: type, message: str, tmp_path: Path) -> None:
    gan = new_gan()
    before = state(gan)
    with pytest.raises(error, match=message):
        train(gan, data, CONFIG, run_dir=tmp_path / "run")
    assert same(before, state(gan)) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda g: setattr(g, "discriminator", nn.Linear(4, 1)),
            ValueError,
            r"train: gan.discriminator must take data",
        ),
        (
            lambda g: setattr(g, "generator", nn.Linear(5, 3)),
            ValueError,
            r"train: gan.generator must take noise of shape \(2, 2\)",
        ),
        (
            lambda g: setattr(g, "discriminator", Summed()),
            ValueError,
            "train: gan.discriminator must give floating logits",
        ),
        (
            lambda g: g.generator.requires_grad_(False),
            ValueError,
            "train: gan.generator must have trainable parameters",
        ),
        (lambda g: setattr(g, "data_shape", (5,)), ValueError, r"train: data must have rows of shape \(5,\)"),
        (
            lambda g: setattr(g, "discriminator", Pair()),
            TypeError,
            "train: gan.discriminator must give a Tensor, got tuple",
        ),
    ],
)
def test_bad_networks_are_named(change: Callable[[GAN], object], error: type, message: str) -> None:
    gan = new_gan()
    change(gan)
    with pytest.raises(error, match=message):
        train(gan, DATA, CONFIG)


class Summed(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sum()


class Pair(Summed):
    def forward(self, x: Tensor) -> tuple:  # type: ignore[override]
        return x, x


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_the_callers_mode_of_gradients_changes_nothing(engine: str, mode: Callable[[], Any]) -> None:
    """As in an evaluation of Lightning, or under `torch.inference_mode()` in a script."""
    found = []
    for around in (contextlib.nullcontext, mode):
        gan = new_gan()
        with around():
            train(gan, DATA.clone(), replace(CONFIG, engine=engine, optimizer=torch.optim.Adagrad))
            many = train_population(lambda seed: new_gan(), DATA, replace(CONFIG, engine=engine), seeds=[3])
        found.append((state(gan), state(many.members[0].gan)))
    assert same(found[0][0], found[1][0]) and same(found[0][1], found[1][1])
    assert not same(found[0][0], state(new_gan()))


def test_under_autocast_pytorch_trains() -> None:
    """Compiled engines would leave it out, and say nothing."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = train(gan := new_gan(), DATA, CONFIG)
        with pytest.raises(ValueError, match="must be 'auto' or 'eager' here, got 'fused'"):
            train(new_gan(), DATA, replace(CONFIG, engine="fused"))
    if _backend.native is not None:
        assert result.engine_reason == "torch.autocast is on; compiled engines have config.precision"
    train(other := new_gan(), DATA, replace(CONFIG, engine="eager"))
    assert result.engine == "eager" and not same(state(gan), state(other))


def test_a_hook_of_another_library_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    class Keras(Callback):
        def on_epoch_end(self, run: Run) -> None:
            raise AssertionError

    train(new_gan(), DATA, CONFIG, callbacks=[Keras(), Callback()])
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert warning.startswith("train: Keras.on_epoch_end is never called: the hooks of a Callback are on_start, on_ch")


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is here")
def test_a_device_that_is_not_here_is_named() -> None:
    with pytest.raises(ValueError, match=r"train: config.device must be one that torch can use here, got cuda \("):
        train(new_gan(), DATA, replace(CONFIG, device="cuda"))


def test_networks_without_memory_or_gradients_are_named() -> None:
    with torch.inference_mode():
        frozen = new_gan()
    with pytest.raises(ValueError, match="train: gan.generator must be made outside torch.inference_mode, got param"):
        train(frozen, DATA, CONFIG)
    with pytest.raises(ValueError, match="train: gan must lie on a device with memory, got meta: gan.to_empty"):
        train(new_gan().to("meta"), DATA, CONFIG)


def test_a_lazy_layer_without_sizes_is_named() -> None:
    gan = GAN(nn.Linear(2, 3), nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(1)), latent_dim=2)
    with pytest.raises(ValueError, match="train: gan.discriminator must know its sizes, got a lazy layer: call it"):
        train(gan, DATA, CONFIG)
    gan.discriminator(DATA)
    assert train(gan, DATA, CONFIG).step == CONFIG.steps


@pytest.mark.parametrize("name", ("generator", "discriminator"))
def test_a_forward_that_detaches_is_named(name: str) -> None:
    class Detached(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    gan = new_gan()
    setattr(gan, name, Detached(*((2, 3) if name == "generator" else (3, 1))))
    with pytest.raises(RuntimeError, match=f"train: the output of gan.{name} must be part of its loss: a forward, or"):
        train(gan, DATA, CONFIG)


def test_other_bad_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="train: gan must be a fastgan.GAN, got Linear"):
        train(nn.Linear(1, 1), DATA, CONFIG)
    with pytest.raises(TypeError, match="train: config must be a fastgan.TrainConfig, got dict"):
        train(new_gan(), DATA, {"steps": 1})
    hooked = new_gan()
    hooked.generator[0].register_forward_hook(lambda *_: None)
    reason = "gan.generator: it has hooks" if _backend.native is not None else "FASTGAN_DISABLE_NATIVE is set"
    with pytest.raises(ValueError, match=f"got 'fused': {reason}"):
        train(hooked, DATA, replace(CONFIG, engine="fused"))
    with pytest.raises(ValueError, match="train: run_dir must be given where config.checkpoint_every is set"):
        train(new_gan(), DATA, replace(CONFIG, checkpoint_every=5))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        train(new_gan(), DATA, CONFIG, run_dir=tmp_path / "file")
    for given, got in (
        ([print], "hold fastgan.Callback objects, got builtin_function_or_method"),
        ([Callback], "hold fastgan.Callback objects, got the class Callback"),
        (Callback(), "be a list of fastgan.Callback objects, got Callback"),
    ):
        with pytest.raises(TypeError, match=f"train: callbacks must {got}"):
            train(new_gan(), DATA, CONFIG, callbacks=given)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=f"train_population: callbacks must {got}"):
            train_population(new_gan, DATA, CONFIG, callbacks=given)  # type: ignore[arg-type]


@pytest.mark.parametrize("folder", [False, True])
def test_numbers_of_numpy_are_numbers(folder: bool, tmp_path: Path) -> None:
    config = TrainConfig(
        2,
        4,
        gradient_penalty="r1",
        penalty_weight=np.float32(10),
        max_grad_norm=np.int64(2),  # type: ignore[arg-type]
    )
    assert (type(config.penalty_weight), type(config.max_grad_norm)) == (float, int)
    assert config == TrainConfig(2, 4, gradient_penalty="r1", penalty_weight=10.0, max_grad_norm=2)
    assert train(new_gan(), DATA, config, run_dir=tmp_path / "run" if folder else None).step == 2


def test_the_checks_leave_no_trace() -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x) + 0 * torch.rand(3)

    gan = GAN(Counting(), nn.Linear(3, 1), latent_dim=2)
    before, random = state(gan), torch.get_rng_state()
    result = train(gan, DATA, replace(CONFIG, steps=0))
    assert same(before, state(gan)) and torch.equal(random, torch.get_rng_state())
    assert result.step == 0 and not result.interrupted and len(result.history["step"]) == 0


def test_device_of_the_config_moves_the_networks() -> None:
    gan = new_gan()
    with pytest.raises((NotImplementedError, ValueError)):
        train(gan, DATA, replace(CONFIG, device="meta"))
    assert train(new_gan(), DATA, replace(CONFIG, device="cpu")).step == 12
