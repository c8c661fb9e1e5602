"""A pair of networks in one safetensors file: tensors named "gan....", and in its metadata what describes the networks.

The tensor file of a checkpoint is such a file too, with the optimisers' state beside the networks'.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fastgan._errors import Invalid
from fastgan.nn import description

invalid = Invalid("GAN.load")

FORMAT = 1
PREFIX = "gan."
NETWORKS = ("generator", "discriminator")
_KEY = "fastgan"  # of the metadata
_CHECKPOINT = re.compile(r"step-\d{12}-([0-9a-f]{16})\.safetensors")


def to_bytes(tensors: Mapping[str, Tensor], described: dict[str, Any]) -> bytes:
    """The file's contents. Tied weights share memory, which safetensors refuses: every name gets its own copy.

    Raises:
        ValueError: a value that is not a tensor.
    """
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"checkpoint: {name} must be a tensor, got {type(value).__name__}")
    copies = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    return safetensors.torch.save(copies, {_KEY: json.dumps(described)} if described else None)


def describe(gan: Any) -> dict[str, Any]:
    """A `GAN` without its tensors, as plain values for JSON."""
    arguments = {name: getattr(gan, name) for name in ("latent_dim", "prior", "data_shape", "classes")}
    frozen = [name for name, parameter in gan.named_parameters() if not parameter.requires_grad]
    networks = {name: description.describe(getattr(gan, name)) for name in NETWORKS}
    return {"format": FORMAT, "gan": arguments, "frozen": frozen, **networks}


def read(path: str | os.PathLike[str]) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """The tensor file, the GAN's tensors in it by their name in the state_dict, and what `describe` gave.

    Raises:
        FileNotFoundError: there is none. ValueError: it is damaged, or of another program.
    """
    path = Path(path)
    folders = (path / "checkpoint", path) if path.is_dir() else ()
    found = [file for folder in folders for file in _checkpoints(folder)] if folders else [path]
    if not found or not path.exists():
        raise invalid(FileNotFoundError, "path", f"must be a file or a run folder with a checkpoint, got {path}")
    path = max(found, key=lambda file: file.name)
    blob = path.read_bytes()
    named = _CHECKPOINT.fullmatch(path.name)
    try:
        if named is not None and not hashlib.sha256(blob).hexdigest().startswith(named[1]):
            raise ValueError("contents that do not match the sha256 in its name")
        loaded = safetensors.torch.load(blob)  # not by name, which the library wants in UTF-8
        header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
        described = json.loads(header.get("__metadata__", {}).get(_KEY, "null"))
        if not isinstance(described, dict) or described.get("format") != FORMAT:
            raise ValueError("one without fastgan's description of the networks")
    except (SafetensorError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise invalid.value(path, f"must be a file of GAN.save or a checkpoint, got {why}") from None
    tensors = {name.removeprefix(PREFIX): value for name, value in loaded.items() if name.startswith(PREFIX)}
    return path, tensors, described


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*.safetensors") if _CHECKPOINT.fullmatch(path.name)]


def network(name: str, path: Path, tensors: Mapping[str, Tensor], described: dict[str, Any]) -> torch.nn.Module:
    """The "generator" or the "discriminator" that a file describes, around its tensors.

    Raises:
        ValueError: it is of the user's own class, or the description is damaged.
    """
    own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    try:
        return description.load(described.get(name, {}), own)
    except description.NotDescribed as why:
        raise invalid.value(name, f"must be given, as {path} holds its weights alone: {why}") from None
    except ValueError as error:
        raise invalid.value(path, f"must describe the {name}: {error}") from None


def load_state(gan: Any, tensors: Mapping[str, Tensor]) -> None:
    """Equivalent to `gan.load_state_dict(tensors)`, which looks through all names for each module: hours, where deep.

    The tensors are copied by name where the names and shapes are those of the networks and torch would do no more.

    Raises:
        RuntimeError: names or shapes that are not those of the networks.
    """
    if any(name.startswith("ema.") for name in tensors) and hasattr(gan, "keep_ema"):
        gan.keep_ema()
    own = gan.state_dict() if all(map(_loads_as_torch_does, gan.modules())) else {}
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in tensors.items()}:
        gan.load_state_dict(tensors)
        return
    for name, value in own.items():
        value.copy_(tensors[name])


def _loads_as_torch_does(module: torch.nn.Module) -> bool:
    """Whether the module neither reads nor writes its tensors itself, nor keeps others' code that would see them."""
    hooks = (
        module._load_state_dict_pre_hooks, module._load_state_dict_post_hooks,
        module._state_dict_pre_hooks, module._state_dict_hooks,
    )  # fmt: skip
    return not any(hooks) and all(
        getattr(type(module), name).__module__.partition(".")[0] in ("torch", "fastgan")
        for name in ("_load_from_state_dict", "load_state_dict", "_save_to_state_dict", "state_dict", "get_extra_state")
    )
