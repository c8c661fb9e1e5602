"""The metadata of a run in its checkpoint, and the rules for resuming from it."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fastgan._errors import Invalid
from fastgan._run_folder import checkpoints
from fastgan.models import GAN
from fastgan.training import checkpoint
from fastgan.training.checkpoint import Checkpoint, CheckpointError
from fastgan.training.config import DESCRIPTIONS, TrainConfig
from fastgan.training.plain import leaves
from fastgan.training.rows import Minibatches

invalid = Invalid("train")

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
    """The checkpoint to continue from; refuses to overwrite a run unless `resume` is given."""
    if resume is True and folder is None:
        raise invalid.value("run_dir", "must be given where resume is True, got None")
    source = None
    if resume is not None and resume is not False:
        source = checkpoint.load(folder if resume is True else resume)  # type: ignore[arg-type]
    if folder is not None:
        check_held(folder, source)
    return source


def check_held(folder: Path, source: Checkpoint | None) -> None:
    """Refuse a folder with checkpoints that this run does not continue from."""
    held = checkpoints(folder / "checkpoint")
    if held and source is None:
        raise invalid.value(
            "run_dir", f"must be new or be resumed (resume=True), got {folder} with checkpoint {held[-1].name}"
        )
    if held and source is not None and held[-1].resolve() != source.path.resolve():
        raise invalid.value("run_dir", f"must not hold other or newer checkpoints than resume, got {held[-1]}")


def threads_of(source: Checkpoint | None) -> int | None:
    """torch's threads in the eager engine of the run that is resumed, where that is known."""
    threads = None if source is None else source.meta.get("threads")
    return threads if isinstance(threads, int) and threads >= 1 else None


def check_change(change: Collection[str], source: Checkpoint | None, config: TrainConfig) -> None:
    """What may be changed on a resume, and that there is one.

    Raises:
        ValueError: something else, or rates that a scheduler sets.
    """
    if isinstance(change, str) or any(name != "lr" for name in change):
        raise invalid.value("change", f"must be () or ('lr',), got {change!r}")
    if change and source is None:
        raise invalid.value("change", f"must be empty where no run is resumed, got {change!r}")
    for network in ("generator", "discriminator"):
        field, scheduler = config.scheduler_of(network)
        if change and scheduler is not None:
            raise invalid.value("change", f"must be empty where config.{field} sets the rates, got {change!r}")


def _described(config: dict[str, Any], change: Collection[str]) -> dict[str, Any]:
    """A config as it is compared: with the defaults of optimisers; without rates, where those may change."""
    whole = {name: _whole(value) for name, value in config.items()}
    if "lr" not in change:
        return whole
    common = whole.pop("optimizer", None)
    for name in ("generator_optimizer", "discriminator_optimizer"):
        rule = common if whole.get(name) is None else whole[name]
        whole[name] = {key: value for key, value in (rule or {}).items() if key != "lr"}
    return whole


def _whole(value: Any) -> Any:
    """A description of an optimiser or schedule with the fields that it had not when it was written."""
    kind = DESCRIPTIONS.get(str(value.get("type"))) if isinstance(value, dict) else None
    if kind is None:
        return value
    defaults = {f.name: f.default for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in {**defaults, **value}.items()}


def check_same_run(source: Checkpoint, meta: dict[str, Any], change: Collection[str] = ()) -> None:
    """A resumed run must be the same run: every field that affects the results, except those that may change."""
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
        if part == "config":
            stored, current = _described(stored, change), _described(current, change)
        for name in sorted({*stored, *current} - (_FREE_FIELDS if part == "config" else set())):
            if _functions(stored.get(name), current.get(name)) and (name != "loss" or stored[name] == current[name]):
                unknown.append(f"{part}.{name}")
            elif stored.get(name) != current.get(name):
                raise invalid.value(
                    f"{part}.{name}", f"must be {stored.get(name)!r} as in {source.path}, got {current.get(name)!r}"
                )
    _check_built(source, meta, change)
    if unknown:
        log.warning("train: resume takes %s for what it was: a function has no more than a name", " and ".join(unknown))
    if config["steps"] < source.step:
        raise invalid.value(
            "config.steps", f"must be at least the {source.step} of {source.path}, got {config['steps']}"
        )


def _functions(stored: Any, current: Any) -> bool:
    """Whether both are functions, which a config describes by name alone: `_check_built` compares what they make."""
    return all(isinstance(value, dict) and "function" in value for value in (stored, current))


def _check_built(source: Checkpoint, meta: dict[str, Any], change: Collection[str]) -> None:
    """Optimisers and schedulers that functions make must be what they were, before the first update, in numbers.

    Names that one side alone has are left out: they differ from release to release of torch.
    """
    stored, current = source.meta.get("built", {}), meta.get("built", {})
    for network in sorted({*stored, *current}):
        before, now = dict(leaves(stored.get(network, {}))), dict(leaves(current.get(network, {})))
        for name in before:
            if "lr" in change and name.rpartition(".")[2] == "lr":
                continue
            if name in now and before[name] != now[name]:
                raise invalid.value(
                    f"the {network}'s {name}", f"must be {before[name]!r} as in {source.path}, got {now[name]!r}"
                )
