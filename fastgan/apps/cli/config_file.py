"""fastgan train --config: flags in a file, TOML or the config.json of a run."""

from __future__ import annotations

import argparse
import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from fastgan._run_folder import TABLE
from fastgan.apps.cli import checks
from fastgan.apps.cli.arguments import did_you_mean
from fastgan.apps.presets import Networks
from fastgan.training import TrainConfig

_TABLES = {"train": TrainConfig, "networks": Networks}
_OPTIMIZERS = ("optimizer", "generator_optimizer", "discriminator_optimizer")
_FIXED = ("data_dim", "classes")  # of the data, not of a choice
_FLAGS = (
    *"lr generator_lr discriminator_lr beta1 beta2 momentum weight_decay".split(),
    *"schedule schedule_steps schedule_factor width preset source rows hold_out data_seed".split(),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a file, which replace those of a preset.

    Args:
        train: fields of `TrainConfig`, as its `as_dict` writes them.
        networks: fields of `Networks`.
    """

    train: dict[str, Any] = dataclasses.field(default_factory=dict)
    networks: dict[str, Any] = dataclasses.field(default_factory=dict)

    def train_config(self, base: TrainConfig) -> TrainConfig:
        """The preset's with the file's fields; a table of an optimiser without its type changes the preset's optimiser.

        Raises:
            ValueError, TypeError: a field breaks its rule.
        """
        known = base.as_dict()
        fields = {**known, **self.train}
        for name in _OPTIMIZERS:
            if isinstance(given := fields[name], dict) and "type" not in given:
                fields[name] = {**(known[name] or known["optimizer"]), **given}
        return TrainConfig.from_dict(fields) if self.train else base

    def network_fields(self, base: Networks) -> Networks:
        """The preset's with the file's fields."""
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in self.networks.items()}
        return dataclasses.replace(base, **values)


def read(path: str, arguments: argparse.Namespace) -> Settings:
    """The settings of a file; what it says of the data becomes arguments that were not given.

    Raises:
        FileNotFoundError: there is none. ValueError: it is no TOML or JSON, or has a key that means nothing.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"--config must be an existing file, got {path!r}")
    try:
        is_toml = file.suffix.lower() == ".toml"
        body = tomllib.loads(file.read_text(encoding="utf-8")) if is_toml else checks.read_object(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--config must be TOML (.toml) or JSON, got {path}: {error}") from None
    if "n" in body:  # the name of --rows in the file of a run
        body["rows"] = body.pop("n")
    for place in (body, body.get("train")):  # the name of a kind is the flag's, a table a field of the training
        if isinstance(place, dict) and isinstance(place.get("optimizer"), str):
            kind = place.pop("optimizer")
            arguments.optimizer_kind = arguments.optimizer_kind or kind
    if not isinstance(body.get("source"), str | None):
        raise ValueError(f"--config must name its source in text, got {body['source']!r}")
    for name in _FLAGS:
        if (value := body.get(name)) is not None and getattr(arguments, name) is None:
            setattr(arguments, name, value)
    of_a_run = "format" in body
    if of_a_run:
        if (Path(path).parent / TABLE).is_file():
            raise ValueError(f"--config must be of a GAN of numbers, got {path} of a TabularGAN")
        if not isinstance(body.get("networks"), dict):
            raise ValueError(f"--config must hold networks, got {path} of a run that Python began")
        if arguments.hold_out is None and arguments.rows == body.get("rows"):
            arguments.held_rows = checks.whole({"held_out": 0} | body, "held_out", 0)
        arguments.conditional = arguments.conditional or bool(body["networks"].get("classes"))
        for name, value in checks.reading(body).items():
            if getattr(arguments, name) is None:
                setattr(arguments, name, value)
    found: dict[str, dict[str, Any]] = {name: {} for name in _TABLES}
    for name, value in body.items():
        if name in _TABLES:
            if not isinstance(value, dict):
                raise ValueError(f"--config must have a table {name}, got {value!r}")
            for field, setting in value.items():
                _put(found, (name,), field, setting, path)
        elif name not in _FLAGS and not of_a_run:
            _put(found, tuple(_TABLES), name, value, path)
    if of_a_run:
        for name in _FIXED:
            found["networks"].pop(name, None)
    return Settings(**found)


def _put(found: dict[str, dict[str, Any]], tables: tuple[str, ...], field: str, value: Any, path: str) -> None:
    """A setting in the table whose dataclass has a field of that name; as flags, it may have - for _."""
    field, known = field.replace("-", "_"), list[str]()
    for table in tables:
        names = [item.name for item in dataclasses.fields(_TABLES[table])]
        if field in names:
            found[table][field] = value
            return
        known += names
    hint = did_you_mean(field, [*known, *_FLAGS, "optimizer"])
    raise ValueError(f"--config must hold fields of the training or of the networks, got {field} in {path}{hint}")
