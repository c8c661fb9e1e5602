"""Checkpoints: a safetensors file of all tensors and a JSON file with its checksum; pickle is never read.

A folder holds pairs

    step-000000001000-<first 16 digits of the tensors' sha256>.safetensors
    step-000000001000.json     names the tensor file, its size and sha256; its own last field is the sha256 of
    the rest

The tensor file is complete on the disk before the JSON file that names it appears under its name, each by
write, fsync, rename, fsync of the folder. So whenever a process is killed, the newest JSON file names a
complete pair.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from fastgan._files import sweep, write_atomically
from fastgan._run_folder import checkpoints
from fastgan._torch_settings import without_dynamo
from fastgan.models import GAN
from fastgan.nn import saved
from fastgan.training import plain

FORMAT = 1
KEEP = 2
_JSON_LIMIT = 1 << 24


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, and why, in one line."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified, as `load_checkpoint` gives it.

    Args:
        path: of the JSON file.
        step: iterations done.
        meta: what the run stored beside the tensors (config, data, random stream, versions).
        tensors: by name: "gan.<name in the state_dict>", "<network>_optimizer.<parameter number>.<state
            name>".
        groups: param_groups of both optimisers, as in `torch.optim`'s state_dict.
        others: of each network, the values in its optimiser's state that are not tensors, and its scheduler's
            state_dict, as `plain.encode` writes them.
    """

    path: Path
    step: int
    meta: dict[str, Any]
    tensors: dict[str, Tensor]
    groups: dict[str, list[dict[str, Any]]]
    others: dict[str, dict[str, Any]] = field(default_factory=dict)

    def gan_state(self) -> dict[str, Tensor]:
        """The `state_dict` of the GAN: names "generator...." and "discriminator....", buffers included."""
        return _below(self.tensors, "gan.")

    def optimizer_state(self, network: str) -> dict[str, Any]:
        """The `state_dict` of the optimiser of "generator" or "discriminator", in `torch.optim`'s form."""
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in _below(self.tensors, f"{network}_optimizer.").items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = tensor
        for number, entry in self.others.get(network, {}).get("state", {}).items():
            state.setdefault(int(number), {}).update(plain.decode(entry))
        return {"state": state, "param_groups": self.groups[network]}

    def restore(
        self,
        gan: torch.nn.Module,
        optimizers: Mapping[str, torch.optim.Optimizer] | None = None,
        schedulers: Mapping[str, LRScheduler] | None = None,
    ) -> None:
        """Copy all into the networks, and into optimisers and schedulers where given; nothing is changed on an error.

        A GAN without a moving average gets one where the checkpoint has one. An optimiser that has no state yet, as
        those of `torch.optim` before their first step, takes state and numbers over by `load_state_dict`.

        Raises:
            CheckpointError: names, shapes or types differ from the networks', or there is no state of a scheduler.
        """
        made = isinstance(gan, GAN) and gan.ema is None and bool(_below(self.tensors, "gan.ema."))
        if isinstance(gan, GAN) and made:
            gan.keep_ema()
        try:
            self._restore(gan, optimizers or {}, schedulers or {})
        except CheckpointError:
            if isinstance(gan, GAN) and made:
                gan.ema = None
            raise

    def _restore(
        self,
        gan: torch.nn.Module,
        optimizers: Mapping[str, torch.optim.Optimizer],
        schedulers: Mapping[str, LRScheduler],
    ) -> None:
        _compare(self.path, gan.state_dict(), self.gan_state())
        fresh = {network for network, optimizer in optimizers.items() if _without_state(optimizer)}
        for network, optimizer in optimizers.items():
            found = _below(self.tensors, f"{network}_optimizer.")
            if not found and network not in fresh:  # before the first update, by an engine that makes state at that one
                continue
            expected = _flat_state(optimizer) | _taken_as_found(optimizer, found)
            _compare(self.path, _named(network, expected), _named(network, found))
        for network in schedulers:
            if "scheduler" not in self.others.get(network, {}):
                raise CheckpointError(f"checkpoint {self.path}: {network} scheduler is missing")
        with torch.no_grad():
            for name, tensor in gan.state_dict().items():
                tensor.copy_(self.tensors[f"gan.{name}"])
            for network, optimizer in optimizers.items():
                if network in fresh:
                    self._load(network, optimizer)
                for name, tensor in _flat_state(optimizer).items():
                    stored = self.tensors.get(f"{network}_optimizer.{name}")
                    tensor.zero_() if stored is None else tensor.copy_(stored)
                if network in schedulers and network not in fresh:
                    _take_numbers(optimizer, self.groups[network])
            for network, scheduler in schedulers.items():
                scheduler.load_state_dict(plain.decode(self.others[network]["scheduler"]))

    def _load(self, network: str, optimizer: torch.optim.Optimizer) -> None:
        """Load by `load_state_dict`, which chooses the device of the state, and keep the types, which it changes."""
        before = [dict(group) for group in optimizer.param_groups]
        stored = self.optimizer_state(network)
        with without_dynamo():
            optimizer.load_state_dict(stored)
        for group, earlier in zip(optimizer.param_groups, before, strict=True):
            for name, value in earlier.items():
                group[name] = tuple(group[name]) if isinstance(value, tuple) else group.get(name, value)
        for number, parameter in enumerate(_parameters(optimizer)):
            for key, value in stored["state"].get(number, {}).items():
                here = optimizer.state[parameter][key]
                if isinstance(value, Tensor) and here.dtype != value.dtype:
                    optimizer.state[parameter][key] = value.to(here.device)


def _take_numbers(optimizer: torch.optim.Optimizer, stored: list[dict[str, Any]]) -> None:
    """The rate and what else a schedule changes; flags of an implementation (fused, foreach) stay as they are here."""

    def is_number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    for group, earlier in zip(optimizer.param_groups, stored, strict=True):
        for name, value in earlier.items():
            if name == "params":
                continue
            if is_number(value):
                group[name] = value
            elif isinstance(value, list | tuple) and all(map(is_number, value)):
                group[name] = tuple(value)


def save(
    folder: str | os.PathLike[str],
    gan: torch.nn.Module,
    optimizers: Mapping[str, torch.optim.Optimizer],
    *,
    step: int,
    meta: Mapping[str, Any] | None = None,
    schedulers: Mapping[str, LRScheduler] | None = None,
    keep: int = KEEP,
) -> Path:
    """Write a checkpoint; afterwards the folder holds the last ones.

    Args:
        folder: made if missing.
        gan: whose `state_dict` is stored.
        optimizers: "generator" and "discriminator" -> optimiser.
        step: iterations done.
        meta: JSON values to store beside the tensors.
        schedulers: "generator" and "discriminator" -> scheduler, if there is one.
        keep: how many checkpoints remain.

    Returns:
        Path of the JSON file.

    Raises:
        OSError: the disk is full or the folder not writable; the previous checkpoint is intact.
        ValueError: the state_dict has a value that is not a tensor.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    described = saved.describe(gan) if isinstance(gan, GAN) else {}
    blob = saved.to_bytes(_collect(gan, optimizers), described)
    digest = hashlib.sha256(blob).hexdigest()
    name = f"step-{step:012d}"
    body: dict[str, Any] = {
        "format": FORMAT,
        "step": step,
        "tensor_file": f"{name}-{digest[:16]}.safetensors",
        "tensor_bytes": len(blob),
        "tensor_sha256": digest,
        "groups": {network: _groups(optimizer) for network, optimizer in optimizers.items()},
        "meta": dict(meta or {}),
        "versions": _versions(),
    }
    if kept := others(optimizers, schedulers or {}):
        body["others"] = kept
    write_atomically(folder / body["tensor_file"], [blob])
    write_atomically(folder / f"{name}.json", [_seal(body)])
    _prune(folder, keep)
    return folder / f"{name}.json"


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read and verify a checkpoint.

    Args:
        path: a run folder, its checkpoint folder (the newest one is read), or one JSON file.

    Returns:
        Checkpoint, whose `restore` gives a GAN its weights.

    Raises:
        CheckpointError: there is none, or it is damaged, cut short or of another format; one line says which
            file and why.
    """
    path = newest(path)
    body = _open_seal(path)
    file = path.parent / body["tensor_file"]
    try:
        if file.stat().st_size != body["tensor_bytes"]:
            raise CheckpointError(
                f"checkpoint {file}: must have {body['tensor_bytes']} bytes, got {file.stat().st_size}"
            )
        blob = file.read_bytes()
        if hashlib.sha256(blob).hexdigest() != body["tensor_sha256"]:
            raise CheckpointError(f"checkpoint {file}: its contents do not match the sha256 in {path.name}")
        loaded = safetensors.torch.load(blob)  # not by name, which the library wants in UTF-8
        tensors = {_current(name): value for name, value in loaded.items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {file}: cannot be read ({_one_line(error)})") from None
    return Checkpoint(path, body["step"], body["meta"], tensors, body["groups"], body.get("others", {}))


def load_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """`load(path).meta`, without reading the tensors."""
    meta: dict[str, Any] = _open_seal(newest(path))["meta"]
    return meta


def newest(path: str | os.PathLike[str]) -> Path:
    """The newest checkpoint's JSON file in a run folder or checkpoint folder; a JSON file is returned as it is.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path)
    if not path.is_dir() and path.exists():
        return path
    for folder in (path / "checkpoint", path):
        if found := checkpoints(folder):
            return found[-1]
    raise CheckpointError(f"checkpoint: there is none in {path}")


def clean(folder: Path, keep: int = KEEP) -> None:
    """Remove what a killed process left: temporary files, old pairs, tensor files that no JSON file names."""
    _prune(folder, keep)
    sweep(folder)
    named = b"".join(path.read_bytes() for path in checkpoints(folder))
    for tensors in folder.glob("step-*.safetensors"):
        if tensors.name.encode() not in named:
            tensors.unlink(missing_ok=True)


def keep_only(path: Path) -> None:
    """Remove all checkpoints of a folder but this one, also newer ones, as those of an earlier run."""
    for other in checkpoints(path.parent):
        if other != path:  # the JSON file goes first, as in `_prune`
            other.unlink(missing_ok=True)
    clean(path.parent)


def _collect(gan: torch.nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    tensors = {f"{saved.PREFIX}{name}": value for name, value in gan.state_dict().items()}
    for network, optimizer in optimizers.items():
        tensors |= {f"{network}_optimizer.{name}": value for name, value in _flat_state(optimizer).items()}
    return tensors


def _flat_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of an optimiser's state (no copies), named "<parameter number>.<state name>"."""
    return {
        f"{number}.{key}": value
        for number, parameter in enumerate(_parameters(optimizer))
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _without_state(optimizer: torch.optim.Optimizer) -> set[str]:
    """The numbers of the parameters whose state is made at the first update: that of several optimisers, of some."""
    return {str(number) for number, p in enumerate(_parameters(optimizer)) if p not in optimizer.state}


def _taken_as_found(optimizer: torch.optim.Optimizer, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a checkpoint's state that belongs to parameters without state here."""
    without = _without_state(optimizer)
    return {name: value for name, value in found.items() if name.partition(".")[0] in without}


def _named(network: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{network} optimizer {name}": value for name, value in state.items()}


def others(
    optimizers: Mapping[str, torch.optim.Optimizer], schedulers: Mapping[str, LRScheduler]
) -> dict[str, dict[str, Any]]:
    """What a checkpoint says of optimisers and schedulers beside tensors and param_groups.

    Raises:
        ValueError: something that JSON cannot hold, named.
    """
    kept: dict[str, dict[str, Any]] = {}
    for network, optimizer in optimizers.items():
        try:
            part = "param_groups"
            json.dumps(_groups(optimizer), allow_nan=False)
            part = "state"
            state = {
                str(number): entry
                for number, parameter in enumerate(_parameters(optimizer))
                if (entry := _no_tensors(optimizer.state.get(parameter, {})))
            }
            kept |= {network: {"state": state}} if state else {}
            if network in schedulers:
                part = "scheduler"
                encoded = plain.encode(schedulers[network].state_dict())
                kept.setdefault(network, {})["scheduler"] = encoded
        except (TypeError, ValueError) as error:
            raise ValueError(f"checkpoint: the {network}'s {part} must be plain numbers, got {error}") from None
    return kept


def _no_tensors(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: plain.encode(value) for key, value in entry.items() if not isinstance(value, Tensor)}


def _groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    with without_dynamo():
        return optimizer.state_dict()["param_groups"]


def _compare(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name in sorted({*expected, *found}):
        if name not in found:
            raise CheckpointError(f"checkpoint {path}: {name} is missing")
        if name not in expected:
            raise CheckpointError(f"checkpoint {path}: {name} does not belong to this model")
        for what in ("shape", "dtype"):
            here, there = getattr(expected[name], what), getattr(found[name], what)
            if here != there:
                here, there = (tuple(here), tuple(there)) if what == "shape" else (here, there)
                raise CheckpointError(f"checkpoint {path}: {name} must have {what} {here}, got {there}")


def _current(name: str) -> str:
    """A tensor's name today: version 0.1 called the moving average of G `averaged`."""
    return name.replace("gan.averaged.", "gan.ema.", 1) if name.startswith("gan.averaged.") else name


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _seal(body: Mapping[str, Any]) -> bytes:
    """The JSON text, with the sha256 of everything else as its last field."""
    text = json.dumps(body, indent=1, ensure_ascii=True, allow_nan=False)
    digest = hashlib.sha256(text.encode("ascii")).hexdigest()
    return (json.dumps({**body, "sha256": digest}, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def _open_seal(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _JSON_LIMIT:
            raise CheckpointError(f"checkpoint {path}: must be JSON of at most {_JSON_LIMIT} bytes, got more")
        raw = path.read_bytes()
        body = json.loads(raw.decode("ascii"))
        digest = body.pop("sha256")
        # Written again, the text must be the same to the byte: so a flipped bit cannot hide anywhere, blanks
        # included.
        sound = isinstance(digest, str) and _seal(body) == raw
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read ({_one_line(error)})") from None
    except (ValueError, RecursionError, KeyError, AttributeError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"checkpoint {path}: is not the JSON of a checkpoint ({_one_line(error)})") from None
    if not sound:
        raise CheckpointError(f"checkpoint {path}: its contents do not match its sha256")
    _check_body(path, body)
    return body


def _check_body(path: Path, body: dict[str, Any]) -> None:
    if body.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {path}: format must be {FORMAT}, got {str(body.get('format'))[:40]!r}")
    kinds = {
        "step": int,
        "tensor_file": str,
        "tensor_bytes": int,
        "tensor_sha256": str,
        "groups": dict,
        "meta": dict,
    }
    for name, kind in kinds.items():
        if not isinstance(body.get(name), kind):
            raise CheckpointError(f"checkpoint {path}: {name} must be of type {kind.__name__}")
    if Path(body["tensor_file"]).name != body["tensor_file"]:
        raise CheckpointError(f"checkpoint {path}: tensor_file must name a file beside it")


def _prune(folder: Path, keep: int) -> None:
    """Keep the last checkpoints. The JSON file goes first: no JSON file may name tensors that are gone."""
    for old in checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)
        for tensors in folder.glob(f"{old.stem}-*.safetensors"):
            tensors.unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    from fastgan import __version__

    return {"fastgan": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
