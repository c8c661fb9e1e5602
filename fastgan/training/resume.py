"""The metadata of a run in its checkpoint, and the rules for resuming from it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from fastgan.models import GAN
from fastgan.training import checkpoint
from fastgan.training.checkpoint import Checkpoint, CheckpointError
from fastgan.training.config import TrainConfig
from fastgan.training.plain import leaves
from fastgan.training.rows import Minibatches

log = logging.getLogger("fastgan")

# What may differ on a resume: it changes no number of the run beyond rounding (device, impl).
_FREE_FIELDS = {"steps", "checkpoint_every", "keep_checkpoints", "engine", "nonfinite", "device", "impl"}


def describe_run(gan: GAN, rows: Minibatches, config: TrainConfig) -> dict[str, Any]:
    """The metadata of a run in its checkpoint, which a resume compares."""
    return {
        "config": config.as_dict(),
        "gan": {"latent_dim": gan.latent_dim, "prior": gan.prior, "classes": gan.classes},
        "data": {"rows": rows.n, "shape": list(rows.shape)},
        "random": {"generator": "philox4x32-10", "seed": config.seed},
    }


def find_source(resume: bool | str | os.PathLike[str] | None, folder: Path | None) -> Checkpoint | None:
    """The checkpoint to go on from; refuses to overwrite a run unless `resume` is given."""
    if resume is True and folder is None:
        raise ValueError("train: run_dir must be given where resume is True, got None")
    source = None
    if resume is not None and resume is not False:
        source = checkpoint.load(folder if resume is True else resume)  # type: ignore[arg-type]
    if folder is not None:
        check_held(folder, source)
    return source


def check_held(folder: Path, source: Checkpoint | None) -> None:
    """Refuse a folder that holds checkpoints which this run does not go on from."""
    held = checkpoint.steps(folder / "checkpoint")
    if held and source is None:
        raise ValueError(
            f"train: run_dir must be new or be resumed (resume=True), got {folder} with checkpoint {held[-1].name}"
        )
    if held and source is not None and held[-1].resolve() != source.path.resolve():
        raise ValueError(f"train: run_dir must not hold other or newer checkpoints than resume, got {held[-1]}")


def threads_of(source: Checkpoint | None) -> int | None:
    """torch's threads in the eager engine of the run that is resumed, where that is known."""
    threads = None if source is None else source.meta.get("threads")
    return threads if isinstance(threads, int) and threads >= 1 else None


def check_same_run(source: Checkpoint, meta: dict[str, Any]) -> None:
    """A resumed run must be the same run: every field that decides a number."""
    config, unknown = meta["config"], []
    # A field added after the checkpoint was written takes its default.
    young = {
        "config": TrainConfig(steps=config["steps"], batch_size=config["batch_size"]).as_dict(),
        "gan": {"classes": 0},
    }
    for part in ("config", "gan", "data"):
        stored, current = source.meta.get(part), meta[part]
        if not isinstance(stored, dict):
            raise CheckpointError(f"checkpoint {source.path}: meta must hold {part}")
        stored = {**young.get(part, {}), **stored}
        for name in sorted({*stored, *current} - (_FREE_FIELDS if part == "config" else set())):
            if _functions(stored.get(name), current.get(name)) and (name != "loss" or stored[name] == current[name]):
                unknown.append(f"{part}.{name}")
            elif stored.get(name) != current.get(name):
                raise ValueError(
                    f"train: {part}.{name} must be {stored.get(name)!r} as in {source.path}, got {current.get(name)!r}"
                )
    _check_built(source, meta)
    if unknown:
        log.warning("train: resume takes %s for what it was: a function has no more than a name", " and ".join(unknown))
    if config["steps"] < source.step:
        raise ValueError(
            f"train: config.steps must be at least the {source.step} of {source.path}, got {config['steps']}"
        )


def _functions(stored: Any, current: Any) -> bool:
    """Whether both are functions, which a config describes by name alone: `_check_built` compares what they make."""
    return all(isinstance(value, dict) and "function" in value for value in (stored, current))


def _check_built(source: Checkpoint, meta: dict[str, Any]) -> None:
    """Optimisers and schedulers that functions make must be what they were, before the first update, in numbers.

    Names that one side alone has are left out: they differ from release to release of torch.
    """
    stored, current = source.meta.get("built", {}), meta.get("built", {})
    for network in sorted({*stored, *current}):
        before, now = dict(leaves(stored.get(network, {}))), dict(leaves(current.get(network, {})))
        for name in before:
            if name in now and before[name] != now[name]:
                raise ValueError(
                    f"train: the {network}'s {name} must be {before[name]!r} as in {source.path}, got {now[name]!r}"
                )
