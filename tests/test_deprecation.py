"""Old names work for one release: each gives what the new one gives, and warns with the new name."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import fastgan
from fastgan import _deprecation
from fastgan.training import checkpoint


def make() -> fastgan.GAN:
    torch.manual_seed(0)
    gan = fastgan.models.mlp_gan(2, latent_dim=3, hidden=(4,))
    gan.keep_ema()
    with torch.no_grad():
        next(gan.generator.parameters()).add_(1.0)
    gan.update_ema(0.5)
    return gan


GAN = make()
OLD: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "function": (lambda: fastgan.train_inferer, lambda: fastgan.train_encoder, r"fastgan\.train_encoder"),
    "of training": (lambda: fastgan.training.train_inferer, lambda: fastgan.train_encoder, "training.train_encoder"),
    "of random": (lambda: fastgan.random.next_key, lambda: fastgan.random.next_dropout_seed, "next_dropout_seed"),
    "attribute": (lambda: GAN.averaged, lambda: GAN.ema, r"GAN\.ema"),
    "method": (lambda: GAN.keep_average(), lambda: GAN.ema, r"GAN\.keep_ema"),
    "buffers": (lambda: GAN.buffers_of_average(), GAN.ema_buffers, r"GAN\.ema_buffers"),
    "key": (
        lambda: fastgan.backend_info()["serves"],
        lambda: fastgan.backend_info()["backends"],
        r"backend_info\(\)\['backends'\]",
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_old_names_give_the_new_thing_and_warn(name: str) -> None:
    old, new, message = OLD[name]
    with pytest.warns(DeprecationWarning, match=f"deprecated.*use .*{message}"):
        found = old()
    assert found is new() or found == new()


def test_an_old_keyword_is_the_new_one() -> None:
    with pytest.warns(DeprecationWarning, match=r"sample\(averaged=\) is deprecated.*use sample\(ema=\)"):
        plain = GAN.sample(3, averaged=False)  # type: ignore[call-arg]
    assert torch.equal(plain, GAN.sample(3, ema=False)) and not torch.equal(plain, GAN.sample(3))
    with pytest.raises(TypeError, match="sample: ema must be given once, got averaged as well"):
        GAN.sample(3, averaged=False, ema=False)  # type: ignore[call-arg]
    encoder = torch.nn.Linear(2, 3)
    with pytest.warns(DeprecationWarning, match=r"train_encoder\(inferer=\)"):
        fastgan.train_encoder(GAN, inferer=encoder, steps=1)  # type: ignore[call-arg]


def test_an_old_attribute_can_be_set() -> None:
    gan = make()
    with pytest.warns(DeprecationWarning, match=r"GAN\.averaged is deprecated.*use GAN\.ema"):
        gan.averaged = None
    assert gan.ema is None and "averaged" not in dict(gan.named_children())


def test_update_average_is_update_ema() -> None:
    gan, other = make(), make()
    with torch.no_grad():
        for network in (gan, other):
            next(network.generator.parameters()).add_(1.0)
    with pytest.warns(DeprecationWarning, match=r"GAN\.update_ema"):
        gan.update_average(0.25)
    other.update_ema(0.25)
    assert all(torch.equal(a, b) for a, b in zip(gan.ema.parameters(), other.ema.parameters(), strict=True))


def test_what_is_no_name_at_all_stays_an_error() -> None:
    with pytest.raises(AttributeError, match="module 'fastgan' has no attribute 'train_infer'"):
        _ = fastgan.train_infer  # type: ignore[attr-defined]
    with pytest.raises(KeyError, match="servers"):
        fastgan.backend_info()["servers"]


def test_the_warning_names_the_line_of_the_caller() -> None:
    with pytest.warns(DeprecationWarning) as caught:
        _ = GAN.averaged
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning) as caught:
        fastgan.train_encoder(GAN, inferer=torch.nn.Linear(2, 3), steps=1)  # type: ignore[call-arg]
    assert caught[0].filename == __file__


# ---------------------------------------------------------------- what version 0.1 wrote


def old(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state_dict as version 0.1 named it."""
    return {name.replace("ema.", "averaged.", 1): value for name, value in state.items()}


def test_an_old_state_dict_loads() -> None:
    gan, other = make(), make()
    state = {name: value + 1 for name, value in gan.state_dict().items()}
    assert any(name.startswith("averaged.") for name in old(state))
    other.load_state_dict(old(state))
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())


def test_an_old_pickle_loads() -> None:
    gan = make()
    state = copy.copy(gan.__dict__)
    state["_modules"] = {name.replace("ema", "averaged"): module for name, module in state["_modules"].items()}
    restored = fastgan.GAN.__new__(fastgan.GAN)
    restored.__setstate__(pickle.loads(pickle.dumps(state)))
    assert torch.equal(restored.sample(3), gan.sample(3)) and isinstance(restored.ema, torch.nn.Module)


def test_an_old_checkpoint_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gan = make()
    save = safetensors.torch.save
    with monkeypatch.context() as patch:
        old = lambda tensors: {n.replace("gan.ema.", "gan.averaged."): t for n, t in tensors.items()}  # noqa: E731
        patch.setattr(safetensors.torch, "save", lambda tensors, metadata=None: save(old(tensors), metadata))
        path = checkpoint.save(tmp_path, gan, {}, step=1)
    assert b"gan.averaged." in next(tmp_path.glob("*.safetensors")).read_bytes()
    other = make()
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    checkpoint.load(path).restore(other)
    assert torch.equal(other.sample(3), gan.sample(3))
    assert torch.equal(fastgan.GAN.load(tmp_path).sample(3), gan.sample(3))


def test_a_warning_says_old_and_new_and_until_when() -> None:
    message = f"a is deprecated and will be removed in {re.escape(_deprecation.REMOVED_IN)}; use b"
    with pytest.warns(DeprecationWarning, match=f"^{message}$"):
        _deprecation.warn("a", "b", stacklevel=2)


def test_old_names_are_gone_in_the_version_that_removes_them() -> None:
    """Preparing that version fails here until they are."""
    version, last = (tuple(map(int, text.split("."))) for text in (fastgan.__version__, _deprecation.REMOVED_IN))
    assert version < last
    if (changes := Path(__file__).parents[1] / "CHANGELOG.md").is_file():
        assert f"\nRenamed (the old name works until {_deprecation.REMOVED_IN}, with" in changes.read_text()


def test_plots_are_loaded_at_their_first_use() -> None:
    code = "import sys, fastgan; print('fastgan.plots' in sys.modules, fastgan.plots.loss_curves.__name__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "loss_curves"]
    with pytest.raises(AttributeError, match="module 'fastgan' has no attribute 'nothing'"):
        fastgan.nothing  # noqa: B018
