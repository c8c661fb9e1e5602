"""TableTransformer: tables of any columns to rows of a GAN, and back."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgan._errors import Invalid, check_choice
from fastgan._files import write_atomically
from fastgan.data import DataError, DataWarning
from fastgan.data.dataset import Fault
from fastgan.data.encoded import EncodedTable, Head, pack
from fastgan.data.frames import check_width, open_table

from . import columns as column_kinds
from . import storage, written
from .columns import Category, Column, Encoded, Kind, Normalization
from .numeric import quiet_fits

invalid = Invalid("fit")

FORMAT = 1
_MANY_ROWS = 50_000  # of a table whose columns several threads fit: with fewer, they mostly wait for the interpreter
KINDS: tuple[Kind, ...] = get_args(Kind)
_SMALL = 2**15  # categories that int16 can number


class TableTransformer:
    """Encodes the columns of a table for a generator, and decodes generated rows.

    A column is

    - continuous, integer (whole), count (whole, from 0, heavy tail) or datetime: a scalar in [-1, 1] and a one-hot
      code of its mode. A frequent number has a mode of its own. Range, decimals, step and type are restored exactly;
    - categorical or boolean: a one-hot code of its label, rare labels included;
    - constant or identifier: not learnt. `inverse` writes the value, or new identifiers.

    A missing value has a mode or label of its own. Names, order and dtypes of the columns are restored exactly.

    Args:
        kinds: kind by column name, for columns whose kind is not to be inferred.
        normalization: of numbers. "modes": a mode of a mixture of normal distributions and a position within it, or
            quantiles where the mixture has one mode; "quantile": quantiles always.
        max_categories: most labels of a column.
        seed: for the fit of the mixtures, and for the draws of the modes.
        threads: how many columns of a table of many rows are fitted at the same time; None: as many as torch has
            threads.

    Raises:
        ValueError: an unknown kind or normalization.

    Source: Xu et al. (2019), "Modeling Tabular Data using Conditional GAN", section 4.2.
    """

    def __init__(
        self,
        *,
        kinds: Mapping[Hashable, Kind] | None = None,
        normalization: Normalization = "modes",
        max_categories: int = 1000,
        seed: int = 0,
        threads: int | None = None,
    ) -> None:
        if not isinstance(kinds, Mapping | None):
            raise Invalid("TableTransformer").type("kinds", f"must be a kind by column name, got {kinds!r}")
        self.kinds = dict(kinds or {})
        for name, kind in self.kinds.items():
            check_choice("TableTransformer", f"kinds[{name!r}]", kind, KINDS)
        check_choice("TableTransformer", "normalization", normalization, get_args(Normalization))
        Invalid("TableTransformer").check_integer("max_categories", max_categories, 2)
        Invalid("TableTransformer").check_integer("seed", seed, 0)
        if threads is not None:
            Invalid("TableTransformer").check_integer("threads", threads, 1)
        self.normalization: Normalization = normalization
        self.max_categories = max_categories
        self.seed = seed
        self.threads = threads
        self.columns: tuple[Column, ...] = ()

    def __repr__(self) -> str:
        if not self.columns:
            return "TableTransformer(not fitted)"
        counts = Counter(column.kind for column in self.columns)
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
        return f"TableTransformer({len(self.columns)} columns: {kinds}; rows of {self.width} numbers)"

    # ---------------------------------------------------------------- fit

    def fit(self, table: Any) -> TableTransformer:
        """Infer kinds, ranges, labels and modes of the columns.

        Args:
            table: a DataFrame, or the path of a .csv, .tsv or .parquet file. A .parquet file is read column by column.

        Returns:
            Itself.

        Raises:
            DataError: no rows or columns, duplicate names, infinite values, too many categories, values of several
                types in one column. The message names column and row.

        Warns:
            DataWarning: a column is taken for identifiers, has no value, or is text that may be numbers.
        """
        source = open_table(table)
        self._check_names(source.names)
        if not source.rows:
            raise invalid(DataError, source.label, "must have at least one row, got none")

        def one(number: int) -> tuple[Column, str | None]:
            name = source.names[number]
            asked = self.kinds.get(name)
            as_time = None if asked is None else asked == "datetime"
            values = storage.read(source.column(number), name, as_time=as_time)
            kind = asked or column_kinds.infer(name, values)
            unread = written.example(values.present) if asked is None and values.storage.family == "label" else None
            column = column_kinds.fit(
                name,
                values,
                kind,
                normalization=self.normalization,
                max_categories=self.max_categories,
                seed=(self.seed + number) % 2**32,
            )
            return column, unread

        threads = (self.threads or torch.get_num_threads()) if source.rows >= _MANY_ROWS else 1
        with quiet_fits(), ThreadPoolExecutor(threads) as pool:
            self.columns, unread = zip(*pool.map(one, range(len(source.names))), strict=True)
        self._warn(unread)
        return self

    def _check_names(self, names: tuple[Hashable, ...]) -> None:
        if not names:
            raise invalid(DataError, "the table", "must have at least one column, got none")
        check_width(invalid.of(DataError, "the table"), len(names))
        for name in names:
            if not isinstance(name, str | int) or isinstance(name, bool):
                raise invalid(DataError, "column", f"names must be text or whole numbers, got {name!r}")
        if len(set(names)) < len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            places = " and ".join(str(i) for i, name in enumerate(names) if name == twice)
            raise invalid(DataError, "column", f"names must differ, got {twice!r} in columns {places} (counted from 0)")
        for name in self.kinds:
            if name not in names:
                raise invalid(DataError, "kinds", f"must name columns of the table, got {name!r}")

    def _warn(self, unread: tuple[str | None, ...]) -> None:
        """unread: of each column of text that may be numbers, one of them."""
        for column, text in zip(self.columns, unread, strict=True):
            advice = f"; if texts such as {text!r:.40} are numbers, write them without separators and signs"
            if column.kind == "identifier" and column.name not in self.kinds:
                rule = f"is taken for an identifier: made anew, not learnt{advice if text else ''}"
                warnings.warn(invalid(DataWarning, f"column {column.name!r}", rule), stacklevel=3)
            if isinstance(column, Category) and column.name not in self.kinds:
                if text is not None:
                    rule = f"is learnt as labels{advice}"
                    warnings.warn(invalid(DataWarning, f"column {column.name!r}", rule), stacklevel=3)
                if (odd := column_kinds.odd_label(column.labels)) is not None:
                    rule = f"is learnt as labels: most of the {len(column.labels)} are numbers, but not {odd!r:.40}"
                    warnings.warn(invalid(DataWarning, f"column {column.name!r}", rule), stacklevel=3)
            if isinstance(column, column_kinds.Constant) and column.label is None:
                warnings.warn(invalid(DataWarning, f"column {column.name!r}", "has no value in any row"), stacklevel=3)

    # ---------------------------------------------------------------- there

    @property
    def heads(self) -> tuple[Head, ...]:
        """The output heads of a generator of this table."""
        found: list[Head] = []
        for column in self._fitted():
            for width, kind in ((int(column.has_scalar), "tanh"), (column.size, "softmax")):
                if width:
                    found.append(Head(found[-1].stop if found else 0, width, kind))  # type: ignore[arg-type]
        return tuple(found)

    @property
    def width(self) -> int:
        """The length of an encoded row."""
        heads = self.heads
        return heads[-1].stop if heads else 0

    @property
    def categories(self) -> tuple[tuple[Category, int], ...]:
        """The columns of labels, each with the index of its softmax head."""
        places: list[tuple[Category, int]] = []
        place = 0
        for column in self._fitted():
            if isinstance(column, Category):
                places.append((column, place))
            place += column.size > 0
        return tuple(places)

    def encode(self, table: Any) -> EncodedTable:
        """The encoded rows in compact form: scalars and codes. Its `rows` gives the rows of `transform`.

        Args:
            table: as for `fit`, with the columns of the fitted one in any order.

        Returns:
            EncodedTable.

        Raises:
            DataError: a column is missing, or has other values than at fit.
        """
        source, fitted = open_table(table), self._fitted()
        scalars = np.empty((source.rows, sum(column.has_scalar for column in fitted)), dtype=np.float32)
        wide = max((column.size for column in fitted), default=0) >= _SMALL
        codes = np.empty((source.rows, sum(column.size > 0 for column in fitted)), np.int32 if wide else np.int16)
        for number, (column, scalar, code) in enumerate(self._places()):
            if column.name not in source.names:
                raise Invalid("transform")(DataError, source.label, f"must have the column {column.name!r}, got none")
            if scalar is None and code is None:
                continue
            values = self._read(column, source.column(source.names.index(column.name)))
            uniform = np.random.default_rng((self.seed, number)).random(source.rows)
            found = column.encode(values, uniform)
            if scalar is not None:
                scalars[:, scalar] = found.scalar
            if code is not None:
                codes[:, code] = found.codes
        return EncodedTable(torch.from_numpy(scalars), torch.from_numpy(codes), self.heads)

    def _read(self, column: Column, series: Any) -> storage.Values:
        values = storage.read_as(column.storage, series, column.name, "transform")
        fault: Fault = Invalid("transform").of(DataError, f"column {column.name!r}")
        family, wanted = values.storage.family, column.storage.family
        if family != wanted and not (isinstance(column, column_kinds.Number) and {family, wanted} == {"whole", "real"}):
            if not len(values.present):
                return storage.Values(np.empty(0), values.missing, column.storage)
            raise fault(f"must hold {column.storage.dtype} as at fit, got {values.storage.dtype}")
        if isinstance(column, column_kinds.Number):
            if values.missing.any() and not column.has_missing:
                row = int(np.flatnonzero(values.missing)[0])
                raise fault(f"row {row} must have a value as all had at fit, got none")
        return values

    def _places(self) -> Iterator[tuple[Column, int | None, int | None]]:
        """Each column with its index among the scalars and its index among the codes."""
        scalar = code = 0
        for column in self._fitted():
            yield column, scalar if column.has_scalar else None, code if column.size else None
            scalar += column.has_scalar
            code += column.size > 0

    def transform(self, table: Any) -> NDArray[np.float32]:
        """The encoded rows of a table: the real rows that D sees.

        Args:
            table: as for `encode`.

        Returns:
            (n, width) float32.

        Raises:
            DataError: as `encode`.
        """
        encoded = self.encode(table)
        return encoded.rows(torch.arange(len(encoded))).numpy()

    # ---------------------------------------------------------------- back

    def inverse(self, rows: NDArray[Any] | Tensor, *, first: int = 0) -> Any:
        """Decode generated rows.

        Args:
            rows: (n, width). The largest output of a softmax is taken.
            first: index of the first row, for identifiers.

        Returns:
            DataFrame of n rows with the columns of the fitted one.

        Raises:
            ValueError: rows of another width.
        """
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise Invalid("inverse").value("rows", f"must be (n, {self.width}), got {tuple(rows.shape)}")
        return self.decode(pack(rows, self.heads), first=first)

    def decode(self, encoded: EncodedTable, *, first: int = 0) -> Any:
        """Decode an EncodedTable. Equivalent to `inverse(encoded.rows(...))`."""
        pd = storage.pandas()
        n, made = len(encoded), []
        scalars, codes = encoded.scalars.double().cpu().numpy(), encoded.codes.cpu().numpy().astype(np.int64)
        for column, scalar, code in self._places():
            part = Encoded(
                None if scalar is None else scalars[:, scalar].clip(-1, 1), None if code is None else codes[:, code]
            )
            made.append(column.decode(part, n, first))
        frame = pd.concat(made, axis=1) if made else pd.DataFrame()
        frame.columns = pd.Index([column.name for column in self._fitted()])
        return frame

    def _fitted(self) -> tuple[Column, ...]:
        if not self.columns:
            raise RuntimeError("TableTransformer must be fitted first: fit(table)")
        return self.columns

    # ---------------------------------------------------------------- kept

    def as_dict(self) -> dict[str, Any]:
        """The fitted transformer as JSON values. `from_dict` restores it exactly."""
        return {
            "format": FORMAT,
            "normalization": self.normalization,
            "max_categories": self.max_categories,
            "seed": self.seed,
            "kinds": [[name, kind] for name, kind in self.kinds.items()],
            "columns": [column.as_dict() for column in self._fitted()],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TableTransformer:
        """The transformer that `as_dict` described.

        Raises:
            ValueError: `values` is not such a dictionary.
        """
        try:
            if values["format"] != FORMAT:
                raise ValueError(f"format must be {FORMAT}, got {values['format']!r}")
            made = cls(
                kinds={name: kind for name, kind in values["kinds"]},
                normalization=values["normalization"],
                max_categories=values["max_categories"],
                seed=values["seed"],
            )
            made.columns = tuple(column_kinds.from_dict(column) for column in values["columns"])
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise Invalid("TableTransformer").value("the saved table", f"must be whole, got {error!r}") from error
        return made

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file.

        Raises:
            OSError: the file cannot be written.
        """
        write_atomically(path, [json.dumps(self.as_dict(), indent=1).encode()])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TableTransformer:
        """Read a file of `save`.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            values = json.loads(Path(path).read_bytes())
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise Invalid("load").value(path, f"must be a table saved by TableTransformer.save, got {error}") from error
        return cls.from_dict(values)
