"""A convolutional pair: fastgan's eager engine beside the same loop written out in plain PyTorch.

Both train DCGAN's networks on the same images: the plain loop in torch's own memory format, as tutorials have it, and
fastgan in channels-last. Before they are timed, both make some iterations from the same weights, rows and noise, and
must change the weights as a float64 run of the plain loop does.

    python bench/bench_dcgan.py [--size 28 64] [--width 32] [--batch 64] [--threads 1 2]
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import fastgan
from fastgan import models, random
from fastgan.apps.bench import harness
from fastgan.models import GAN
from fastgan.random import Purpose

PLAIN, FASTGAN = "plain PyTorch", "fastgan"
ITERATIONS = 4  # of a call: what a call costs before its first iteration is shared by them
ROWS = 1000
TOLERANCE = harness.Tolerance(
    2e-2
)  # of the change of weights: Adam's first steps have the size of the rate whatever the gradient
Draws = Callable[[int], tuple[Tensor, Tensor, Tensor]]  # iteration -> numbers of rows, noise for D's step, for G's


def plain_loop(gan: GAN, rows: Tensor, batch: int, draws: Draws | None = None) -> Callable[[], None]:
    """Algorithm 1 for these networks, as a tutorial writes it; by torch's random numbers, or by given ones."""
    of_g, of_d = (torch.optim.Adam(n.parameters(), 2e-4, (0.5, 0.999)) for n in (gan.generator, gan.discriminator))

    def torchs(it: int) -> tuple[Tensor, Tensor, Tensor]:
        z_d, z_g = torch.randn(batch, gan.latent_dim), torch.randn(batch, gan.latent_dim)
        return torch.randint(len(rows), (batch,)), z_d, z_g

    def run() -> None:
        for it in range(ITERATIONS):
            index, z_d, z_g = (draws or torchs)(it)
            real, fake = rows[index], gan.generator(z_d).detach()
            on_real, on_fake = gan.discriminator(real), gan.discriminator(fake)
            loss = F.binary_cross_entropy_with_logits(on_real, torch.ones_like(on_real))
            loss = loss + F.binary_cross_entropy_with_logits(on_fake, torch.zeros_like(on_fake))
            of_d.zero_grad()
            loss.backward()
            of_d.step()
            logits = gan.discriminator(gan.generator(z_g))
            of_g.zero_grad()
            F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits)).backward()
            of_g.step()

    return run


def fastgans_draws(gan: GAN, batch: int, seed: int) -> Draws:
    """The rows and the noise of `fastgan.train`, which are functions of the seed and the iteration."""

    def draws(it: int) -> tuple[Tensor, Tensor, Tensor]:
        index = random.permutation(ROWS, seed=seed, epoch=0, start=it * batch, count=batch)
        z_d, z_g = (gan.noise(batch, seed=seed, purpose=p, step=it) for p in (Purpose.NOISE_D, Purpose.NOISE_G))
        return index, z_d, z_g

    return draws


def changes(gan: GAN, train: Callable[[GAN], object]) -> dict[str, Tensor]:
    """By how much training changes the weights of each network; of a copy."""
    after = copy.deepcopy(gan)
    train(after)

    def flat(network: torch.nn.Module) -> Tensor:
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    networks = {"G": (gan.generator, after.generator), "D": (gan.discriminator, after.discriminator)}
    return {name: flat(changed) - flat(first) for name, (first, changed) in networks.items()}


def measure(threads: int, settings: harness.Settings, size: int, width: int, batch: int) -> dict[str, Any]:
    """Check and time one number of threads."""
    if ITERATIONS * batch > ROWS:
        raise SystemExit(f"bench_dcgan: --batch must be at most {ROWS // ITERATIONS}, got {batch}")
    torch.manual_seed(settings.seed)
    gan = models.dcgan(image_size=size, channels=1, width=width)
    rows = torch.rand(ROWS, 1, size, size) * 2 - 1
    adam = fastgan.Adam(2e-4, betas=(0.5, 0.999))
    config = fastgan.TrainConfig(ITERATIONS, batch, optimizer=adam, seed=settings.seed)
    plain = copy.deepcopy(gan).to(memory_format=torch.contiguous_format)
    draws = fastgans_draws(gan, batch, settings.seed)

    def as_double(it: int) -> tuple[Tensor, Tensor, Tensor]:
        index, z_d, z_g = draws(it)
        return index, z_d.double(), z_g.double()

    truth = changes(copy.deepcopy(plain).double(), lambda g: plain_loop(g, rows.double(), batch, as_double)())
    sides = [
        harness.Side(
            FASTGAN,
            lambda: fastgan.train(gan, rows, config),
            lambda: changes(gan, lambda g: fastgan.train(g, rows, config)),
            ITERATIONS,
        ),
        harness.Side(
            PLAIN,
            plain_loop(plain, rows, batch),
            lambda: changes(plain, lambda g: plain_loop(g, rows, batch, draws)()),
            ITERATIONS,
        ),
    ]
    with harness.pinned(threads) as cpus:
        case = f"{size} x {size}, {harness.threads(threads)}"
        record = harness.compare(case, sides, truth, TOLERANCE, settings, threads)
    return record | {"threads": threads, "cpus": cpus, "size": size, "width": width, "batch": batch}


def bench(settings: harness.Settings, sizes: Sequence[int], width: int, batch: int) -> harness.Report:
    """Measure, print, write."""
    report = harness.Report("dcgan", settings)
    body = [["images", "threads", PLAIN, FASTGAN, "ratio", "spread"]]
    for size in sizes:
        for threads in settings.threads:
            record = measure(threads, settings, size, width, batch)
            report.add(record)
            times = [harness.median(record, side) for side in (PLAIN, FASTGAN)]
            ratio, spread = harness.times(record, PLAIN, FASTGAN), f"{record['spread']:.1%}"
            body.append([f"{size} x {size}", str(threads), *times, ratio, spread])
    print(f"DCGAN, width {width}, batch {batch}: microseconds an iteration (median)")
    print(harness.table(body))
    print(report.disturbances())
    report.write({"unit": "seconds an iteration"}, None)
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = harness.parser("fastgan's eager engine beside the same loop in plain PyTorch, a convolutional pair")
    parser.add_argument("--size", type=int, nargs="+", default=[28, 64], help="pixels a side of the images")
    for name, default in (("width", 32), ("batch", 64)):
        parser.add_argument(f"--{name}", type=int, default=default, help="of the networks and iterations")
    args = parser.parse_args(argv)
    settings = harness.settings_from(args)
    return harness.guarded("bench_dcgan", lambda: bench(settings, args.size, args.width, args.batch))


if __name__ == "__main__":
    raise SystemExit(main())
