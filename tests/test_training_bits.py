"""What the bits of a training depend on: the seed, and neither the kind of the data nor the user's random state."""

import numpy as np
import pytest
import torch
from test_training_loop import LATENT, SEED, WIDTH, Recorder, assert_same, small_gan, some_data
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastgan.nn
from fastgan import _backend, random
from fastgan.models import GAN
from fastgan.training import Momentum, TrainConfig, train


@pytest.mark.parametrize("mode", ["alternating", "simultaneous"])
def test_R15_the_same_seed_gives_the_same_bits(mode: str) -> None:
    def run(seed: int, steps: int) -> dict[str, Tensor]:
        gan = small_gan(dropout=0.3, norm=True, dtype=torch.float32)
        gan.discriminator.append(fastgan.nn.Dropout(0.1))  # keyed, beside torch's own
        train(gan, some_data(), TrainConfig(steps=steps, batch_size=3, mode=mode, seed=seed))
        return gan.state_dict()

    steps = 1000 if mode == "alternating" and _backend.native is not None else 100  # the reference is slow
    torch.manual_seed(1)
    first = run(5, steps)
    torch.manual_seed(2)
    torch.rand(3)
    second = run(5, steps)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["generator.0.weight"], run(6, 50)["generator.0.weight"])


def test_R30_dropout_keys_depend_on_seed_and_iteration_alone() -> None:
    class Keyed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            keys.append(int(random.next_dropout_seed()))
            return super().forward(x)

    keys: list[int] = []
    gan = GAN(nn.Linear(LATENT, WIDTH), Keyed(WIDTH, 1), latent_dim=LATENT)
    train(gan, some_data(), TrainConfig(steps=2, batch_size=4, seed=SEED))
    expected = []
    for it in range(2):
        with random.scope(SEED, it):
            expected += [int(random.next_dropout_seed()) for _ in range(3)]  # D on real, D on fake, D in G's step
    assert keys[1:] == expected and len(set(expected)) == 6  # the first one is the check's


def test_a_part_that_is_run_again_in_the_backward_pass_meets_the_same_masks() -> None:
    class Part(nn.Module):
        def __init__(self, again: bool) -> None:
            super().__init__()
            self.again = again
            self.body = nn.Sequential(nn.Linear(WIDTH, 9), fastgan.nn.Dropout(0.5), nn.Linear(9, 6), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.body, x, use_reentrant=False) if self.again else self.body(x)

    trained = []
    for again in (False, True):
        torch.manual_seed(3)
        gan = GAN(nn.Linear(LATENT, WIDTH), nn.Sequential(Part(again), nn.Linear(6, 1)), latent_dim=LATENT)
        train(gan, some_data(torch.float32), TrainConfig(steps=5, batch_size=4, optimizer=Momentum(0.5), seed=SEED))
        trained.append(gan)
    for name, value in trained[0].generator.state_dict().items():
        torch.testing.assert_close(trained[1].generator.state_dict()[name], value, msg=name)


def test_training_leaves_the_users_random_state_alone() -> None:
    gan = small_gan(dropout=0.5)
    state = torch.get_rng_state()
    train(gan, some_data(), TrainConfig(steps=2, batch_size=4))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["float64 array", "big-endian array", "read-only memmap", "dataset"])
def test_M60_the_kind_of_data_does_not_matter(kind: str, tmp_path: object) -> None:
    data = some_data(torch.float32)
    given: object = data.double().numpy()
    if kind == "big-endian array":
        given = data.numpy().astype(">f4")
    elif kind == "read-only memmap":
        np.save(tmp_path / "x.npy", data.numpy())
        given = np.load(tmp_path / "x.npy", mmap_mode="r")
    elif kind == "dataset":
        given = Recorder(data)
    gan, other = small_gan(dtype=torch.float32), small_gan(dtype=torch.float32)
    config = TrainConfig(steps=10, batch_size=4)
    results = [train(gan, data, config), train(other, given, config)]
    # Rows that must be read one batch at a time keep the eager loop.
    fused = "cpu" if _backend.native is not None else "eager"
    assert [result.engine for result in results] == [fused, "eager" if kind == "dataset" else fused]
    assert_same(gan, other, 1e-5 if kind == "dataset" else 0.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_R15_cuda_trains_from_data_on_the_cpu_and_repeats_its_bits() -> None:
    def run() -> dict[str, Tensor]:
        gan = small_gan(dtype=torch.float32)
        train(gan, some_data(), TrainConfig(steps=50, batch_size=4, device="cuda"))
        return gan.state_dict()

    first, second = run(), run()
    assert all(a.is_cuda and torch.equal(a, second[name]) for name, a in first.items())
