"""Image to image: pictures from their edges, by an adversarial loss and L1 (pix2pix), beside L1 alone.

G is a small U-Net that takes the edges, and noise in its middle; D sees edges and image together, a logit a patch.
With L1 alone G gives the median of all that the edges allow, which is blurred. The adversarial loss makes it choose.
Printed for both: the L1 error on rows that were held out, and how sharp the images are, as the mean difference of
neighbouring pixels over that of real ones.

    python examples/edges_to_images.py [--out edges.png]
    python examples/edges_to_images.py --source fashion-mnist --data DIR

Source: Isola et al. (2017), equations 3 and 4.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import fastgan
from fastgan import data
from fastgan.plots import style
from fastgan.plots.images import mosaic

LATENT, BATCH = 8, 64


def edges(images: Tensor) -> Tensor:
    """Where neighbouring pixels differ much: 1, elsewhere 0. (m, 1, height, width) to the same."""
    across, down = torch.zeros_like(images), torch.zeros_like(images)
    across[..., 1:] = images.diff(dim=3).abs()
    down[..., 1:, :] = images.diff(dim=2).abs()
    return (torch.maximum(across, down) > 0.4).float()


def sharpness(images: Tensor) -> float:
    """Mean difference of neighbouring pixels."""
    return float(images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()) / 2


class UNet(nn.Module):
    """Edges (m, 1, height, width) and noise (m, LATENT) to images of the same size, which 4 must divide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w, norm = width, nn.BatchNorm2d  # without it, the L1 error of pixels that are mostly 0 ends in black images
        self.outer = nn.Sequential(nn.Conv2d(1, w, 3, padding=1), nn.LeakyReLU(0.2))
        self.middle = nn.Sequential(nn.Conv2d(w, 2 * w, 4, 2, 1), norm(2 * w), nn.LeakyReLU(0.2))
        self.inner = nn.Sequential(nn.Conv2d(2 * w, 4 * w, 4, 2, 1), norm(4 * w), nn.LeakyReLU(0.2))
        self.up = nn.Sequential(nn.ConvTranspose2d(4 * w + LATENT, 2 * w, 4, 2, 1), norm(2 * w), nn.ReLU())
        self.upper = nn.Sequential(nn.ConvTranspose2d(4 * w, w, 4, 2, 1), norm(w), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(2 * w, 1, 3, padding=1), nn.Sigmoid())

    def forward(self, drawn: Tensor, z: Tensor) -> Tensor:
        outer = self.outer(drawn)
        middle = self.middle(outer)
        inner = self.inner(middle)
        maps = z[:, :, None, None].expand(-1, -1, *inner.shape[2:])
        up = self.up(torch.cat([inner, maps], 1))
        image: Tensor = self.last(torch.cat([self.upper(torch.cat([up, middle], 1)), outer], 1))
        return image


def patches(width: int) -> nn.Module:
    """D: edges and image (m, 2, height, width) to logits, one for each patch."""
    return nn.Sequential(
        nn.Conv2d(2, width, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 1, 3, padding=1), nn.Flatten(),
    )  # fmt: skip


def fit(images: Tensor, *, adversarial: float, l1: float, steps: int, width: int, seed: int) -> nn.Module:
    """G of the loss adversarial * (-log D) + l1 * |x - G|, its weights averaged over the last steps."""
    torch.manual_seed(seed)
    g, d = UNet(width), patches(width)
    of_g, of_d = (torch.optim.Adam(network.parameters(), 5e-4, (0.5, 0.999)) for network in (g, d))
    ema = torch.optim.swa_utils.get_ema_multi_avg_fn(0.95)
    average = torch.optim.swa_utils.AveragedModel(g, multi_avg_fn=ema, use_buffers=True)
    for _ in range(steps):
        real = images[torch.randint(len(images), (BATCH,))]
        drawn = edges(real)
        fake = g(drawn, torch.randn(BATCH, LATENT))
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
    averaged: nn.Module = average.module.eval()
    return averaged


@torch.no_grad()
def drawn_by(g: nn.Module, drawn: Tensor) -> Tensor:
    """Images of these edges."""
    images: Tensor = g(drawn, torch.randn(len(drawn), LATENT, generator=torch.Generator().manual_seed(1)))
    return images


def picture(panels: dict[str, Tensor], path: Path, source: str) -> None:
    """A row of images for each name."""
    figure = style.figure(9, 1.05 * len(panels) + 0.2)
    for axes, (name, images) in zip(figure.subplots(len(panels), 1), panels.items(), strict=True):
        shape = (images.shape[2], images.shape[3])
        grid = mosaic(images.flatten(1), (1, len(images)), shape, (0.0, 1.0), ink=True)
        axes.imshow(grid, interpolation="nearest")
        axes.set_axis_off()
        axes.text(-0.01, 0.5, name, transform=axes.transAxes, ha="right", va="center", fontsize=10)
    style.save(figure, path, source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="digits", help="digits, mnist, fashion-mnist, or a file of grey images")
    parser.add_argument("--data", metavar="DIR", help="where the files of mnist or fashion-mnist are")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--width", type=int, default=16, help="feature maps next to the image (16)")
    parser.add_argument("--l1", type=float, default=20.0, help="weight of the L1 error (20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("edges.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the steps are small
    dataset = data.load(arguments.source, **({"path": arguments.data} if arguments.data else {}))
    images = dataset.tensor().unflatten(1, (1, *dataset.image_shape))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(arguments.seed))
    train, test = images[order[300:]], images[order[:300]]
    drawn = edges(test)
    panels = {"edges": drawn, "real": test}
    print(f"{'loss':<18} {'L1 error':>9} {'sharpness, of real':>19} {'processor seconds':>18}")
    for name, adversarial in (("L1 alone", 0.0), ("adversarial + L1", 1.0)):
        options = {"steps": arguments.steps, "width": arguments.width, "seed": arguments.seed}
        begun = time.process_time()
        g = fit(train, adversarial=adversarial, l1=arguments.l1, **options)
        seconds = time.process_time() - begun
        panels[name] = made = drawn_by(g, drawn)
        error, sharp = float((made - test).abs().mean()), sharpness(made) / sharpness(test)
        print(f"{name:<18} {error:>9.4f} {sharp:>19.3f} {seconds:>18.0f}", flush=True)
    source = f"{dataset.name}, {arguments.steps:,} steps of {BATCH} rows, seed {arguments.seed}, 300 rows held out"
    picture({name: images[:12] for name, images in panels.items()}, arguments.out, source)
    print(arguments.out)


if __name__ == "__main__":
    main()
