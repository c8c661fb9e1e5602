"""Every option used as it is meant: mypy --strict and pyright accept all of it. Read, never run."""

from __future__ import annotations

import functools

import numpy as np
import torch

import fastgan
from fastgan import data, evaluation, losses, models, nn, random, theory

logits = torch.zeros(8)
config = fastgan.TrainConfig(
    steps=10,
    batch_size=8,
    k=2,
    generator_steps=1,
    micro_batches=2,
    inner="optimum",
    inner_tolerance=1e-3,
    unroll=0,
    optimizer=fastgan.Adam(1e-3, betas=(0.5, 0.9), eps=1e-8),
    generator_optimizer=fastgan.Momentum(0.1, momentum=0.5, convention="pylearn2"),
    discriminator_optimizer=None,
    loss="hinge",
    real_label=1.0,
    fake_label=0.0,
    gradient_penalty="wgan-gp",
    penalty_weight=10.0,
    instance_noise=0.1,
    instance_noise_steps=100,
    historical_averaging=0.0,
    mode="alternating",
    pack=1,
    ema_decay=0.999,
    max_col_norm=None,
    engine="eager",
    precision="bf16",
    nonfinite="skip",
    checkpoint_every=0,
    seed=0,
    device="cpu",
    impl="reference",
    scheduler=functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=1000),
    generator_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 10),
    discriminator_scheduler=None,
    max_grad_norm=1.0,
    max_grad_value=0.1,
    clip_weights=0.01,
    keep_checkpoints=5,
)
fastgan.TrainConfig(10, 8, optimizer=torch.optim.RMSprop, gradient_penalty=("r1", "r2"))
fastgan.TrainConfig(10, 8, optimizer=fastgan.AdamW(1e-3, weight_decay=0.1), scheduler=fastgan.CosineDecay(100))
fastgan.TrainConfig(10, 8, optimizer=fastgan.SGD(0.1, 0.9, nesterov=True), scheduler=fastgan.StepDecay(10, 0.5))
fastgan.TrainConfig(10, 8, optimizer=fastgan.RMSprop(5e-5), scheduler=fastgan.LinearDecay(10), engine="cuda-graph")
fastgan.TrainConfig(10, 8, generator_scheduler=fastgan.ExponentialDecay(0.99), engine="cpu")
fastgan.TrainConfig(10, 8, loss=(lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean()))
fastgan.TrainConfig(10, 8, optimizer=functools.partial(torch.optim.RMSprop, lr=5e-5))
fastgan.TrainConfig(10, 8, discriminator_optimizer=lambda params: torch.optim.AdamW(params, lr=1e-4))
fastgan.TrainConfig(10, 8, optimizer=lambda params: [torch.optim.SGD(params[:1], 0.1), torch.optim.Adam(params[1:])])
gan: fastgan.GAN = models.mlp_gan(
    2,
    latent_dim=4,
    hidden=(8, 8),
    generator_activation="relu",
    discriminator_activation="leaky_relu",
    output_activation="tanh",
    prior="spherical",
    impl="auto",
)
generator = nn.MLP([4, 8, 2], activation=torch.nn.ReLU(), output_activation=None, dropout=0.1, impl="native")
discriminator = nn.Sequential(nn.Maxout(2, 8, pieces=5), nn.Dropout(0.5), nn.Linear(8, 1, activation="none"))
gan = fastgan.GAN(generator, discriminator, latent_dim=4, prior="uniform", data_shape=(2,), classes=0)
result: fastgan.TrainResult = fastgan.train(gan, data.ring(100, seed=1), config, run_dir="run", resume=False)
fastgan.train(gan, data.ring(100), config, progress=True)
fastgan.train(gan, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(8, 2)), 8), config)
best = fastgan.Best(lambda gan: float(gan.sample(8).mean()), every=10, patience=3, maximize=True, folder="best")
fastgan.train(gan, data.ring(100), config, callbacks=[best, fastgan.JSONLines("log.jsonl"), fastgan.TensorBoard("tb")])
rate: float = result.steps_per_second
last: np.ndarray = result.history["loss_d"][-10:]
samples: torch.Tensor = gan.sample(16, seed=1, batch_size=8, labels=None)

one: torch.Tensor = fastgan.discriminator_loss(logits, logits, kind="gan", real_label=0.9, reduction="mean")
pair: tuple[torch.Tensor, torch.Tensor] = fastgan.discriminator_loss(logits, logits, reduction="none", impl="auto")
one = fastgan.generator_loss(logits, kind="relativistic", real_logits=logits, reduction="sum", impl="reference")
one = losses.blended_generator_loss(logits, non_saturating_weight=1.0, minimax_weight=0.5, reduction="mean")
one = losses.mixed_batch_loss(logits, logits > 0, reduction="none")
one = losses.gradient_penalty(discriminator, samples, samples, kind="r1", weight=1.0, seed=1, step=0)
noise: torch.Tensor = random.uniform(
    (8, 4), seed=1, purpose=random.Purpose.DATA, step=3, substream=1, offset=5, dtype=torch.float64, device="cpu"
)
noise = random.normal(8, seed=1, purpose=random.Purpose.DATA, impl="reference")
noise = random.prior("normal", (8, 4), seed=1, purpose=random.Purpose.SAMPLE)
many: fastgan.PopulationResult = fastgan.train_population(
    lambda seed: gan, data.ring(100), config, seeds=range(4), grid={"optimizer.lr": [1e-3, 1e-4]}
)
curve: np.ndarray = many.mean["d_fake"]
fit: theory.GaussianFit = theory.fit_gaussian(np.ones(3), np.arange(3.0), kind="reverse_kl")
one = theory.f_generator_loss(logits, kind="pearson", saturating=False)
path = theory.bilinear_game(0.1, "simultaneous", steps=10)
modes: evaluation.ModeCoverage = evaluation.mode_coverage(samples, samples[:4], 0.1, convention="box", threshold=3.0)
covered: int = modes.covered
