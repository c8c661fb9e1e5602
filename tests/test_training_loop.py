"""What the eager engine computes and draws, when, and nothing beside it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from fastgan import _backend, models, random
from fastgan.models import GAN
from fastgan.random import Purpose
from fastgan.training import Adam, Momentum, TrainConfig, train

N, WIDTH, LATENT, SEED = 37, 3, 2, 11


def small_gan(dropout: float = 0.0, norm: bool = False, dtype: torch.dtype = torch.float64) -> GAN:
    torch.manual_seed(0)
    normalise = [nn.BatchNorm1d(8)] if norm else []
    generator = nn.Sequential(nn.Linear(LATENT, 8, bias=not norm), *normalise, nn.Tanh(), nn.Linear(8, WIDTH))
    drop = [nn.Dropout(dropout)] if dropout else []
    discriminator = nn.Sequential(nn.Linear(WIDTH, 8), nn.LeakyReLU(0.2), *drop, nn.Linear(8, 1))
    return GAN(generator, discriminator, latent_dim=LATENT).to(dtype)


def some_data(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(N, WIDTH, dtype=dtype, generator=torch.Generator().manual_seed(1))


def assert_same(gan: GAN, other: GAN, tolerance: float) -> None:
    for (name, a), b in zip(gan.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=tolerance), f"{name}: {(a - b).abs().max()}"


ENGINES = [
    "eager",
    pytest.param("fused", marks=pytest.mark.skipif(_backend.native is None, reason="the engine is compiled")),
]


class Recorder:
    """A data set that counts its draws, and hooks that note what each update changes."""

    def __init__(self, data: Tensor) -> None:
        self.data, self.draws = data, 0

    def __len__(self) -> int:
        return len(self.data)

    def rows(self, index: Tensor) -> Tensor:
        self.draws += 1
        return self.data[index]


def test_M60_counts_draws_and_changes_one_network_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    gan, data, noise, changes = small_gan(), Recorder(some_data()), [], []
    prior = random.prior

    def counted(*arguments: object, **stream: object) -> Tensor:
        noise.append((stream["purpose"], stream["step"]))
        return prior(*arguments, **stream)

    def snapshot() -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in gan.named_parameters()}

    before: list[dict[str, Tensor]] = []

    def note(*_: object) -> None:
        now, old = snapshot(), before.pop()
        changes.append({name.split(".")[0] for name in now if not torch.equal(now[name], old[name])})

    config = TrainConfig(steps=0, batch_size=4, k=2, seed=SEED)
    train(gan, data, config)  # nothing but the checks
    checks = data.draws
    monkeypatch.setattr(random, "prior", counted)
    hooks = [
        register_optimizer_step_pre_hook(lambda *_: before.append(snapshot())),
        register_optimizer_step_post_hook(note),
    ]
    data.draws = 0
    try:
        train(gan, data, TrainConfig(steps=3, batch_size=4, k=2, seed=SEED))
    finally:
        for hook in hooks:
            hook.remove()
    assert data.draws - checks == 3 * 2
    drawn = [(p, s) for p, s in noise if p != Purpose.SAMPLE]  # the checks draw samples
    assert drawn == [
        (Purpose.NOISE_D, 0), (Purpose.NOISE_D, 1), (Purpose.NOISE_G, 0),
        (Purpose.NOISE_D, 2), (Purpose.NOISE_D, 3), (Purpose.NOISE_G, 1),
        (Purpose.NOISE_D, 4), (Purpose.NOISE_D, 5), (Purpose.NOISE_G, 2),
    ]  # fmt: skip
    assert changes == [{"discriminator"}, {"discriminator"}, {"generator"}] * 3


class SpiedLinear(nn.Linear):
    """Notes, in each backward pass, which gradients are computed: (input, weight, bias)."""

    def __init__(self, *sizes: int, log: list[tuple[bool, ...]]) -> None:
        super().__init__(*sizes)
        self.log = log

    def forward(self, x: Tensor) -> Tensor:
        log = self.log

        class Spied(torch.autograd.Function):
            @staticmethod
            def forward(ctx: object, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
                ctx.save_for_backward(x, weight)
                return F.linear(x, weight, bias)

            @staticmethod
            def backward(ctx: object, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                log.append(ctx.needs_input_grad)
                x, weight = ctx.saved_tensors
                return grad @ weight, grad.T @ x, grad.sum(0)

        return Spied.apply(x, self.weight, self.bias)


def test_M60_no_redundant_gradient_is_computed() -> None:
    log_d: list[tuple[bool, ...]] = []
    log_g: list[tuple[bool, ...]] = []
    gan = GAN(SpiedLinear(LATENT, WIDTH, log=log_g), SpiedLinear(WIDTH, 1, log=log_d), latent_dim=LATENT)
    inputs: list[bool] = []
    gan.discriminator.register_forward_hook(lambda _, batch, __: inputs.append(batch[0].requires_grad))
    train(gan, some_data(torch.float32), TrainConfig(steps=1, batch_size=4))
    # D's step: two passes, weights only; neither batch asks for a gradient. G's step: the input only.
    assert log_d == [(False, True, True), (False, True, True), (True, False, False)]
    assert log_g == [(False, True, True)]
    assert inputs[1:] == [False, False, True]  # the first one is the check's
    assert all(p.requires_grad and p.grad is None for p in gan.parameters())


@pytest.mark.parametrize("optimizer", [Adam(1e-2), Momentum(0.1), Momentum(0.1, convention="pylearn2")])
def test_a_gradient_of_another_layout_than_its_parameter_is_applied_rightly(optimizer: Adam | Momentum) -> None:
    class Transposed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.t().contiguous() + self.bias

    found = []
    for linear in (nn.Linear, Transposed):
        torch.manual_seed(1)
        gan = GAN(linear(3, 2), nn.Sequential(linear(2, 5), nn.Tanh(), nn.Linear(5, 1)), latent_dim=3)
        train(gan, torch.randn(40, 2), TrainConfig(3, 10, optimizer=optimizer, engine="eager"))
        found.append(gan.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name])


def test_frozen_parameters_stay_frozen() -> None:
    gan = small_gan()
    gan.discriminator[0].weight.requires_grad_(False)
    before = gan.discriminator[0].weight.clone()
    train(gan, some_data(), TrainConfig(steps=3, batch_size=4))
    assert torch.equal(gan.discriminator[0].weight, before)
    assert not gan.discriminator[0].weight.requires_grad


def test_M61_both_gradients_are_computed_before_either_update() -> None:
    gan = small_gan()
    start = {name: p.detach().clone() for name, p in gan.named_parameters()}
    seen: list[bool] = []

    def unchanged(*_: object) -> None:
        seen.append(all(p.grad is not None for p in gan.parameters()))
        seen.append(all(torch.equal(p, start[name]) for name, p in gan.named_parameters()))

    hook = register_optimizer_step_pre_hook(unchanged)
    try:
        train(gan, some_data(), TrainConfig(steps=1, batch_size=4, mode="simultaneous"))
    finally:
        hook.remove()
    assert seen == [True, True, True, False]  # the second update finds the first network changed


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("options", "logit", "expected"),
    [
        ({"real_label": 0.9}, -0.1, (1.0, 0.0)),  # above log(0.45 / 0.55) = -0.2007
        ({"real_label": 0.9}, -0.3, (0.0, 1.0)),
        ({"real_label": 0.7, "fake_label": 0.1}, -0.3, (1.0, 0.0)),  # above log(0.4 / 0.6) = -0.4055
        ({"real_label": 0.7, "fake_label": 0.1}, -0.5, (0.0, 1.0)),
        ({}, -0.1, (0.0, 1.0)),
        ({"loss": "least_squares"}, 0.4, (0.0, 1.0)),  # whose D is undecided at 1/2
        ({"loss": "least_squares"}, 0.6, (1.0, 0.0)),
        ({"loss": "hinge"}, 0.1, (1.0, 0.0)),
    ],
)
def test_accuracy_is_cut_where_the_best_discriminator_is_undecided(
    engine: str, options: dict[str, Any], logit: float, expected: tuple[float, float]
) -> None:
    gan = small_gan()
    with torch.no_grad():
        gan.discriminator[-1].weight.zero_()
        gan.discriminator[-1].bias.fill_(logit)
    result = train(gan, some_data(), TrainConfig(1, 5, optimizer=Adam(0.0), engine=engine, **options))
    assert result.engine == engine.replace("fused", "cpu")
    history = result.history
    assert (history["accuracy_real"][0], history["accuracy_fake"][0]) == expected


def test_M60_dcgan_with_batch_normalisation_trains() -> None:
    gan = models.dcgan(image_size=8, channels=1, width=4, latent_dim=5)
    images = torch.rand(12, 1, 8, 8) * 2 - 1
    before = {name: value.clone() for name, value in gan.state_dict().items()}
    result = train(gan, images, TrainConfig(steps=2, batch_size=6))
    assert result.engine == "eager" and result.step == 2 and np.isfinite(result.history["loss_g"]).all()
    assert all(not torch.equal(before[name], value) for name, value in gan.state_dict().items())
    # G sees 2 batches an iteration in train mode, as a plain loop would show it
    assert gan.generator[2].num_batches_tracked == 4


def test_R33_an_iteration_never_asks_the_host() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    from fastgan.training.engines.eager import EagerEngine
    from fastgan.training.rows import Minibatches

    class NoSync(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: object, types: object, args: tuple = (), kwargs: dict | None = None
        ) -> object:
            assert function is not torch.ops.aten._local_scalar_dense.default, "the host reads a number"
            assert function is not torch.ops.aten.nonzero.default, "the host waits for a size"
            return function(*args, **(kwargs or {}))

    for nonfinite in ("raise", "skip", "log"):
        gan = small_gan(dtype=torch.float32)
        config = TrainConfig(steps=9, batch_size=4, nonfinite=nonfinite, max_col_norm=10.0, impl="reference")
        rows = Minibatches(some_data(), batch_size=4, seed=0, device=torch.device("cpu"), dtype=torch.float32)
        z = gan.noise(4, seed=0)
        gan.noise = lambda *_, z=z, **__: z  # where numbers are drawn on the host there is nothing to wait for
        rows.minibatch(0)
        engine = EagerEngine(gan, rows, config, logits_per_batch=4)
        with NoSync():
            table = engine.begin(0, 3, lambda: False)()
        assert table.shape == (3, 6)
