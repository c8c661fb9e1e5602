"""A run that stopped and was resumed has the bits of an uninterrupted one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastgan import GAN, TrainConfig, TrainResult, train
from fastgan.training import checkpoint


def check_resumed(
    make: Callable[[], GAN], data: Any, config: TrainConfig, stop: int, folder: Path
) -> tuple[GAN, TrainResult]:
    """Stop after `stop` iterations and go on with other networks; gives the uninterrupted run, in folder/whole."""
    gan = make()
    whole = train(gan, data, config, run_dir=folder / "whole")
    train(make(), data, replace(config, steps=stop), run_dir=folder / "parts")
    other = make()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    torch.manual_seed(99)  # the state of torch's generator must not matter
    resumed = train(other, data, config, run_dir=folder / "parts", resume=True)
    assert (resumed.step, resumed.interrupted) == (config.steps, False)
    assert whole.history.keys() == resumed.history.keys()
    for name, values in whole.history.items():
        assert np.array_equal(values, resumed.history[name]), name
    assert (folder / "whole/history.csv").read_bytes() == (folder / "parts/history.csv").read_bytes()
    one, two = (checkpoint.load(folder / name) for name in ("whole", "parts"))
    torch.testing.assert_close(two.tensors, one.tensors, rtol=0, atol=0)
    assert one.others == two.others and one.groups == two.groups
    torch.testing.assert_close(other.state_dict(), two.gan_state(), rtol=0, atol=0)
    return gan, whole
