"""The presets of fastgan train as flags, for its help."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

import torch

from fastgan import data
from fastgan.apps import presets
from fastgan.apps.presets import Networks, Preset
from fastgan.training import Adam, TrainConfig

_WIDTH, _INDENT = 80, 4
_ROWS = 512
_SIZES = {"digits": 64, "ring": 2, "grid": 2, "gaussian": 1, "gaussians": 2, "ring_map": 2, "mixture1200d": 1200}


def text() -> str:
    """A paragraph for each preset: its sources, and the flags that would say the same."""
    of_flags: dict[str, list[str]] = {}
    for name, preset in _all().items():
        of_flags.setdefault(" ".join(_flags(preset)), []).append(name)
    lines = ["presets, in place of the numbers in brackets:"]
    for flags, names in of_flags.items():
        indent = " " * _INDENT
        lines.append(f"  {', '.join(names)}")
        lines.append(
            textwrap.fill(flags, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
        )
    return "\n".join(lines).replace("%", "%%")


def _all() -> dict[str, Preset]:
    found = {name: presets.for_source(name, _rows(size)) for name, size in _SIZES.items()}
    images = _rows(784, image_shape=(28, 28), value_range=(0.0, 1.0))
    found[" or ".join(data.USERS_OWN)] = presets.for_source("mnist", images)
    found["--network dcgan"] = presets.for_source("mnist", images, "dcgan")
    found["other images in [0, 1]"] = presets.for_source("file", _rows(64, image_shape=(8, 8), value_range=(0.0, 1.0)))
    found["tables of up to 8 columns of numbers"] = presets.for_source("file", _rows(8))
    return found


def _rows(size: int, **options: Any) -> data.Dataset:
    return data.Dataset(torch.zeros(_ROWS, size), **options)


def _flags(preset: Preset) -> list[str]:
    """What differs from the defaults of the flags."""
    networks, train = preset.networks, preset.train
    common, of_g = train.optimizer_of_discriminator, train.optimizer_of_generator
    assert isinstance(common, Adam) and isinstance(of_g, Adam)
    found: dict[str, Any] = {"steps": train.steps, "batch-size": train.batch_size, "lr": common.lr}
    if of_g.lr != common.lr:
        found["generator-lr"] = of_g.lr
    for number, beta in enumerate(common.betas):
        if beta != Adam().betas[number]:
            found[f"beta{number + 1}"] = beta
    if networks.network == "mlp" and len({*networks.generator_hidden, *networks.discriminator_hidden}) == 1:
        found["width"] = networks.generator_hidden[0]
        networks = dataclasses.replace(networks, generator_hidden=(256, 256), discriminator_hidden=(256, 256))
    elif networks.network == "dcgan":
        networks = dataclasses.replace(networks, network="mlp")
    own = {"steps", "batch_size", "optimizer", "generator_optimizer", "data_dim", "image_size"}
    for part, kind in ((train, TrainConfig), (networks, Networks)):
        for item in dataclasses.fields(kind):
            value = getattr(part, item.name)
            if item.name not in own and value != item.default:
                shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
                found[item.name.replace("_", "-")] = shown
    return [f"--{name} {value}" for name, value in found.items()]
