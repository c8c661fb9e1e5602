"""The kinds of columns. Each one encodes its values for a generator, and decodes what the generator made."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastgan._errors import Invalid
from fastgan.data import DataError
from fastgan.data.dataset import Fault

from . import storage as stored
from .numeric import Array, Codes, Grid, Modes, Quantiles, Real, Squash, Whole, grid_from_dict
from .storage import Storage, Values

Kind = Literal["continuous", "integer", "count", "boolean", "categorical", "datetime", "constant", "identifier"]
Normalization = Literal["modes", "quantile"]

_FEW = 10  # whole numbers with at most so many different values are labels
_OFTEN = 5  # if each has so many rows on average
_LEAST_IDENTIFIERS = 20  # rows, all different, that make identifiers of a column
_SPIKE = 0.05  # share of rows above which one number is a mode of its own
_LEAST_SPIKE = 10  # rows with that number, at least
_CODE = re.compile(r"0\d+")  # as of zip codes
_ID_NAME = re.compile(r"(^|[ _-])(id|uuid|guid|key|index|rowid)$", re.IGNORECASE)


class Encoded(NamedTuple):
    """An encoded column: scalars (n,) in [-1, 1] or None; codes (n,), the index into its softmax, or None."""

    scalar: Array | None
    codes: Codes | None


@dataclass(frozen=True)
class Column:
    """Base class of the kinds of columns.

    Args:
        name: of the column.
        kind: one of `Kind`.
        storage: dtype of the column, to restore it.
    """

    name: Hashable
    kind: Kind
    storage: Storage

    has_scalar: ClassVar[bool] = False
    size: ClassVar[int] = 0  # of the softmax; 0: there is none

    def encode(self, values: Values, uniform: Array) -> Encoded:
        """Encode n values. uniform: (n,) numbers in (0, 1) that draw the modes."""
        raise NotImplementedError

    def decode(self, encoded: Encoded, rows: int, first: int) -> Any:
        """A Series of `rows` rows. first: index of the first row, for identifiers."""
        raise NotImplementedError

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "kind": self.kind, "storage": self.storage.as_dict()}


@dataclass(frozen=True)
class Number(Column):
    """Numbers and times: a scalar within a mode. A frequent number has a mode of its own, and so has a missing value.

    Args:
        grid: the values that are possible.
        squash: the transform of heavy tails.
        body: modes of the numbers that are not in `spikes`; None where all are.
        spikes: numbers with a mode of their own, on the grid.
        has_missing: whether the last mode is the missing value.
    """

    grid: Grid
    squash: Squash
    body: Modes | Quantiles | None
    spikes: Array
    has_missing: bool

    @property
    def has_scalar(self) -> bool:  # type: ignore[override]
        return self.body is not None

    @property
    def size(self) -> int:  # type: ignore[override]
        modes = self._modes + len(self.spikes) + self.has_missing
        return modes if modes > 1 else 0

    @property
    def _modes(self) -> int:
        return 0 if self.body is None else len(self.body)

    def encode(self, values: Values, uniform: Array) -> Encoded:
        n = len(values.missing)
        x = np.clip(self.grid.to_float(values.present), *self.grid.bounds)
        codes = np.full(len(x), -1, dtype=np.int64)
        for position, spike in enumerate(self.spikes):
            codes[x == spike] = self._modes + position
        scalar = np.zeros(len(x))
        rest = codes < 0
        if self.body is not None:
            own = uniform[~values.missing][rest]
            scalar[rest], codes[rest] = self.body.encode(self.squash.apply(x[rest]), own)
        elif rest.any():  # numbers that `fit` did not see: the nearest spike
            codes[rest] = np.abs(x[rest][:, None] - self.spikes).argmin(1)
        all_codes, all_scalars = np.full(n, self.size - 1, dtype=np.int64), np.zeros(n)
        all_codes[~values.missing], all_scalars[~values.missing] = codes, scalar
        return Encoded(all_scalars if self.has_scalar else None, all_codes if self.size else None)

    def decode(self, encoded: Encoded, rows: int, first: int) -> Any:
        codes = np.zeros(rows, dtype=np.int64) if encoded.codes is None else encoded.codes
        missing = np.zeros(rows, dtype=bool) if not self.has_missing else codes == self.size - 1
        x = np.zeros(rows)
        inside = codes < self._modes
        if self.body is not None and encoded.scalar is not None:
            x[inside] = self.squash.undo(self.body.decode(encoded.scalar[inside], codes[inside]))
        if len(self.spikes):
            own = ~inside & ~missing
            x[own] = self.spikes[codes[own] - self._modes]
        return self.storage.restore(self.grid.from_float(x), missing)

    def as_dict(self) -> dict[str, Any]:
        body = None if self.body is None else self.body.as_dict()
        return super().as_dict() | {
            "grid": self.grid.as_dict(),
            "squash": vars(self.squash),
            "body": body,
            "spikes": self.spikes.tolist(),
            "has_missing": self.has_missing,
        }


@dataclass(frozen=True)
class Category(Column):
    """Labels, an output of a softmax for each. The last output may be the missing value.

    Args:
        labels: in the order in which they first occur.
        has_missing: whether a label may be missing.
    """

    labels: tuple[Any, ...]
    has_missing: bool

    @property
    def size(self) -> int:  # type: ignore[override]
        return len(self.labels) + self.has_missing

    def encode(self, values: Values, uniform: Array) -> Encoded:
        pd = stored.pandas()
        codes = np.full(len(values.missing), self.size - 1, dtype=np.int64)
        if values.missing.any() and not self.has_missing:
            row = int(np.flatnonzero(values.missing)[0])
            raise Invalid("transform")(
                DataError, f"column {self.name!r} row {row}", "must have a value as all had at fit, got none"
            )
        found = pd.Index(self.labels, dtype=object).get_indexer(values.present.astype(object))
        if (found < 0).any():
            position = int(np.flatnonzero(found < 0)[0])
            got, row = values.present[position], values.row(position)
            raise Invalid("transform")(
                DataError,
                f"column {self.name!r} row {row}",
                f"must be one of the {len(self.labels)} categories of the fitted table, got {got!r:.60}",
            )
        codes[~values.missing] = found
        return Encoded(None, codes)

    def code(self, label: Any) -> int:
        """The code of a label (None, NaN: missing). A text also finds the label that prints as this text.

        Raises:
            ValueError: there is no such label.
        """
        missing = stored.is_missing(label)
        if missing and self.has_missing:
            return len(self.labels)
        for same in (self._is, self._is_written):
            for code, own in enumerate(self.labels):
                if not missing and same(own, label):
                    return code
        known = ", ".join(repr(own) for own in self.labels[:8]) + (", ..." if len(self.labels) > 8 else "")
        raise Invalid("sample").value(f"conditions[{self.name!r}]", f"must be one of {known}, got {label!r}")

    @staticmethod
    def _is(own: Any, label: Any) -> bool:
        return (
            not isinstance(label, np.ndarray)
            and bool(own == label)
            and isinstance(own, bool) == isinstance(label, bool | np.bool_)
        )

    @staticmethod
    def _is_written(own: Any, label: Any) -> bool:
        return isinstance(label, str) and str(own) == label

    def decode(self, encoded: Encoded, rows: int, first: int) -> Any:
        assert encoded.codes is not None
        missing = encoded.codes == len(self.labels)
        values = np.empty(self.size, dtype=object)
        values[: len(self.labels)] = self.labels
        if self.storage.family == "label":
            return self.storage.restore(values[encoded.codes], missing)
        if missing.any():
            values[-1] = self.labels[0]
        return self.storage.restore(values.astype(self.storage.number())[encoded.codes], missing)

    def as_dict(self) -> dict[str, Any]:
        labels = [stored.tag(label, self.name) for label in self.labels]
        return super().as_dict() | {"labels": labels, "has_missing": self.has_missing}


@dataclass(frozen=True)
class Constant(Column):
    """The same value in all rows, or none in any. Nothing is learnt.

    Args:
        label: the value; None: all are missing.
    """

    label: Any

    def encode(self, values: Values, uniform: Array) -> Encoded:
        return Encoded(None, None)

    def decode(self, encoded: Encoded, rows: int, first: int) -> Any:
        missing = np.full(rows, self.label is None)
        if self.storage.family != "label":
            label = 0 if self.label is None else self.label
            return self.storage.restore(np.full(rows, label, dtype=self.storage.number()), missing)
        values = np.empty(rows, dtype=object)
        values[:] = self.label
        return self.storage.restore(values, missing)

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"label": None if self.label is None else stored.tag(self.label, self.name)}


@dataclass(frozen=True)
class Identifier(Column):
    """A different value in each row. Identifiers are generated, not learnt.

    New numbers follow the highest one. New texts have the same length, and the same kind of character at each position.

    Args:
        begin: the first number.
        step: the distance to the next one.
        places: for text, the possible characters of each position; () where texts differ in length.
    """

    begin: int
    step: int
    places: tuple[str, ...]

    def encode(self, values: Values, uniform: Array) -> Encoded:
        return Encoded(None, None)

    def decode(self, encoded: Encoded, rows: int, first: int) -> Any:
        missing = np.zeros(rows, dtype=bool)
        if self.storage.family != "label":
            numbers = [self.begin + self.step * (first + row) for row in range(rows)]
            return self.storage.restore(np.array(numbers, dtype=self.storage.number()), missing)
        values = np.array([self._text(first + row) for row in range(rows)], dtype=object)
        return self.storage.restore(values, missing)

    def _text(self, number: int) -> str:
        """A text for each number. Texts repeat only after all possible ones are used."""
        if not self.places:
            return f"{self.name}-{number + 1:06}"
        total = math.prod(map(len, self.places))
        left = (number * _stride(total) + total // 3) % total
        made = []
        for place in self.places:
            left, at = divmod(left, len(place))
            made.append(place[at])
        return "".join(made)

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"begin": self.begin, "step": self.step, "places": list(self.places)}


def _stride(total: int) -> int:
    """A number coprime to `total`: its multiples modulo `total` visit every number once."""
    stride = int(total * 0.6180339887) | 1
    while math.gcd(stride, total) != 1:
        stride += 2
    return stride


_CLASSES = ("0123456789", "0123456789abcdef", "0123456789ABCDEF", "abcdefghijklmnopqrstuvwxyz",
            "ABCDEFGHIJKLMNOPQRSTUVWXYZ")  # fmt: skip


def _places(texts: NDArray[Any]) -> tuple[str, ...]:
    """The possible characters of each position; () if texts differ in length or the pattern has too few texts."""
    if len({len(text) for text in texts}) != 1 or not len(texts[0]):
        return ()
    places = []
    for characters in zip(*texts, strict=True):
        seen = set(characters)
        fixed = len(seen) == 1 and not seen <= set(_CLASSES[0])  # a digit may differ in new rows
        found = "".join(seen) if fixed else next((c for c in _CLASSES if seen <= set(c)), None)
        if found is None:
            return ()
        places.append(found)
    return tuple(places) if math.prod(map(len, places)) >= 10 * len(texts) else ()


# ---------------------------------------------------------------- from the values


def infer(name: Hashable, values: Values) -> Kind:
    """The kind of a column, from its values."""
    present, n = values.present, len(values.missing)
    whole = values.storage.family == "whole"
    if not len(present):
        return "constant"
    pd = stored.pandas()
    distinct = len(pd.unique(present))
    if distinct == 1 and len(present) == n:
        return "constant"
    if values.storage.family == "time":
        return "datetime"
    if values.storage.family == "real":
        return "integer" if Real.fit(present).decimals == 0 else "continuous"
    alone = distinct == n >= _LEAST_IDENTIFIERS
    if whole:
        low, high = int(present.min()), int(present.max())
        if alone and (high - low + 1 == n or _ID_NAME.search(str(name))):
            return "identifier"
        if distinct <= _FEW and n >= _OFTEN * distinct:
            return "categorical"
        heavy = low >= 0 and Squash.fit(present.astype(np.float64), count=False).width > 0
        return "count" if heavy else "integer"
    if alone and isinstance(present[0], str):
        return "identifier"
    return "boolean" if isinstance(present[0], bool | np.bool_) else "categorical"


def fit(
    name: Hashable, values: Values, kind: Kind, *, normalization: Normalization, max_categories: int, seed: int
) -> Column:
    """Fit a column of this kind to its values.

    Raises:
        DataError: the values are of another kind.
    """
    present, storage = values.present, values.storage
    fault: Fault = Invalid("fit").of(DataError, f"column {name!r}")
    if kind in ("continuous", "integer", "count", "datetime") and storage.family == "label":
        first = int((~_are_numbers(present)).argmax()) if len(present) else 0
        got = f"the {type(present[first]).__name__} {present[first]!r:.40}" if len(present) else "none"
        row = values.row(first) if len(present) else 0
        raise fault(f"row {row} must hold a number to be of kind {kind!r}, got {got}")
    if kind == "datetime" and storage.family != "time":
        raise fault(f"must hold dates to be of kind 'datetime', got {storage.dtype}")
    if kind == "constant" or not len(present):
        return _constant(name, values, fault)
    if kind in ("categorical", "boolean"):
        return _category(name, values, kind, max_categories, fault)
    if kind == "identifier":
        return _identifier(name, values, fault)
    if kind == "count" and present.min() < 0:
        row = values.row(int(np.flatnonzero(present < 0)[0]))
        raise fault(f"row {row} must be at least 0 to be of kind 'count', got {present.min()}")
    if kind in ("integer", "count") and storage.family == "real" and (broken := present != np.round(present)).any():
        row = values.row(int(np.flatnonzero(broken)[0]))
        raise fault(f"row {row} must be whole to be of kind {kind!r}, got {present[broken][0]}")
    return _number(name, values, kind, normalization, seed)


def odd_label(labels: tuple[Any, ...]) -> str | None:
    """The first text that is no number, of labels that are numbers as text for the most part; None otherwise."""
    if not all(isinstance(label, str) and not _CODE.fullmatch(label) for label in labels):
        return None
    numbers = _are_numbers(np.array(labels, dtype=object))
    mostly = _FEW < numbers.sum() < len(labels) < 2 * numbers.sum()
    return labels[int((~numbers).argmax())] if mostly else None


def _are_numbers(values: NDArray[Any]) -> NDArray[np.bool_]:
    pd = stored.pandas()
    found: NDArray[np.bool_] = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").notna().to_numpy()
    return found


def _constant(name: Hashable, values: Values, fault: Fault) -> Constant:
    present = values.present
    if not len(present):
        return Constant(name, "constant", values.storage, None)
    other = np.flatnonzero(present != present[0])
    if len(other) or len(present) < len(values.missing):
        row = values.row(int(other[0])) if len(other) else int(np.flatnonzero(values.missing)[0])
        got = repr(present[other].tolist()[0]) if len(other) else "none"
        raise fault(f"row {row} must be {present.tolist()[0]!r} as the first to be of kind 'constant', got {got}")
    return Constant(name, "constant", values.storage, present.tolist()[0])


def _category(name: Hashable, values: Values, kind: Kind, limit: int, fault: Fault) -> Category:
    codes, labels = stored.pandas().factorize(values.present)
    if len(labels) > limit:
        row = values.row(int((codes >= limit).argmax()))
        is_text = values.storage.family == "label"
        advice = f"raise max_categories, group the rare ones, or give it kind 'identifier'{'' if is_text else ' or '}"
        advice += "" if is_text else "'continuous'"
        if (odd := odd_label(tuple(labels))) is not None:
            advice = f"most are numbers, but not {odd!r:.40}"
        raise fault(
            f"must have at most {limit:,} categories, got {len(labels):,} (row {row} is the first too many): {advice}"
        )
    if kind == "boolean" and len(labels) > 2:
        row = values.row(int((codes >= 2).argmax()))
        raise fault(f"row {row} must be one of two values to be of kind 'boolean', got {labels[2]!r:.40}")
    plain = tuple(label.item() if isinstance(label, np.generic) else label for label in labels)
    for label in plain:
        stored.tag(label, name, "fit")
    return Category(name, kind, values.storage, plain, bool(values.missing.any()))


def _identifier(name: Hashable, values: Values, fault: Fault) -> Identifier:
    present = values.present
    if values.missing.any():
        row = int(np.flatnonzero(values.missing)[0])
        raise fault(f"row {row} must have a value to be of kind 'identifier', got none")
    if values.storage.family == "label":
        if not all(isinstance(value, str) for value in present):
            raise fault(f"must hold text or numbers to be of kind 'identifier', got {present[0]!r:.40}")
        if values.storage.categories is not None:
            raise fault("must be text to be of kind 'identifier', got pandas' dtype category")
        return Identifier(name, "identifier", values.storage, 0, 1, _places(present))
    if values.storage.family == "real" and (broken := present != np.round(present)).any():
        row, got = values.row(int(np.flatnonzero(broken)[0])), present[broken][0]
        raise fault(f"row {row} must be whole or text to be of kind 'identifier', got {got}")
    whole = present.astype(np.int64) if values.storage.family == "real" else present
    low, high = int(whole.min()), int(whole.max())
    step = Whole.fit(whole).step
    narrow = np.dtype(values.storage.dtype.lower()) if values.storage.family == "whole" else np.dtype("int64")
    room = (int(np.iinfo(narrow).max) - high) // step if values.storage.dtype != "object" else 2**62
    begin = high + step if room > 100 * len(present) else low
    return Identifier(name, "identifier", values.storage, begin, step, ())


def _number(name: Hashable, values: Values, kind: Kind, normalization: Normalization, seed: int) -> Number:
    pd = stored.pandas()
    present = values.present
    whole = present.dtype.kind in "iu"
    grid = Whole.fit(present) if whole else Real.fit(present)
    x = grid.to_float(present)
    counts = pd.Series(x).value_counts()
    common = counts[counts >= max(_SPIKE * len(x), _LEAST_SPIKE)].index.to_numpy(dtype=np.float64)
    rest = x[~np.isin(x, common)]
    if len(rest) and len(np.unique(rest)) == 1:  # a single number is a spike, not a density
        common, rest = np.append(common, rest[0]), rest[:0]
    squash, body = Squash(), None
    if len(rest):
        origin_is_zero = kind == "count" and (float(grid.origin) if isinstance(grid, Whole) else 0.0) == 0.0
        squash = Squash.fit(rest, count=origin_is_zero) if normalization == "modes" else squash
        y = squash.apply(rest)
        modes = Modes.fit(y, seed=seed) if normalization == "modes" else None
        body = modes if modes is not None and len(modes) > 1 else Quantiles.fit(y)
    return Number(name, kind, values.storage, grid, squash, body, np.sort(common), bool(values.missing.any()))


# ---------------------------------------------------------------- from JSON


def from_dict(values: dict[str, Any]) -> Column:
    """The column that `as_dict` described.

    Raises:
        KeyError, TypeError, ValueError: `values` is not such a dictionary.
    """
    name, kind = values["name"], values["kind"]
    storage = Storage.from_dict(values["storage"])
    if "grid" in values:
        grid, squash = grid_from_dict(values["grid"]), Squash(**values["squash"])
        body = values["body"]
        made: Modes | Quantiles | None = None
        if body is not None:
            made = Modes.from_dict(body) if "means" in body else Quantiles.from_dict(body)
        spikes = np.array(values["spikes"], dtype=np.float64)
        return Number(name, kind, storage, grid, squash, made, spikes, bool(values["has_missing"]))
    if "labels" in values:
        labels = tuple(stored.untag(label) for label in values["labels"])
        return Category(name, kind, storage, labels, bool(values["has_missing"]))
    if "label" in values:
        return Constant(name, kind, storage, stored.untag(values["label"]))
    return Identifier(name, kind, storage, values["begin"], values["step"], tuple(values["places"]))
