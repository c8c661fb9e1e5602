"""Which members a population of TabularGANs has: seeds and options of one table."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastgan._errors import Invalid

if TYPE_CHECKING:
    from .gan import TabularConfig

# Options on which the networks depend: members that differ in one train one after another.
_OF_NETWORKS = ("latent_dim", "generator_hidden", "discriminator_hidden", "dropout", "temperature", "pack")

invalid = Invalid("fit_population")


def configs(
    base: TabularConfig, seeds: Iterable[int] | None, grid: Mapping[str, Iterable[Any]] | None
) -> list[TabularConfig]:
    """All members: every combination of the grid's values, the last option fastest, with every seed.

    Raises:
        TypeError, ValueError: an option that is none, a value that breaks its rule, nothing to train.
    """
    known = [item.name for item in dataclasses.fields(base) if item.name != "seed"]
    values: dict[str, list[Any]] = {}
    for name, given in (grid or {}).items():
        if name not in known:
            raise invalid.value("grid", f"must name options ({', '.join(known)}), got {name!r}")
        if isinstance(given, str) or not isinstance(given, Iterable) or not (listed := list(given)):
            raise invalid.value(f"grid[{name!r}]", f"must be a list of values, got {given!r}")
        values[name] = listed
    own = [base.seed] if seeds is None else list(seeds)
    if not own:
        raise invalid.value("seeds", "must hold at least one seed, got none")
    points = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
    return [dataclasses.replace(base, **point, seed=seed) for point in points for seed in own]


def alike(planned: Sequence[TabularConfig]) -> list[list[int]]:
    """The numbers of members whose networks have the same form."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, config in enumerate(planned):
        groups.setdefault(tuple(getattr(config, name) for name in _OF_NETWORKS), []).append(number)
    return list(groups.values())
