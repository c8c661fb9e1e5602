"""The conditional model p(x|c): labels join the input of both networks, and samples land where they are asked to."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from resuming import check_resumed
from torch import Tensor, nn

from fastgan import _backend, data, models
from fastgan.data import Dataset
from fastgan.models import GAN
from fastgan.training import Adam, TrainConfig, train
from fastgan.training.callbacks import Callback

CLASSES, SEED = 3, 7
ROWS = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(20) % CLASSES
DATA = Dataset(ROWS, labels=LABELS, dtype=torch.float64)
BASE = TrainConfig(steps=6, batch_size=5, optimizer=Adam(0.01), seed=SEED)


def small_gan(pack: int = 1) -> GAN:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2 + CLASSES, 8), nn.Tanh(), nn.Linear(8, 4))
    discriminator = nn.Sequential(nn.Linear((4 + CLASSES) * pack, 8), nn.Tanh(), nn.Linear(8, 1))
    return GAN(generator, discriminator, latent_dim=2, classes=CLASSES).double()


def test_M57_each_mode_of_the_ring_is_reached_by_its_label() -> None:
    """At least 99% of 8 x 1,000 samples are nearest to the mode of their label, and all modes are well hit."""
    ring = data.ring(20_000)
    torch.manual_seed(0)
    gan = models.mlp_gan(2, latent_dim=2, hidden=(64, 64), classes=8)
    train(gan, ring, TrainConfig(steps=600, batch_size=128, optimizer=Adam(2e-3), seed=1))
    assert ring.centres is not None
    asked = torch.arange(8).repeat_interleave(1000)
    samples = gan.sample(8000, seed=3, labels=asked)
    nearest = torch.cdist(samples, ring.centres).argmin(1)
    assert (nearest == asked).double().mean() >= 0.99
    shifted = torch.cdist(gan.sample(8000, seed=3, labels=(asked + 1) % 8), ring.centres).argmin(1)
    assert (shifted == asked).double().mean() <= 0.01  # the label decides, not the noise


def test_M57_sample_i_has_the_same_bits_however_samples_and_labels_are_requested() -> None:
    gan = small_gan()
    whole = gan.sample(11, seed=1, batch_size=4)
    assert torch.equal(whole, gan.sample(11, seed=1, batch_size=4, labels=torch.arange(11) % CLASSES))
    parts = [gan.sample(3, seed=1, batch_size=4), gan.sample(8, seed=1, batch_size=4, offset=3)]
    assert torch.equal(whole, torch.cat(parts))
    ones = gan.sample(11, seed=1, batch_size=4, labels=1)
    assert torch.equal(ones[1::3], whole[1::3]) and not torch.equal(ones[0::3], whole[0::3])
    assert gan.sample(0, offset=9).shape == (0, 4)


def test_M57_logits_depend_on_the_label() -> None:
    gan, x = small_gan(), ROWS[:2]
    own = gan.discriminator(torch.cat([x, torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])], 1)).flatten()
    assert torch.equal(gan.logits(x, torch.tensor([0, 2])), own)


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "simultaneous"},
        {"gradient_penalty": "wgan-gp", "loss": "wasserstein"},
        {"pack": 2},
        {"unroll": 2, "loss": "relativistic"},
        {"generator_steps": 2, "ema_decay": 0.9},
    ],
    ids=str,
)
def test_M57_labels_reach_d_under_every_rule(change: dict, tmp_path: Path) -> None:
    """Weights of the label's columns move in both networks, and a resumed run has the bits of a whole one."""
    config, pack = replace(BASE, **change), change.get("pack", 1)
    gan, _ = check_resumed(lambda: small_gan(pack), DATA, config, 2, tmp_path)
    start = small_gan(pack)
    # packed side by side: first the samples, then their labels
    for name, columns in (("generator", slice(2, None)), ("discriminator", slice(4 * pack, None))):
        moved = (getattr(gan, name)[0].weight - getattr(start, name)[0].weight)[:, columns]
        assert (moved.abs().amax(0) > 1e-3).all(), name


@pytest.mark.skipif(_backend.native is None, reason="without the compiled core everything is eager")
def test_M57_conditional_models_run_in_the_compiled_engine() -> None:
    result = train(small_gan(), DATA, BASE)
    assert (result.engine, result.engine_reason) == ("cpu", "it supports these networks and this config")
    assert train(small_gan(), DATA, replace(BASE, unroll=2)).engine == "eager"


@pytest.mark.skipif(_backend.native is None, reason="the compiled engine is compiled")
def test_M57_labels_that_change_while_the_compiled_engine_trains_change_nothing() -> None:
    """The core indexes by them: it has its own copy, which was checked."""

    class Spoil(Callback):
        every = 2

        def on_chunk(self, run: object, rows: object) -> None:
            labels.fill_(10**9)

    found = []
    for callbacks in ([], [Spoil()]):
        labels = LABELS.to(torch.int32)
        found.append(small_gan())
        assert train(found[-1], replace(DATA, labels=labels), BASE, callbacks=callbacks).engine == "cpu"
    torch.testing.assert_close(found[0].state_dict(), found[1].state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS, "data must have labels, one whole number a row, where gan.classes is set, got none"),
        (
            replace(DATA, labels=None),
            "data must have labels, one whole number a row, where gan.classes is set, got none",
        ),
        (replace(DATA, labels=LABELS + 1), "labels must lie in 0 to 2, got 1 to 3"),
        (replace(DATA, row_shape=(2, 2)), r"data must have flat rows, or images .* where .* got shape \(2, 2\)"),
    ],
    ids=["a tensor", "no labels", "a label too high", "images"],
)
def test_M57_bad_labels_are_named_before_anything_runs(rows: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^train: {message}"):
        train(small_gan(), rows, BASE)


class Held:
    """Data of a kind of one's own."""

    def __init__(self, labels: object) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(ROWS)

    def rows(self, index: Tensor) -> Tensor:
        return ROWS[index]


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, list, torch.int32])
def test_M57_labels_may_be_what_a_tensor_is_made_of(kind: object) -> None:
    labels = LABELS.to(kind) if isinstance(kind, torch.dtype) else LABELS.tolist()
    labels = np.array(labels, kind) if isinstance(kind, type) and kind is not list else labels
    gan, other = small_gan(), small_gan()
    train(gan, DATA, replace(BASE, engine="eager"))
    train(other, Held(labels), BASE)
    torch.testing.assert_close(other.state_dict(), gan.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b"] * 10, "data.labels must be a Tensor, an array or a list of integers, got list"),
        (np.array(["a", "b"] * 10), "data.labels must be a Tensor, an array or a list of integers, got ndarray"),
        (len, "data.labels must be a Tensor, an array or a list of integers, got builtin_function_or_method"),
        ([0.5] * 20, "labels must be integers, got torch.float32"),
    ],
    ids=["words", "an array of words", "a function", "fractions"],
)
def test_M57_labels_of_another_kind_are_refused_where_they_are_needed(labels: object, message: str) -> None:
    with pytest.raises(TypeError, match=f"^train: {message}"):
        train(small_gan(), Held(labels), BASE)
    plain = GAN(nn.Linear(2, 4), nn.Linear(4, 1), latent_dim=2).double()
    assert train(plain, Held(labels), BASE).step == BASE.steps


def test_M57_a_single_label_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    train(small_gan(), replace(DATA, labels=torch.ones_like(LABELS)), BASE)
    assert "every label is 1; of 2 other classes the GAN learns nothing" in caplog.text
    caplog.clear()
    train(small_gan(), DATA, BASE)
    assert "label" not in caplog.text


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (3, ValueError, "labels must lie in 0 to 2, got 3 to 3"),
        (-1, ValueError, "labels must lie in 0 to 2, got -1 to -1"),
        (torch.zeros(4, dtype=torch.int64), ValueError, r"labels must have shape \(5,\), got \(4,\)"),
        (torch.zeros(5), TypeError, "labels must be integers, got torch.float32"),
    ],
)
def test_M57_bad_labels_of_samples_are_named(labels: int | Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^sample: {message}"):
        small_gan().sample(5, labels=labels)


def test_M57_a_model_without_classes_takes_no_labels() -> None:
    gan = models.mlp_gan(2)
    with pytest.raises(ValueError, match="^sample: labels must be None for a model without classes, got 1"):
        gan.sample(1, labels=1)
    with pytest.raises(ValueError, match="^logits: labels must be None where the model has 0 classes, got labels"):
        gan.logits(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="^logits: labels must be given where the model has 3 classes, got None"):
        small_gan().logits(ROWS)
    with pytest.raises(ValueError, match="^GAN: classes must be an integer of at least 0, got -1"):
        GAN(nn.Linear(1, 1), nn.Linear(1, 1), latent_dim=1, classes=-1)
