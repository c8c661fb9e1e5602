"""The compiled engine by teams of any size, whether or not they pay: the bits of one thread.

Left to itself the engine takes a team only where one is faster, which small networks on a busy machine seldom see.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fused_rows import ROWS_OF_TABLE, Row, run, same_runs

import fastgan
from fastgan import GAN, Adam, TrainConfig, _backend, nn
from fastgan._torch_settings import torch_threads
from fastgan.ops.masks import dropout

pytestmark = pytest.mark.skipif(_backend.native is None, reason="the engine is compiled")

SIZES = 2, 3, 5
Force = Callable[[int], None]


@pytest.fixture
def force() -> Iterator[Force]:
    """Sets the size of all teams; 0: as the engine decides."""
    yield _backend.native.force_team
    _backend.native.force_team(0)


@pytest.mark.parametrize("name", ROWS_OF_TABLE)
def test_R16_forced_teams_have_the_bits_of_one_thread(name: str, force: Force) -> None:
    found = []
    for size in (1, *SIZES):
        force(size)
        found.append(run(ROWS_OF_TABLE[name], torch.float32, "fused", steps=3))
    assert all(same_runs(found[0], other) for other in found[1:])


@pytest.mark.parametrize("penalty", ["r1", "r2", "wgan-gp"])
@pytest.mark.parametrize("activation", ["leaky_relu", "gelu"])
def test_R16_a_penalty_over_layers_of_very_different_width(activation: str, penalty: str, force: Force) -> None:
    """Threads are then at different layers, and so at buffers of different strides, at the same time."""

    def make(dtype: torch.dtype) -> GAN:
        discriminator = nn.MLP([20, 256, 24, 256, 1], activation=activation, dtype=dtype)
        return GAN(nn.MLP([3, 16, 20], activation="relu", dtype=dtype), discriminator, latent_dim=3)

    wide = Row(make, 20, {"gradient_penalty": penalty, "batch_size": 512}, rows=600)
    found = []
    for size in (1, *SIZES):
        force(size)
        found.append(run(wide, torch.float32, "fused", steps=8))
    assert all(same_runs(found[0], other) for other in found[1:])


@pytest.mark.parametrize("rows", [4, 20, 33, 52])
def test_R16_rows_behind_whole_vectors_are_the_same_whichever_thread_has_them(rows: int, force: Force) -> None:
    """The last rows of a batch have products of their own; a thread may have only those."""
    torch.manual_seed(0)
    layers = nn.MLP([36, 48, 40, 8], activation="leaky_relu")
    truth = nn.MLP([36, 48, 40, 8], activation="leaky_relu", dtype=torch.float64, impl="reference")
    truth.load_state_dict(layers.state_dict())
    x = torch.randn(rows, 36, dtype=torch.float64)

    def results(network: torch.nn.Module, dtype: torch.dtype) -> list[torch.Tensor]:
        at = x.to(dtype).requires_grad_()
        y = network(at)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), [at, *network.parameters()])]

    found = []
    for size in (1, *SIZES):
        force(size)
        found.append(results(layers, torch.float32))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    for a, b in zip(found[0], results(truth, torch.float64), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("threads", [1, 2])
def test_R16_populations_of_forced_teams(threads: int, force: Force) -> None:
    """A member's team is forced too; where another member has the threads, it goes alone."""
    data = torch.randn(60, 2, generator=torch.Generator().manual_seed(1))
    config = TrainConfig(5, 20, optimizer=Adam(1e-2), gradient_penalty="wgan-gp", loss="wasserstein", engine="fused")

    def make() -> GAN:
        generator = nn.MLP([3, 40, 2], activation="relu")
        return GAN(generator, nn.MLP([2, 30, 9, 1], activation="gelu", dropout=0.2), latent_dim=3)

    found = []
    for size in (1, *SIZES):
        force(size)
        found.append(fastgan.train_population(make, data, config, seeds=range(3), threads=threads).members)
    for members in found[1:]:
        for one, other in zip(found[0], members, strict=True):
            assert same_runs((one.gan, one), (other.gan, other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float", "double"])
def test_layers_of_forced_teams(dtype: torch.dtype, force: Force) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Maxout(7, 40, 3), nn.Linear(40, 19, activation="gelu"), torch.nn.Linear(19, 33), torch.nn.Linear(33, 2)
    ).to(dtype)
    x = torch.randn(77, 7, dtype=dtype, requires_grad=True)
    found = []
    for size in (1, *SIZES):
        force(size)
        y = network(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), [x, *network.parameters()])))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["leaky_relu", "gelu"])
def test_second_derivatives_of_forced_teams(activation: str, dtype: torch.dtype, force: Force) -> None:
    """By one native call, and by autograd through the backward pass; widths differ, as in the penalty's rows above."""
    torch.manual_seed(0)
    d = nn.MLP([20, 256, 24, 256, 1], activation=activation, dtype=dtype)
    real, fake = torch.randn(2, 500, 20, dtype=dtype).unbind()

    def own() -> torch.Tensor:
        x = real.clone().requires_grad_()
        (derivative,) = torch.autograd.grad(d(x).sum(), x, create_graph=True)
        return derivative.square().sum()

    def gradients(penalty: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
        value = penalty()
        return [value.detach(), *torch.autograd.grad(value, list(d.parameters()), allow_unused=True)]

    for penalty in (own, lambda: fastgan.gradient_penalty(d, real, fake, kind="r1")):
        force(1)
        expected = gradients(penalty)
        for _ in range(5):
            for size in SIZES:
                force(size)
                for one, other in zip(expected, gradients(penalty), strict=True):
                    assert (one is None and other is None) or torch.equal(one, other)


def test_bits_do_not_depend_on_the_threads_that_a_call_chooses() -> None:
    """Calls measure one thread and all, keep the faster, and try the other again: 130 calls do all of that."""
    torch.manual_seed(0)
    x, net = torch.randn(256, 64), nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 32))
    logits, key = torch.randn(2, 40_000, requires_grad=True), torch.tensor(3)

    def results() -> list[torch.Tensor]:
        y = net(x)
        loss = fastgan.losses.discriminator_loss(*logits)
        of_fake = fastgan.losses.generator_loss(logits[1], reduction="none")
        noise, kept = fastgan.random.normal(20_000, seed=1, purpose=1), dropout(logits.detach(), 0.5, key)
        grads = torch.autograd.grad(y.square().sum(), list(net.parameters()))
        return [y, *grads, loss, *torch.autograd.grad(loss, [logits]), of_fake, noise, kept]

    with torch_threads(1):
        alone = results()
    with torch_threads(2):
        for rows in (256, 256, 128, 256):  # each number of rows has a choice of its own
            net(x[:rows])
        for _ in range(130):
            assert all(map(torch.equal, results(), alone))


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_calls_keep_what_is_faster_and_try_the_other_seldom(tmp_path: Path) -> None:
    """Of 200 calls that are slow in one way: three while both are measured, and one trial, whichever way it is, and
    whatever calls of another size come between them."""
    here, program = Path(__file__).parent, tmp_path / "choice"
    core = here.parent / "csrc" / "cpu" / "parallel.cpp"
    if not core.is_file():
        pytest.skip("an installed package has no csrc folder")
    command = ["g++", "-std=gnu++20", "-O1", "-pthread", str(here / "team_choice.cpp"), str(core), "-o", str(program)]
    subprocess.run(command, check=True)
    slow = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
    assert all(4 <= int(count) <= 10 for count in slow) and len(slow) == 4, slow
