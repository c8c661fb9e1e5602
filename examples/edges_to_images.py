"""Image to image: digits from their edges, by an adversarial loss and L1 (pix2pix), beside L1 alone.

G takes an image of edges and noise; D sees edges and image together. With L1 alone G gives the median of all that the
edges allow, which is blurred. The adversarial loss makes it choose. Printed for both: the L1 error on rows that were
held out, and how sharp the images are, as the mean difference of neighbouring pixels over that of real ones.

    python examples/edges_to_digits.py [--out edges.png]

Source: Isola et al. (2017), equations 3 and 4.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import fastgan
from fastgan import data, nn

SIDE, LATENT = 8, 16
PIXELS = SIDE * SIDE


def edges(rows: Tensor) -> Tensor:
    """Where neighbouring pixels differ much: 1, elsewhere 0. (m, pixels) to the same."""
    images = rows.unflatten(1, (SIDE, SIDE))
    across, down = torch.zeros_like(images), torch.zeros_like(images)
    across[:, :, 1:] = images.diff(dim=2).abs()
    down[:, 1:] = images.diff(dim=1).abs()
    return (torch.maximum(across, down) > 0.4).float().flatten(1)


def sharpness(rows: Tensor) -> float:
    """Mean difference of neighbouring pixels."""
    images = rows.unflatten(1, (SIDE, SIDE))
    return float(images.diff(dim=1).abs().mean() + images.diff(dim=2).abs().mean()) / 2


def fit(rows: Tensor, *, adversarial: float, l1: float, steps: int, seed: int) -> torch.nn.Module:
    """G of the loss adversarial * (-log D) + l1 * |x - G|, its weights averaged over the last steps."""
    torch.manual_seed(seed)
    g = nn.MLP([PIXELS + LATENT, 256, 256, PIXELS], output_activation="sigmoid")
    d = nn.MLP([2 * PIXELS, 256, 256, 1], activation="leaky_relu", dropout=0.3)
    of_g, of_d = (torch.optim.Adam(network.parameters(), 5e-4, (0.5, 0.999)) for network in (g, d))
    average = torch.optim.swa_utils.AveragedModel(g, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    for _ in range(steps):
        real = rows[torch.randint(len(rows), (64,))]
        drawn = edges(real)
        fake = g(torch.cat([drawn, torch.randn(len(real), LATENT)], 1))
        if adversarial:
            of_d.zero_grad()
            on_real, on_fake = d(torch.cat([drawn, real], 1)), d(torch.cat([drawn, fake.detach()], 1))
            fastgan.discriminator_loss(on_real, on_fake, real_label=0.9).backward()
            of_d.step()
        loss = l1 * (real - fake).abs().mean()
        if adversarial:
            loss = loss + adversarial * fastgan.generator_loss(d(torch.cat([drawn, fake], 1)))
        of_g.zero_grad()
        loss.backward()
        of_g.step()
        average.update_parameters(g)
    return average.module


@torch.no_grad()
def drawn_by(g: torch.nn.Module, drawn: Tensor) -> Tensor:
    """Images of these edges."""
    noise = torch.randn(len(drawn), LATENT, generator=torch.Generator().manual_seed(1))
    images: Tensor = g(torch.cat([drawn, noise], 1))
    return images


def picture(panels: dict[str, Tensor], path: Path) -> None:
    """A row of images for each name."""
    from fastgan.plots import style
    from fastgan.plots.images import mosaic

    figure = style.figure(9, 1.15 * len(panels))
    for axes, (name, rows) in zip(figure.subplots(len(panels), 1), panels.items(), strict=True):
        axes.imshow(mosaic(rows, (1, 10), (SIDE, SIDE), (0.0, 1.0), ink=True), interpolation="nearest")
        axes.set_axis_off()
        axes.text(-0.01, 0.5, name, transform=axes.transAxes, ha="right", va="center", fontsize=10)
    style.save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("edges.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the steps are small
    rows = data.digits().tensor()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(arguments.seed))
    train, test = rows[order[300:]], rows[order[:300]]
    drawn = edges(test)
    panels = {"edges": drawn, "real": test}
    print(f"{'loss':<18} {'L1 error':>9} {'sharpness, of real':>19}")
    for name, adversarial in (("L1 alone", 0.0), ("adversarial + L1", 1.0)):
        g = fit(train, adversarial=adversarial, l1=20.0, steps=arguments.steps, seed=arguments.seed)
        panels[name] = made = drawn_by(g, drawn)
        error, sharp = float((made - test).abs().mean()), sharpness(made) / sharpness(test)
        print(f"{name:<18} {error:>9.4f} {sharp:>19.3f}", flush=True)
    picture({name: rows[:10] for name, rows in panels.items()}, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
