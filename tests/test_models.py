"""GAN, its sampling, and the ready-made networks."""

import math

import pytest
import torch
from torch import nn

from fastgan import models
from fastgan.models import GAN
from fastgan.random import Purpose
from fastgan.training import TrainConfig, train


def plain_gan(latent_dim: int = 3, width: int = 2, **keywords: object) -> GAN:
    generator = nn.Sequential(nn.Linear(latent_dim, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, width))
    discriminator = nn.Sequential(nn.Linear(width, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    return GAN(generator, discriminator, latent_dim=latent_dim, **keywords)


def test_M69_R17_a_sample_keeps_its_bits_however_it_is_requested() -> None:
    gan = plain_gan()
    whole = gan.sample(41, seed=5, batch_size=8)
    assert torch.equal(
        whole, torch.cat([gan.sample(n, seed=5, batch_size=8, offset=o) for o, n in ((0, 13), (13, 28))])
    )
    for i in (0, 7, 8, 40):
        assert torch.equal(whole[i : i + 1], gan.sample(1, seed=5, batch_size=8, offset=i))
    assert not torch.equal(whole, gan.sample(41, seed=6, batch_size=8))
    assert len(torch.unique(whole, dim=0)) == 41
    assert torch.allclose(whole, gan.sample(41, seed=5, batch_size=41), atol=1e-5)


def test_sampling_uses_the_prior_of_the_stream_SAMPLE_in_eval_mode() -> None:
    gan = plain_gan()
    gan.generator[1].running_mean += 1.0
    expected = gan.generator.eval()(gan.noise(4, seed=2, purpose=Purpose.SAMPLE))
    gan.train()
    before = gan.generator[1].running_mean.clone()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert torch.equal(gan.sample(4, seed=2, batch_size=4), expected)
    assert torch.equal(gan.generator[1].running_mean, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_sampling_restores_each_modules_mode_also_after_an_exception() -> None:
    gan = plain_gan()
    gan.generator[1].eval()
    modes = [module.training for module in gan.modules()]
    assert not gan.sample(3).requires_grad
    assert [module.training for module in gan.modules()] == modes
    gan.generator[3] = nn.Linear(5, 2)
    with pytest.raises(RuntimeError):
        gan.sample(3)
    assert [module.training for module in gan.modules()] == modes


def test_no_samples_have_the_shape_of_samples() -> None:
    assert plain_gan().sample(0).shape == (0, 2)
    assert plain_gan().sample(0, offset=7, batch_size=4).shape == (0, 2)


def test_logits_are_those_of_eval_mode() -> None:
    gan = plain_gan()
    x = torch.randn(6, 2)
    logits = gan.logits(x.double())
    assert logits.shape == (6,) and not logits.requires_grad and gan.discriminator[1].training
    assert torch.equal(logits, gan.discriminator.eval()(x).flatten().detach())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_dim": 0}, "GAN: latent_dim must be an integer of at least 1, got 0"),
        ({"latent_dim": 2.0}, "GAN: latent_dim must be"),
        ({"prior": "cauchy"}, "GAN: prior must be one of normal, uniform, spherical, got 'cauchy'"),
    ],
)
def test_a_bad_argument_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GAN(nn.Linear(2, 2), nn.Linear(2, 1), **{"latent_dim": 2, **change})


def test_networks_must_be_modules_that_share_nothing() -> None:
    with pytest.raises(TypeError, match="GAN: discriminator must be a torch.nn.Module, got function"):
        GAN(nn.Linear(2, 2), lambda x: x, latent_dim=2)
    shared = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="must not share parameters"):
        GAN(nn.Sequential(shared), nn.Sequential(shared, nn.Linear(2, 1)), latent_dim=2)


@pytest.mark.parametrize("argument", ["n", "offset", "batch_size"])
def test_sample_names_a_bad_argument(argument: str) -> None:
    with pytest.raises(ValueError, match=f"sample: {argument} must be at least"):
        plain_gan().sample(**{"n": 1, argument: -1})


def test_M50_the_original_mnist_networks_have_their_parameter_counts() -> None:
    gan = models.goodfellow_mnist()
    count = {name: sum(p.numel() for p in net.parameters()) for name, net in gan.named_children()}
    assert count == {"generator": 2_503_984, "discriminator": 1_231_441}
    weights = [p for name, p in gan.generator.named_parameters() if name.endswith("weight")]
    assert all(0.0499 < w.abs().max() <= 0.05 for w in weights)
    assert gan.prior == "uniform" and gan.sample(2, batch_size=2).shape == (2, 784)
    assert gan.logits(torch.rand(3, 784)).shape == (3,)


def test_M53_the_output_bias_starts_at_the_marginals() -> None:
    data = torch.rand(50, 12, dtype=torch.float32)
    data[:, 0], data[:, 1] = 0.0, 1.0
    gan = models.goodfellow_mnist(data, data_dim=12)
    bias = [p for name, p in gan.generator.named_parameters() if name.endswith("bias")][-1]
    expected = data.double().mean(0).clamp(1e-7, 1 - 1e-7)
    assert torch.allclose(torch.sigmoid(bias.double()), expected, atol=1e-6)


def test_M55_the_deconv_layer_of_the_paper() -> None:
    layer = models.Deconv2d(4, 3, 5, 3, untied_size=(32, 32))
    assert layer.pixel_bias is not None and layer.pixel_bias.shape == (3, 32, 32)
    nn.init.normal_(layer.pixel_bias)
    x = torch.randn(2, 4, 10, 10)
    expected = nn.functional.conv_transpose2d(x, layer.weight, stride=3) + layer.pixel_bias
    assert layer(x).shape == (2, 3, 3 * (10 - 1) + 5, 32)
    assert torch.equal(layer(x), expected)
    tied = models.Deconv2d(4, 3, 5, 3, padding=1)
    assert tied(x).shape == (2, 3, 30, 30) and tied.bias is not None and tied.pixel_bias is None
    generator = models.goodfellow_cifar_generator(hidden=16, channels=2)
    assert generator(torch.randn(2, 100)).shape == (2, 3, 32, 32)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 3)])
def test_M55_dcgan_shapes(size: int, channels: int) -> None:
    gan = models.dcgan(image_size=size, channels=channels, width=4, latent_dim=6)
    samples = gan.sample(3, batch_size=3)
    assert samples.shape == (3, channels, size, size) and samples.abs().max() <= 1
    assert gan.logits(samples).shape == (3,)
    convolutions = [m for m in gan.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == 2 * (int(math.log2(size)) - 1)
    with pytest.raises(ValueError, match="dcgan: image_size must be 4 to 7 times a power of two .*, got 9"):
        models.dcgan(image_size=9)


def test_mlp_gan_builds_what_is_requested() -> None:
    gan = models.mlp_gan(5, latent_dim=3, hidden=(7, 6), output_activation="sigmoid", dtype=torch.float64)
    shapes = [tuple(p.shape) for p in gan.parameters() if p.ndim == 2]
    assert shapes == [(7, 3), (6, 7), (5, 6), (6, 5), (7, 6), (1, 7)]
    samples = gan.sample(10)
    assert samples.dtype == torch.float64 and 0 <= samples.min() and samples.max() <= 1
    with pytest.raises(ValueError, match="mlp_gan: data_dim must be at least 1, got 0"):
        models.mlp_gan(0)


def test_the_average_is_compared_with_G_once_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not at each update, which takes less time than the comparison."""
    compared = []
    keep = GAN.keep_ema
    monkeypatch.setattr(GAN, "keep_ema", lambda gan: compared.append(0) or keep(gan))
    gan = plain_gan()
    train(gan, torch.randn(20, 2), TrainConfig(steps=5, batch_size=4, ema_decay=0.75, engine="eager"))
    assert gan.ema is not None and len(compared) == 1
    before, weights = gan.ema[0].weight.clone(), gan.generator[0].weight.detach()
    gan.update_ema(0.75)
    torch.testing.assert_close(gan.ema[0].weight, 0.75 * before + 0.25 * weights)
    assert torch.equal(gan.ema[1].running_mean, gan.generator[1].running_mean)
    fresh = plain_gan()
    fresh.update_ema(0.75)  # made where there is none
    assert fresh.ema is not None and torch.equal(fresh.ema[0].weight, fresh.generator[0].weight)
