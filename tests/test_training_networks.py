"""What a user brings as networks: wrappers, hooks, a sigmoid where logits should be, a moving average to load."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fastgan
from fastgan import _backend
from fastgan.models import GAN
from fastgan.training import Adam, CheckpointError, Monitor, TrainConfig, checkpoint, train, train_population

DATA = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
CONFIG = TrainConfig(steps=3, batch_size=8, optimizer=Adam(0.01))


def discriminator(*end: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1), *end)


def new_gan(d: nn.Module | None = None) -> GAN:
    torch.manual_seed(0)
    return GAN(nn.Linear(2, 2), discriminator() if d is None else d, latent_dim=2)


# ---------------------------------------------------------------- wrappers


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def sharded(module: nn.Module) -> nn.Module:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("this torch has no fully_shard")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    return fsdp.fully_shard(module, mesh=mesh)


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (nn.parallel.DistributedDataParallel, "DistributedDataParallel"),
        (nn.DataParallel, "DataParallel"),
        (sharded, "FSDPModule"),
        (lambda module: nn.Sequential(nn.parallel.DistributedDataParallel(module)), "DistributedDataParallel"),
    ],
    ids=["DDP", "DataParallel", "fully_shard", "inside another module"],
)
@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_networks_of_several_processes_are_refused(
    process_group: None, wrap: Callable[[nn.Module], nn.Module], name: str, network: str, tmp_path: Path
) -> None:
    hint = ": give its .module" if "DataParallel" in name else ""
    gan = new_gan()
    setattr(gan, network, wrap(getattr(gan, network)))
    calls: list[int] = []
    gan.generator.register_forward_hook(lambda *_: calls.append(1))
    rule = f"train: gan.{network} must be a plain module on one device, got {name}{hint}"
    with pytest.raises(ValueError, match=rule):
        train(gan, DATA, CONFIG, run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match=rule):
        train_population(lambda: gan, DATA, CONFIG, seeds=[0])
    assert not calls and not (tmp_path / "run").exists()


def test_compiled_modules_are_called_as_they_are() -> None:
    """torch.compile changes how a module runs, not whose it is: the same numbers as without it."""
    torch.set_num_threads(1)
    plain, compiled = new_gan(), new_gan()
    compiled.generator = torch.compile(compiled.generator, backend="eager")
    expected = train(plain, DATA, replace(CONFIG, engine="eager"))
    found = train(compiled, DATA, CONFIG)
    assert found.engine == "eager"
    assert (found.history["loss_g"] == expected.history["loss_g"]).all()


# ---------------------------------------------------------------- hooks


def test_hooks_on_parameters_and_modules_are_called_once_for_each_update_of_their_network() -> None:
    gan = new_gan()
    counts: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        def called(*_: object) -> None:
            counts[name] = counts.get(name, 0) + 1

        return called

    for side in ("generator", "discriminator"):
        for parameter in getattr(gan, side).parameters():
            parameter.register_post_accumulate_grad_hook(count(f"{side} accumulated"))
            parameter.register_hook(count(f"{side} tensor"))
    gan.discriminator[1].register_full_backward_hook(count("module"))
    result = train(gan, DATA, replace(CONFIG, k=2, generator_steps=1))
    assert result.engine == "eager"
    updates_d, updates_g = 2 * CONFIG.steps, CONFIG.steps
    assert counts == {
        "generator accumulated": 2 * updates_g,
        "generator tensor": 2 * updates_g,
        "discriminator accumulated": 4 * updates_d,
        "discriminator tensor": 4 * updates_d,
        "module": 2 * updates_d + updates_g,  # of real and fake logits apart
    }


def clear(parameter: Tensor) -> None:
    parameter.grad.zero_()


@pytest.mark.parametrize("mode", ["alternating", "simultaneous"])
def test_what_hooks_make_of_a_gradient_is_what_is_applied(mode: str) -> None:
    """A tensor's hook that doubles, and one of the accumulated gradient that clears it."""
    config = replace(CONFIG, steps=1, mode=mode, optimizer=fastgan.Momentum(0.1, 0.0))
    plain, hooked, start = new_gan(), new_gan(), new_gan()
    hooked.discriminator[0].weight.register_hook(lambda grad: 2 * grad)
    hooked.generator.bias.register_post_accumulate_grad_hook(clear)
    train(plain, DATA, replace(config, engine="eager"))
    train(hooked, DATA, config)

    def change(gan: GAN) -> Tensor:
        return gan.discriminator[0].weight - start.discriminator[0].weight

    torch.testing.assert_close(change(hooked), 2 * change(plain), rtol=1e-4, atol=1e-7)
    assert torch.equal(hooked.generator.bias, start.generator.bias)
    assert not torch.equal(plain.generator.bias, start.generator.bias)


# ---------------------------------------------------------------- a sigmoid where logits should be


class Squashed(nn.Module):
    """No module of it is a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = discriminator()

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.inner(x))


class SquashedSequential(nn.Sequential):
    """Its last module is affine, and its output is not."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.sigmoid(super().forward(input))


def positive_maxout() -> nn.Module:
    """Outputs in [0, 1] for all inputs up to 10,000 times the data: a maximum of both signs, and small weights."""
    network = nn.Sequential(fastgan.nn.Maxout(2, 4, pieces=2), nn.Linear(4, 1))
    with torch.no_grad():
        maxout, linear = network
        maxout.weight[1::2] = -maxout.weight[::2]
        linear.weight.fill_(1e-7)
        linear.bias.fill_(0.1)
    return network


class Small(nn.Module):
    """Logits that lie in [0, 1] on the data, and elsewhere do not."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = discriminator()

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 + 1e-3 * self.inner(x)


class Bias(nn.Module):
    def __init__(self, bias: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([bias]))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


SIGMOIDS: dict[str, Callable[[], nn.Module]] = {
    "Sigmoid": lambda: discriminator(nn.Sigmoid()),
    "nested": lambda: nn.Sequential(nn.Flatten(), nn.Sequential(discriminator(nn.Sequential(nn.Sigmoid())))),
    "flat after it": lambda: discriminator(nn.Sigmoid(), nn.Flatten(), nn.Identity()),
    "Linear": lambda: nn.Sequential(nn.Linear(2, 8), fastgan.nn.Linear(8, 1, activation="sigmoid")),
    "MLP": lambda: fastgan.nn.MLP([2, 8, 1], activation="relu", output_activation="sigmoid"),
    "functional": Squashed,
    "own Sequential": lambda: SquashedSequential(*discriminator()),
}
LOGITS: dict[str, Callable[[], nn.Module]] = {
    "plain": discriminator,
    "hidden": lambda: fastgan.nn.MLP([2, 8, 1], activation="sigmoid"),
    "small": Small,
    "maxout": positive_maxout,
    "dead": lambda: nn.Sequential(nn.Linear(2, 1), nn.Hardtanh(-1e9, -1.0), nn.ReLU(), Bias(0.5)),
}
SIGN = "but the losses take logits: leave the sigmoid out"


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if SIGN in record.getMessage()]


@pytest.mark.parametrize("engine", ["auto", "eager"])
@pytest.mark.parametrize("name", SIGMOIDS)
def test_a_sigmoid_at_the_end_of_d_is_warned_of_once(name: str, engine: str, caplog: pytest.LogCaptureFixture) -> None:
    gan, monitor = new_gan(SIGMOIDS[name]()), Monitor(every=1)
    with caplog.at_level(logging.WARNING, "fastgan"):
        result = train(gan, DATA, replace(CONFIG, engine=engine), callbacks=[monitor])
    compiled = engine == "auto" and name not in ("functional", "own Sequential") and _backend.native is not None
    assert result.engine == ("cpu" if compiled else "eager")
    assert len(said(caplog)) == 1 and said(caplog)[0].startswith("train: ")
    assert [line for line in monitor.warnings if SIGN in line] == [said(caplog)[0].removeprefix("train: ")]


def test_a_population_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fastgan"):
        train_population(lambda: new_gan(SIGMOIDS["MLP"]()), DATA, CONFIG, seeds=range(3))
    assert len(said(caplog)) == 1


@pytest.mark.parametrize("name", LOGITS)
def test_logits_are_not_warned_of(name: str, caplog: pytest.LogCaptureFixture) -> None:
    monitor = Monitor(every=1)
    for seed in range(5):
        torch.manual_seed(seed)
        gan = GAN(nn.Linear(2, 2), LOGITS[name](), latent_dim=2)
        with caplog.at_level(logging.WARNING, "fastgan"):
            train(gan, DATA, CONFIG, callbacks=[monitor])
    assert not said(caplog) and not monitor.warnings


def test_least_squares_may_have_a_sigmoid(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fastgan"):
        train(new_gan(SIGMOIDS["Sigmoid"]()), DATA, replace(CONFIG, loss="least_squares"))
    assert not said(caplog)


# ---------------------------------------------------------------- the moving average


@pytest.fixture
def averaging(tmp_path: Path) -> tuple[GAN, Path]:
    gan = new_gan()
    train(gan, DATA, replace(CONFIG, ema_decay=0.9), run_dir=tmp_path / "run")
    return gan, tmp_path / "run"


@pytest.mark.parametrize("strict", [True, False])
def test_load_state_dict_makes_the_average_that_a_run_kept(averaging: tuple[GAN, Path], strict: bool) -> None:
    trained, _ = averaging
    fresh = new_gan()
    assert fresh.ema is None
    found = fresh.load_state_dict(trained.state_dict(), strict=strict)
    assert not found.missing_keys and not found.unexpected_keys
    assert torch.equal(fresh.ema.weight, trained.ema.weight)
    assert not torch.equal(fresh.ema.weight, fresh.generator.weight)
    assert torch.equal(fresh.sample(5), trained.sample(5))
    assert not any(p.requires_grad for p in fresh.ema.parameters())


def test_load_state_dict_makes_it_inside_another_module(averaging: tuple[GAN, Path]) -> None:
    trained, _ = averaging
    fresh = new_gan()
    nn.ModuleDict({"gan": fresh}).load_state_dict(nn.ModuleDict({"gan": trained}).state_dict())
    assert torch.equal(fresh.ema.weight, trained.ema.weight)


def test_a_state_without_an_average_makes_none() -> None:
    fresh = new_gan()
    fresh.load_state_dict(new_gan().state_dict())
    assert fresh.ema is None


def test_restore_makes_the_average_that_a_run_kept(averaging: tuple[GAN, Path]) -> None:
    trained, folder = averaging
    fresh = new_gan()
    checkpoint.load(folder).restore(fresh)
    assert torch.equal(fresh.ema.weight, trained.ema.weight)


def test_restore_leaves_another_model_without_an_average(averaging: tuple[GAN, Path]) -> None:
    _, folder = averaging
    other = GAN(nn.Linear(2, 2), nn.Linear(2, 1), latent_dim=2)
    with pytest.raises(CheckpointError, match="discriminator"):
        checkpoint.load(folder).restore(other)
    assert other.ema is None
