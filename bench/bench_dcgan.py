"""A convolutional pair: fastgan's eager engine beside the same loop written out in plain PyTorch.

Both train DCGAN's networks on the same images, in torch's own memory format as tutorials have them, and fastgan in
channels-last. They take turns, a few iterations each, in one process; the table has the least and the median time of a
turn, wall clock and processor, per iteration.

    python bench/bench_dcgan.py [--size 28] [--width 32] [--turns 10] [--threads 1]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

import fastgan
from fastgan import models
from fastgan.models import GAN


def plain_loop(gan: GAN, rows: Tensor, batch: int) -> Callable[[int], None]:
    """Algorithm 1 for these networks, as a tutorial writes it."""
    gan = copy.deepcopy(gan).to(memory_format=torch.contiguous_format)
    of_g, of_d = (torch.optim.Adam(n.parameters(), 2e-4, (0.5, 0.999)) for n in (gan.generator, gan.discriminator))

    def run(iterations: int) -> None:
        for _ in range(iterations):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("size", 28), ("width", 32), ("batch", 64), ("turns", 10), ("iterations", 4), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    gan = models.dcgan(image_size=arguments.size, channels=1, width=arguments.width)
    rows = torch.rand(1000, 1, arguments.size, arguments.size) * 2 - 1
    adam = fastgan.Adam(2e-4, betas=(0.5, 0.999))
    config = fastgan.TrainConfig(arguments.iterations, arguments.batch, optimizer=adam)
    sides: dict[str, Callable[[int], object]] = {
        "plain PyTorch": plain_loop(gan, rows, arguments.batch),
        "fastgan": lambda _: fastgan.train(gan, rows, config),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(arguments.turns + 1):
        for name, run in sides.items():
            wall, processor = time.perf_counter(), time.process_time()
            run(arguments.iterations)
            spent = time.perf_counter() - wall, time.process_time() - processor
            if turn:  # the first warms up
                times[name].append((1e3 * spent[0] / arguments.iterations, 1e3 * spent[1] / arguments.iterations))
    print(f"{'ms an iteration':<16} {'wall: least':>12} {'median':>8} {'processor: least':>18} {'median':>8}")
    for name, spent in times.items():
        walls, processors = zip(*spent, strict=True)
        numbers = min(walls), statistics.median(walls), min(processors), statistics.median(processors)
        print("{:<16} {:>12.1f} {:>8.1f} {:>18.1f} {:>8.1f}".format(name, *numbers))


if __name__ == "__main__":
    main()
