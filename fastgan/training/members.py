"""Which GANs a population has: every config crossed with every grid point and every seed."""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastgan._errors import Invalid
from fastgan.training.config import TrainConfig
from fastgan.training.plain import leaves

invalid = Invalid("train_population")

Grid = Mapping[str, Iterable[Any]]


@dataclass(frozen=True)
class Member:
    """One GAN of a population before it is built.

    Args:
        number: from 0.
        point: number of its grid point: the members of a point differ in nothing but the seed.
        overrides: what sets the point apart, by dotted field.
        config: of its run, seed included.
    """

    number: int
    point: int
    overrides: dict[str, Any]
    config: TrainConfig


def members(
    config: TrainConfig | Sequence[TrainConfig], seeds: Iterable[int] | None, grid: Grid | None
) -> list[Member]:
    """All members: configs outermost, then the grid in the order of its fields, then the seeds.

    Raises:
        TypeError, ValueError: nothing to train, a field that is none, a value that breaks its field's rule, or the same
            GAN twice.
    """
    points = [point for base in _configs(config) for point in _crossed(base, grid)]
    chosen = None if seeds is None else _seeds(seeds)
    configs = [c for p in points for c in ([p] if chosen is None else [dataclasses.replace(p, seed=s) for s in chosen])]
    overrides = _overrides(configs, list(grid or ()))
    numbers: dict[TrainConfig, int] = {}  # of the points
    known: set[TrainConfig] = set()
    found = []
    for number, (one, own) in enumerate(zip(configs, overrides, strict=True)):
        if one in known:
            raise invalid.value("members", f"must differ, got one with seed {one.seed} twice")
        known.add(one)
        point = numbers.setdefault(dataclasses.replace(one, seed=0), len(numbers))
        found.append(Member(number, point, own, one))
    return found


def _configs(config: TrainConfig | Sequence[TrainConfig]) -> list[TrainConfig]:
    configs: list[Any] = list(config) if isinstance(config, list | tuple) else [config]
    for one in configs:
        if not isinstance(one, TrainConfig):
            raise invalid.type("config", f"must be a fastgan.TrainConfig or a list of them, got {type(one).__name__}")
    if not configs:
        raise invalid.value("config", "must not be an empty list")
    return configs


def _seeds(seeds: Iterable[int]) -> list[int]:
    try:
        found = [operator.index(seed) for seed in seeds]
    except TypeError:
        raise invalid.type("seeds", f"must be integers, got {seeds!r}") from None
    if not found:
        raise invalid.value("seeds", "must hold at least one seed, got none")
    if twice := [seed for i, seed in enumerate(found) if seed in found[:i]]:
        raise invalid.value("seeds", f"must be distinct, got {twice[0]} twice")
    return found


# ---------------------------------------------------------------- the grid


def _crossed(base: TrainConfig, grid: Grid | None) -> Iterator[TrainConfig]:
    """The config at every combination of the grid's values, the last field fastest."""
    fields = {name: _values(name, values) for name, values in (grid or {}).items()}
    for combination in itertools.product(*fields.values()):
        described = base.as_dict()
        for name, value in described.items():
            if isinstance(value, dict) and "function" in value:  # known by its name alone: the function itself
                described[name] = getattr(base, name)
        for name, value in zip(fields, combination, strict=True):
            _set(described, name, value)
        yield TrainConfig.from_dict(described) if fields else base


def _values(name: str, values: Iterable[Any]) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise invalid.type(f"grid[{name!r}]", f"must be a list of values, got {values!r}")
    found = [value.item() if hasattr(value, "item") else value for value in values]  # numpy's numbers
    if not found:
        raise invalid.value(f"grid[{name!r}]", "must hold at least one value, got none")
    if twice := [value for i, value in enumerate(found) if value in found[:i]]:
        raise invalid.value(f"grid[{name!r}]", f"must hold distinct values, got {twice[0]!r} twice")
    return found


def _set(described: dict[str, Any], name: str, value: Any) -> None:
    """Set one entry of a config's description, addressed as "k", "optimizer.lr" or "optimizer.betas.0"."""
    if name == "seed":
        raise invalid.value("grid", "must not name the seed, got 'seed': give seeds")
    part: Any = described
    *path, last = name.split(".")
    for step, key in enumerate(path):
        part = _entry(part, key)
        if part is None and step < len(path):
            raise invalid.value("grid", f"must name fields that are set, got {name!r} while {key} is None")
    if _entry(part, last) is _NOTHING or isinstance(_entry(part, last), dict | list) or last == "type":
        raise invalid.value("grid", f"must name fields of the config, such as 'k' or 'optimizer.lr', got {name!r}")
    part[int(last) if isinstance(part, list) else last] = value


_NOTHING = object()


def _entry(part: Any, key: str) -> Any:
    if isinstance(part, dict):
        return part.get(key, _NOTHING)
    if isinstance(part, list) and key.isdecimal() and int(key) < len(part):
        return part[int(key)]
    return _NOTHING


def _overrides(configs: list[TrainConfig], named: list[str]) -> list[dict[str, Any]]:
    """For each config, the fields of the grid and those in which configs differ."""
    flat = [dict(leaves(config.as_dict())) for config in configs]
    names = [*named, *dict.fromkeys(name for one in flat for name in one)]
    varying = [name for name in dict.fromkeys(names) if name in named or len({repr(one.get(name)) for one in flat}) > 1]
    return [{name: one.get(name) for name in varying if name != "seed" and name in one} for one in flat]
