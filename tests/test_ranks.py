"""Several processes that train one GAN: two of them, by gloo, against one process with the whole batch."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fastgan
from fastgan import nn
from fastgan._ranks import Ranks, local_device
from fastgan.training import checkpoint

DATA = torch.rand(60, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2 - 1
LABELLED = fastgan.data.dataset.Dataset(DATA, labels=torch.arange(60) % 3, dtype=torch.float64)
STEPS = 6
CONFIGS: dict[str, dict[str, Any]] = {
    "wgan-gp": {
        "loss": "wasserstein",
        "gradient_penalty": "wgan-gp",
        "k": 2,
        "ema_decay": 0.9,
        "max_grad_norm": 1.0,
    },
    "simultaneous": {
        "mode": "simultaneous",
        "gradient_penalty": "r1",
        "pack": 2,
        "optimizer": fastgan.Momentum(0.05),
        "nonfinite": "skip",
    },
    "relativistic": {"loss": "relativistic", "optimizer": functools.partial(torch.optim.RMSprop, lr=1e-3)},
    "conditional": {"real_label": 0.9, "inner": "optimum", "k": 3, "inner_tolerance": 0.5},
    "parts": {"micro_batches": 2, "k": 2, "gradient_penalty": ("wgan-gp", "r1"), "instance_noise": 0.5, "pack": 2},
    "noise": {"instance_noise": 0.5, "historical_averaging": 0.1, "pack": 2},
    "batch-norm": {},
    "dropout": {},
}


def config_of(name: str, steps: int = STEPS, **changes: Any) -> fastgan.TrainConfig:
    options = {"batch_size": 8, "seed": 3, "engine": "eager", **CONFIGS[name], **changes}
    return fastgan.TrainConfig(steps=steps, **options)


def gan_of(name: str, seed: int = 1) -> fastgan.GAN:
    torch.manual_seed(seed)
    config = config_of(name)
    classes = 3 if name == "conditional" else 0
    discriminator: torch.nn.Module = nn.MLP(
        [(4 + classes) * config.pack, 8, 1], activation="leaky_relu", dropout=0.3 if name == "dropout" else 0.0
    )
    if name == "batch-norm":
        discriminator = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
    generator = nn.MLP([3 + classes, 8, 4], activation="tanh")
    return fastgan.GAN(generator, discriminator, latent_dim=3, classes=classes).double()


def data_of(name: str) -> Any:
    return LABELLED if name == "conditional" else DATA


def tensors_of(gan: fastgan.GAN) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in gan.state_dict().items()}


RANK = """
import logging, os, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
import fastgan
import test_ranks as t
torch.set_num_threads(1)
rank, folder = int(os.environ["RANK"]), Path(sys.argv[2])
found = {}
for name in t.CONFIGS:
    gan = t.gan_of(name, seed=1 + rank)      # rank 0's first weights are those of all
    result = fastgan.train(gan, t.data_of(name), t.config_of(name))
    found[name] = t.tensors_of(gan), result.history, result.engine_reason

class Seen(fastgan.Callback):
    every = 2
    steps = []
    def on_chunk(self, run, rows):
        self.steps.append(run.step)
        run.stop = run.step == 4

gan = t.gan_of("wgan-gp")
config = t.config_of("wgan-gp", 4, checkpoint_every=2)
found["stopped"] = fastgan.train(gan, t.DATA, t.config_of("wgan-gp", 100), callbacks=[Seen()]).step, Seen.steps
fastgan.train(gan := t.gan_of("dropout"), t.DATA, t.config_of("dropout", 4), run_dir=folder / "run", progress=True)
again = t.gan_of("dropout", seed=9)
result = fastgan.train(again, t.DATA, t.config_of("dropout"), run_dir=folder / "run", resume=True)
found["resumed"] = t.tensors_of(again), len(result.history["step"])
stream = torch.utils.data.DataLoader(t.DATA[30 * rank : 30 * rank + 30].float(), batch_size=4)
gan = fastgan.GAN(fastgan.nn.MLP([3, 4], activation="tanh"), fastgan.nn.MLP([4, 1], activation="tanh"), latent_dim=3)
fastgan.train(gan, stream, t.config_of("wgan-gp", 3))
found["stream"] = t.tensors_of(gan)
said = []
for refused in (
    dict(batch_size=7),
    dict(seed=rank),
    dict(unroll=2, gradient_penalty=None, max_grad_norm=None),
    dict(loss="feature_matching", gradient_penalty=None),
    dict(engine="fused"),
    dict(micro_batches=8),
):
    try:
        fastgan.train(t.gan_of("wgan-gp"), t.DATA, t.config_of("wgan-gp", **refused))
    except ValueError as error:
        said.append(str(error))
for other in (t.DATA[:, :3], t.DATA[:40]):
    try:
        fastgan.train(t.gan_of("wgan-gp"), t.DATA if rank == 0 else other, t.config_of("wgan-gp"))
    except (ValueError, RuntimeError) as error:
        said.append(f"{type(error).__name__} {error}")
found["refused"] = said
torch.save(found, folder / f"rank-{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def ranks_found(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], list[str], Path]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}  # what it sets
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, TESTS, str(folder)],
            env={**os.environ, **torchrun, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=120)[1] for process in processes]
    except subprocess.TimeoutExpired:  # one waits for another that has ended: say why that one did
        for process in processes:
            process.kill()
        pytest.fail("\n".join(process.communicate()[1] for process in processes))
    assert [process.returncode for process in processes] == [0, 0], said
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in (0, 1)], said, folder


TESTS = str(Path(__file__).parent)
EQUAL = ("wgan-gp", "simultaneous", "relativistic", "conditional", "noise")


@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_equal_one_with_the_whole_batch(ranks_found: Any, name: str) -> None:
    """In float64, so that a wrong number shows: noise, rows, penalties and gradients of the whole batch."""
    gan = gan_of(name)
    result = fastgan.train(gan, data_of(name), config_of(name))
    for tensors, history, reason in (found[name] for found in ranks_found[0]):
        assert reason == "config.engine is 'eager'"
        for key, value in gan.state_dict().items():
            assert (tensors[key] - value).abs().max() < 1e-9, key
        for key, column in result.history.items():
            assert abs(history[key] - column).max() < 1e-9, key
    start = gan_of(name).state_dict()
    assert (
        max(float((start[key] - value).abs().max()) for key, value in gan.state_dict().items() if key in start) > 1e-3
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_both_processes_hold_the_same_model(ranks_found: Any, name: str) -> None:
    """Bit for bit, also with batch normalisation, whose statistics are each rank's own, and with dropout."""
    (first, *_), (second, *_) = (found[name] for found in ranks_found[0])
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_dropout_masks_are_other_ones_in_each_process(ranks_found: Any) -> None:
    gan = gan_of("dropout")
    fastgan.train(gan, DATA, config_of("dropout"))
    tensors, *_ = ranks_found[0][0]["dropout"]
    assert not torch.allclose(tensors["discriminator.0.weight"], gan.discriminator[0].weight)  # one batch, one mask


def test_a_callback_of_the_first_stops_both(ranks_found: Any) -> None:
    (step, seen), (other, unseen) = (found["stopped"] for found in ranks_found[0])
    assert step == other == 4 == seen[-1] and 2 in seen and unseen == []


def test_the_first_writes_and_a_resumed_run_has_the_same_bits(ranks_found: Any) -> None:
    both, said, folder = ranks_found
    for found in both:
        tensors, rows = found["resumed"]
        assert rows == STEPS
        assert all(torch.equal(value, found["dropout"][0][key]) for key, value in tensors.items())
    assert checkpoint.load(folder / "run").step == STEPS
    assert len((folder / "run" / "history.csv").read_text().splitlines()) == 1 + STEPS
    assert "4/4" in said[0] and "4/4" not in said[1]  # the lines of progress


def test_a_stream_is_of_parts(ranks_found: Any) -> None:
    first, second = (found["stream"] for found in ranks_found[0])
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_what_cannot_be_shared_is_one_sentence_on_both(ranks_found: Any) -> None:
    for rank, found in enumerate(ranks_found[0]):
        size, seed, unroll, matching, engine, parts, data, fewer = found["refused"]
        assert size == "train: config.batch_size must be a multiple of the 2 processes, got 7"
        assert "config.seed must be the same in all processes, which train one GAN, got" in seed
        assert unroll == "train: config.unroll must be 0 with 2 processes, got 2"
        assert matching.startswith("train: config.loss must not be 'feature_matching' with 2 processes: it is of")
        assert engine.endswith("got 'fused': 2 processes share each batch")
        assert parts == "train: config.micro_batches must divide the 4 rows of each process, got 8"
        assert data.startswith("ValueError train: " if rank else "RuntimeError train: rank 1 broke down: train: "), data
        counts = "40 rows and 60 of rank 0" if rank else "60 rows and 40 of rank 1"
        assert fewer == f"ValueError train: data must be the same in all processes, got {counts}"


def test_alone_nothing_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, x = Ranks(), torch.ones(3)
    alone.mean_([x])
    alone.copy_from_first_([x])
    assert alone.first(7) == 7 and alone.any(True) and not alone.any(False) and torch.equal(x, torch.ones(3))
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [local_device(name) for name in ("cuda", "cuda:1", "cpu", None)] == ["cuda:3", "cuda:1", "cpu", None]
