"""Convolutional pairs: DCGAN's networks for images of usual sizes, with labels, packed, as flat rows, and trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Run, check_refusal
from torch.nn import functional as F

import fastgan
from fastgan import models
from fastgan.apps.cli import main, runs
from fastgan.models import GAN, join


def write_idx(folder: Path, n: int, size: int) -> None:
    """MNIST's files with n images of random pixels, labels 0 to 2 in turn."""
    rng = np.random.default_rng(0)
    header = b"".join(int(number).to_bytes(4, "big") for number in (n, size, size))
    pixels = rng.integers(0, 256, (n, size, size), np.uint8).tobytes()
    (folder / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + header + pixels)
    labels = bytes(i % 3 for i in range(n))
    (folder / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + int(n).to_bytes(4, "big") + labels)


@pytest.mark.parametrize("size", [8, 16, 24, 28, 32, 48, 64])
def test_M92_dcgan_makes_and_takes_images_of_this_size(size: int) -> None:
    gan = models.dcgan(image_size=size, channels=1, latent_dim=5, width=2)
    images = gan.sample(3)
    assert images.shape == (3, 1, size, size) and float(images.abs().max()) <= 1
    assert gan.logits(images).shape == (3,)
    wide = [m.weight for m in gan.modules() if isinstance(m, torch.nn.Conv2d) and m.in_channels > 1]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in wide)


@pytest.mark.parametrize("size", [4, 7, 26, 30, 0])
def test_a_size_that_cannot_be_halved(size: int) -> None:
    with pytest.raises(ValueError, match=f"dcgan: image_size must be 4 to 7 times a power of two .*, got {size}"):
        models.dcgan(image_size=size)


def test_an_activation_that_dcgan_does_not_end_in() -> None:
    with pytest.raises(ValueError, match="dcgan: output_activation must be one of tanh, sigmoid, none, got 'relu'"):
        models.dcgan(output_activation="relu")  # type: ignore[arg-type]


def test_labels_are_joined_to_images_as_maps() -> None:
    x, condition = torch.rand(2, 3, 4, 5), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    joined = join(x, condition)
    assert torch.equal(joined[:, :3], x)
    assert torch.equal(joined[0, 3:], torch.stack([torch.zeros(4, 5), torch.ones(4, 5)]))
    assert torch.equal(joined[1, 3:], torch.stack([torch.ones(4, 5), torch.zeros(4, 5)]))


def pair(*, flat: bool, pack: int = 1) -> GAN:
    torch.manual_seed(0)
    return models.dcgan(image_size=8, channels=2, latent_dim=4, width=3, classes=3, pack=pack, flat=flat)


def test_flat_rows_are_the_same_images() -> None:
    gan, flat = pair(flat=False), pair(flat=True)
    labels = torch.tensor([0, 2, 1, 1])
    images, rows = gan.sample(4, labels=labels), flat.sample(4, labels=labels)
    assert rows.shape == (4, 128) and torch.equal(rows, images.flatten(1))
    assert torch.equal(flat.logits(rows, labels), gan.logits(images, labels))
    assert not torch.equal(gan.logits(images, labels), gan.logits(images, labels.flip(0)))


@pytest.mark.parametrize("pack", [1, 2])
def test_M92_a_conditional_convolutional_pair_trains_as_written_out(pack: int) -> None:
    """D's loss and G's of one iteration, images and flat rows alike: labels are maps beside the channels."""
    images, labels = torch.rand(12, 2, 8, 8) * 2 - 1, torch.arange(12) % 3
    for flat in (True, False) if pack == 1 else (True,):
        gan = pair(flat=flat, pack=pack)
        data = fastgan.data.Dataset(images.flatten(1) if flat else images, labels=labels)
        config = fastgan.TrainConfig(1, 4, pack=pack, optimizer=fastgan.Adam(0.0), seed=3)
        result = fastgan.train(gan, data, config)
        assert result.engine == "eager"
        m = 4 * pack
        order = fastgan.random.permutation(12, seed=3, epoch=0)[:m]
        one_hot = F.one_hot(labels[order], 3).float()
        real, z = images[order], gan.noise(m, seed=3, purpose=fastgan.random.Purpose.NOISE_D)
        fresh = pair(flat=True, pack=pack)
        networks = list(fresh.discriminator)[1:]  # without the step from rows to images
        fake = torch.cat([z, one_hot], 1)
        for layer in fresh.generator:
            fake = layer(fake)
        maps = one_hot[:, :, None, None].expand(-1, -1, 8, 8)

        on = []
        for x in (real, fake):
            x = torch.cat([x.reshape(4, -1, 8, 8), maps.reshape(4, -1, 8, 8)], 1)
            for layer in networks:
                x = layer(x)
            on.append(x)
        expected = F.softplus(-on[0]).mean() + F.softplus(on[1]).mean()
        assert result.history["loss_d"][0] == pytest.approx(expected.item(), abs=1e-5)


TINY = ("--network", "dcgan", "--width", "2", "--latent-dim", "4", "--batch-size", "8", "--threads", "1", "--quiet")


def test_M92_the_command_trains_draws_and_resumes_a_convolutional_pair(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_idx(tmp_path, 40, 28)
    folder, other = str(tmp_path / "run"), str(tmp_path / "other")
    assert main(["train", str(tmp_path), "--conditional", "--steps", "4", "--out", folder, *TINY]) == 0
    config = runs.read(Path(folder))
    assert (config.networks.network, config.networks.image_size, config.networks.feature_maps) == ("dcgan", 28, 2)
    assert config.networks.output_activation == "sigmoid" and config.networks.classes == 3
    samples = runs.trained(Path(folder), config).sample(5)
    assert samples.shape == (5, 784) and 0 <= float(samples.min()) and float(samples.max()) <= 1
    assert (Path(folder) / "samples.png").stat().st_size > 5000
    assert main(["evaluate", folder, "--n", "30"]) == 0
    for steps, resume in (("2", ()), ("4", ("--resume",))):
        source = () if resume else (str(tmp_path), "--conditional", *TINY)
        assert main(["train", *source, *resume, "--steps", steps, "--out", other, "--quiet", "--no-pictures"]) == 0
    assert (Path(other) / "history.csv").read_bytes() == (Path(folder) / "history.csv").read_bytes()


def test_colour_images_of_a_folder(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for i in range(12):
        image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / f"{i}.png")
    out = str(tmp_path / "run")
    assert main(["train", str(tmp_path), "--steps", "2", "--out", out, "--no-pictures", *TINY]) == 0
    assert runs.trained(Path(out), runs.read(Path(out))).sample(2).shape == (2, 3072)


@pytest.mark.parametrize(
    ("source", "flags", "message"),
    [
        ("digits", (), "or 64: got 'dcgan' for 8x8 of digits"),
        ("ring", (), "or 64: got 'dcgan' for rows of 2 numbers of ring"),
        ("idx", ("--dropout", "0.5"), "--dropout must be left out with --network dcgan, got 0.5"),
        ("idx", ("--generator-hidden", "8,8"), "--generator-hidden must be left out with --network dcgan, got (8, 8)"),
        ("idx", ("--network", "resnet"), "--network must be one of mlp, dcgan, got 'resnet'"),
    ],
)
def test_what_dcgan_cannot_do_is_one_sentence(run: Run, source: str, flags: tuple[str, ...], message: str) -> None:
    pytest.importorskip("sklearn")
    Path("idx").mkdir()
    write_idx(Path("idx"), 12, 28)
    check_refusal(run("train", source, *TINY, *flags), message)
