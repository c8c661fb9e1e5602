"""What does a batch cost that does not fill the vectors?

    python bench/bench_batches.py [--widths 256 256] [--first 64] [--precision fp32] [--rounds 12]

The batch is the vector dimension: with AVX-512, 16 rows of float32 to a vector. For the sizes between two multiples of
16, this prints the time of an iteration and its distance from the straight line between the times of both. All sizes
are timed in turn, one thread, processor time; the best of some rounds counts. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from fastgan import GAN, Adam, TrainConfig, nn, train

ROWS = 16  # of a vector
FEATURES, LATENT = 784, 64


def gan_of(widths: list[int]) -> GAN:
    """784 features; D has G's hidden layers in the other order."""
    torch.manual_seed(0)
    generator = nn.MLP([LATENT, *widths, FEATURES], activation="relu", output_activation="tanh")
    discriminator = nn.MLP([FEATURES, *widths[::-1], 1], activation="leaky_relu")
    return GAN(generator, discriminator, latent_dim=LATENT, data_shape=(FEATURES,))


def main() -> None:
    """Time all sizes, print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 256], help="hidden layers (256 256)")
    parser.add_argument("--first", type=int, default=64, help="a multiple of 16 (64)")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=12, help="of all sizes in turn (12)")
    parser.add_argument("--iterations", type=int, default=100, help="of a training (100)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    first, last = arguments.first, arguments.first + ROWS
    rows, gan = torch.rand(4096, FEATURES) * 2 - 1, gan_of(arguments.widths)
    best = dict.fromkeys((first, *(first + n for n in (1, 4, 5, 8, 9, 12, 13)), last), float("inf"))
    for _ in range(arguments.rounds):
        for size in best:
            config = TrainConfig(arguments.iterations, size, optimizer=Adam(2e-4), precision=arguments.precision)
            begun = time.process_time()
            train(gan, rows, config)
            best[size] = min(best[size], (time.process_time() - begun) / arguments.iterations)
    over = {}
    for size, seconds in best.items():
        line = best[first] + (best[last] - best[first]) * (size - first) / ROWS
        over[size] = seconds / line - 1
        print(f"batch {size:4d}: {1e3 * seconds:7.3f} ms, {100 * over[size]:+5.1f}% of the line from {first} to {last}")
    milliseconds = {size: 1e3 * seconds for size, seconds in best.items()}
    print(json.dumps(vars(arguments) | {"milliseconds": milliseconds, "over": over}))


if __name__ == "__main__":
    main()
