"""A convolutional pair: fastgan's eager engine beside the same loop written out in plain PyTorch.

Both train DCGAN's networks on the same images: the plain loop in torch's own memory format, as tutorials have it, and
fastgan in channels-last. Images and outputs of both are held against a float64 run before they train.

    python bench/bench_dcgan.py [--sizes 28 64] [--width 32] [--batch 64] [--threads 1 2]
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import fastgan
from fastgan import models
from fastgan.apps.bench import harness
from fastgan.apps.bench.results import Report, guarded
from fastgan.models import GAN

PLAIN, FASTGAN = "plain PyTorch", "fastgan"
ITERATIONS = 4  # of a call: what a call costs before its first iteration is shared by them
TOLERANCE = harness.Tolerance(1e-5)


def plain_loop(gan: GAN, rows: Tensor, batch: int) -> Callable[[], None]:
    """Algorithm 1 for these networks, as a tutorial writes it."""
    of_g, of_d = (torch.optim.Adam(n.parameters(), 2e-4, (0.5, 0.999)) for n in (gan.generator, gan.discriminator))

    def run() -> None:
        for _ in range(ITERATIONS):
            real = rows[torch.randint(len(rows), (batch,))]
            fake = gan.generator(torch.randn(batch, gan.latent_dim)).detach()
            on_real, on_fake = gan.discriminator(real), gan.discriminator(fake)
            loss = F.binary_cross_entropy_with_logits(on_real, torch.ones_like(on_real))
            loss = loss + F.binary_cross_entropy_with_logits(on_fake, torch.zeros_like(on_fake))
            of_d.zero_grad()
            loss.backward()
            of_d.step()
            logits = gan.discriminator(gan.generator(torch.randn(batch, gan.latent_dim)))
            of_g.zero_grad()
            F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits)).backward()
            of_g.step()

    return run


def outputs(gan: GAN, rows: Tensor) -> dict[str, Tensor]:
    """What the networks give before they are trained."""
    with torch.no_grad():
        z = torch.linspace(-2, 2, 8 * gan.latent_dim).view(8, -1).to(rows.dtype)
        return {"images": gan.generator(z), "logits": gan.discriminator(rows[:8])}


def measure(threads: int, settings: harness.Settings, size: int, width: int, batch: int) -> dict[str, Any]:
    """Check and time one number of threads."""
    torch.manual_seed(settings.seed)
    gan = models.dcgan(image_size=size, channels=1, width=width)
    rows = torch.rand(1000, 1, size, size) * 2 - 1
    config = fastgan.TrainConfig(ITERATIONS, batch, optimizer=fastgan.Adam(2e-4, betas=(0.5, 0.999)))
    plain = copy.deepcopy(gan).to(memory_format=torch.contiguous_format)
    truth = outputs(copy.deepcopy(gan).double(), rows.double())
    sides = [
        harness.Side(FASTGAN, lambda: fastgan.train(gan, rows, config), lambda: outputs(gan, rows), ITERATIONS),
        harness.Side(PLAIN, plain_loop(plain, rows, batch), lambda: outputs(plain, rows), ITERATIONS),
    ]
    with harness.pinned(threads) as cpus:
        record = harness.compare(harness.threads(threads), sides, truth, TOLERANCE, settings, threads)
    return record | {"threads": threads, "cpus": cpus, "size": size, "width": width, "batch": batch}


def bench(settings: harness.Settings, sizes: Sequence[int], width: int, batch: int) -> Report:
    """Measure, print, write."""
    report = Report("dcgan", settings)
    body = [["size", "threads", PLAIN, FASTGAN, "ratio", "spread"]]
    for size, threads in itertools.product(sizes, settings.threads):
        record = measure(threads, settings, size, width, batch)
        report.add(record)
        times = [harness.median(record, side) for side in (PLAIN, FASTGAN)]
        ratio = harness.times(record, PLAIN, FASTGAN)
        body.append([str(size), str(threads), *times, ratio, f"{record['spread']:.1%}"])
    print(f"DCGAN, square images, width {width}, batch {batch}: microseconds an iteration (median)")
    print(harness.table(body))
    print(report.disturbances())
    report.write({"unit": "seconds an iteration"}, None)
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = harness.parser("fastgan's eager engine beside the same loop in plain PyTorch, a convolutional pair")
    parser.add_argument("--sizes", type=int, nargs="+", default=[28, 64], help="of the images (28 64)")
    for name, default in (("width", 32), ("batch", 64)):
        parser.add_argument(f"--{name}", type=int, default=default, help="of the networks and iterations")
    args = parser.parse_args(argv)
    settings = harness.settings_from(args)
    return guarded("bench_dcgan", lambda: bench(settings, args.sizes, args.width, args.batch))


if __name__ == "__main__":
    raise SystemExit(main())
