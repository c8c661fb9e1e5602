"""Every option misused once: mypy --strict and pyright flag each line that says so, and no other."""

from __future__ import annotations

import numpy as np
import torch

import fastgan
from fastgan import data, evaluation, losses, models, nn, random, theory

x = torch.zeros(8)
fastgan.TrainConfig(steps="10", batch_size=8)  # wrong
fastgan.TrainConfig(steps=10, batch_size=8.5)  # wrong
fastgan.TrainConfig(batch_size=8)  # wrong
fastgan.TrainConfig(10, 8, stepz=1)  # wrong
fastgan.TrainConfig(10, 8, k="2")  # wrong
fastgan.TrainConfig(10, 8, generator_steps=None)  # wrong
fastgan.TrainConfig(10, 8, micro_batches="2")  # wrong
fastgan.TrainConfig(10, 8, inner="best")  # wrong
fastgan.TrainConfig(10, 8, inner_tolerance="small")  # wrong
fastgan.TrainConfig(10, 8, unroll=0.5)  # wrong
fastgan.TrainConfig(10, 8, optimizer=1e-3)  # wrong
fastgan.TrainConfig(10, 8, generator_optimizer="adam")  # wrong
fastgan.TrainConfig(10, 8, discriminator_optimizer="adam")  # wrong
fastgan.TrainConfig(10, 8, loss="gan")  # wrong
fastgan.TrainConfig(10, 8, loss=(torch.sigmoid, "wasserstein"))  # wrong
fastgan.TrainConfig(10, 8, gradient_penalty=("r1", "r3"))  # wrong
fastgan.TrainConfig(10, 8, real_label="0.9")  # wrong
fastgan.TrainConfig(10, 8, fake_label=None)  # wrong
fastgan.TrainConfig(10, 8, gradient_penalty="wgan")  # wrong
fastgan.TrainConfig(10, 8, penalty_weight=None)  # wrong
fastgan.TrainConfig(10, 8, instance_noise=None)  # wrong
fastgan.TrainConfig(10, 8, instance_noise_steps=0.5)  # wrong
fastgan.TrainConfig(10, 8, historical_averaging="1")  # wrong
fastgan.TrainConfig(10, 8, mode="both")  # wrong
fastgan.TrainConfig(10, 8, pack=1.5)  # wrong
fastgan.TrainConfig(10, 8, ema_decay="0.9")  # wrong
fastgan.TrainConfig(10, 8, max_col_norm="1")  # wrong
fastgan.TrainConfig(10, 8, engine="gpu")  # wrong
fastgan.TrainConfig(10, 8, optimizer=fastgan.AdamW(weight_decay="0.1"))  # wrong
fastgan.TrainConfig(10, 8, optimizer=fastgan.RMSprop())  # wrong
fastgan.TrainConfig(10, 8, scheduler=fastgan.CosineDecay("100"))  # wrong
fastgan.TrainConfig(10, 8, precision="fp16")  # wrong
fastgan.TrainConfig(10, 8, nonfinite="ignore")  # wrong
fastgan.TrainConfig(10, 8, checkpoint_every="never")  # wrong
fastgan.TrainConfig(10, 8, seed=None)  # wrong
fastgan.TrainConfig(10, 8, device=0)  # wrong
fastgan.TrainConfig(10, 8, impl="cuda")  # wrong
fastgan.TrainConfig(10, 8, scheduler="cosine")  # wrong
fastgan.TrainConfig(10, 8, generator_scheduler=torch.optim.SGD)  # wrong
fastgan.TrainConfig(10, 8, discriminator_scheduler=0.1)  # wrong
fastgan.TrainConfig(10, 8, max_grad_norm="1")  # wrong
fastgan.TrainConfig(10, 8, max_grad_value="1")  # wrong
fastgan.TrainConfig(10, 8, clip_weights="0.01")  # wrong
fastgan.TrainConfig(10, 8, keep_checkpoints="all")  # wrong
fastgan.Best("fid", every=10)  # wrong
fastgan.JSONLines("log.jsonl", every="10")  # wrong
fastgan.Adam("1e-3")  # wrong
fastgan.Adam(betas=0.5)  # wrong
fastgan.Momentum(0.1, convention="nesterov")  # wrong
gan = models.mlp_gan(2, prior="gauss")  # wrong
models.mlp_gan(2, generator_activation="swish")  # wrong
models.mlp_gan(2, discriminator_activation="swish")  # wrong
models.mlp_gan(2, output_activation="softmax")  # wrong
models.mlp_gan(2, impl="fast")  # wrong
nn.MLP([4, 8, 2], activation="swish")  # wrong
nn.MLP([4, 8, 2], activation="relu", output_activation="softmax")  # wrong
nn.Linear(4, 2, impl="fast")  # wrong
nn.Maxout(4, 2, pieces="5")  # wrong
nn.Dropout("0.5")  # wrong
nn.Sequential(impl="fast")  # wrong
g = fastgan.GAN(torch.nn.Linear(4, 2), torch.nn.Linear(2, 1), latent_dim=4, prior="gauss")  # wrong
g = fastgan.GAN(torch.nn.Linear(4, 2), torch.nn.Linear(2, 1))  # wrong
config = fastgan.TrainConfig(10, 8)
config.steps = 20  # wrong
fastgan.train(g, data.ring(100), 10)  # wrong
fastgan.train(torch.nn.Linear(4, 2), data.ring(100), config)  # wrong
fastgan.train(g, data.ring(100), config, callbacks=[print])  # wrong
print(fastgan.train(g, data.ring(100), config).loss)  # wrong
g.sample("16")  # wrong
fastgan.discriminator_loss(x, x, kind="minimax")  # wrong
fastgan.discriminator_loss(x, x, reduction="average")  # wrong
fastgan.discriminator_loss(x, x, impl="cuda")  # wrong
fastgan.discriminator_loss(x)  # wrong
fastgan.discriminator_loss(x, x, reduction="none").backward()  # wrong
fastgan.generator_loss(x, kind="gan")  # wrong
fastgan.generator_loss(x, reduction="average")  # wrong
losses.mixed_batch_loss(x, x > 0, reduction="average")  # wrong
losses.gradient_penalty(torch.nn.Linear(2, 1), x, x, kind="wgan")  # wrong
random.uniform(8, seed=1)  # wrong
random.uniform(8, seed=1, purpose=random.Purpose.DATA, sub=1)  # wrong
random.normal(8, seed="1", purpose=random.Purpose.DATA)  # wrong
random.prior("gauss", (8, 4), seed=1, purpose=random.Purpose.DATA)  # wrong
theory.fit_gaussian(np.ones(3), np.arange(3.0), kind="hellinger")  # wrong
theory.f_generator_loss(x, kind="chi2")  # wrong
theory.gaussian_game(kind="hinge")  # wrong
theory.bilinear_game(0.1, "both")  # wrong
evaluation.mode_coverage(x, x, 0.1, convention="sphere")  # wrong
