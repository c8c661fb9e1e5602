"""Quality of synthetic rows: columns, pairs, a two-sample test, models trained on them, privacy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastgan._errors import Invalid
from fastgan._extras import need
from fastgan._results import shortened
from fastgan.evaluation import nearest_neighbours

from . import storage
from .columns import Category, Column, Number
from .transformer import TableTransformer

invalid = Invalid("Report")

_ROWS = 5_000  # most rows for the models and the search for neighbours
_BINS = 10  # of a number, for pairs
_LABELS = 20  # of a column, for pairs; the rest is merged
_FOLDS = 3
_TARGET_LABELS = 10  # most labels of a target


class Report:
    """Synthetic rows compared with real ones.

    Args:
        transformer: fitted to the real rows.
        real: DataFrame that the GAN was trained on.
        synthetic: DataFrame of samples.
        held_out: DataFrame of rows that the GAN did not see, or None.
        target: column that the models predict; None: the last one with at most 10 labels, else the last of numbers.
        seed: for the choice of rows and for the models.

    Attributes:
        columns: a dictionary for each learnt column: name, kind, measure ("KS" or "TV"), distance, and the shares of
            missing values.
        values: all results, as JSON values.

    Raises:
        TypeError, ValueError: a table that is no DataFrame, has no rows, or lacks a column; an unknown target.
        RuntimeError: the transformer is not fitted.

    Source: Kolmogorov-Smirnov; total variation; Lopez-Paz and Oquab (2017) for the test; Esteban et al. (2017) for
        models trained on synthetic rows and tested on real ones.
    """

    def __init__(
        self,
        transformer: TableTransformer,
        real: Any,
        synthetic: Any,
        held_out: Any = None,
        *,
        target: Hashable | None = None,
        seed: int = 0,
    ) -> None:
        if not transformer.columns:
            raise RuntimeError("TableTransformer must be fitted first: fit(table)")
        self._learnt = [c for c in transformer.columns if isinstance(c, Number | Category)]
        self._seed = seed
        self._real, self._synthetic = self._numbers(real, "real"), self._numbers(synthetic, "synthetic")
        self._held_out = None if held_out is None or not len(held_out) else self._numbers(held_out, "held_out")
        self.columns = [self._column(place) for place in range(len(self._learnt))]
        self.values: dict[str, Any] = {
            "rows": {
                "real": len(real),
                "synthetic": len(synthetic),
                "held_out": 0 if held_out is None else len(held_out),
            },
            "columns": self.columns,
            "mean_ks": _mean([c["distance"] for c in self.columns if c["measure"] == "KS"]),
            "mean_tv": _mean([c["distance"] for c in self.columns if c["measure"] == "TV"]),
            "pairs": self._pairs(),
            "detection": _on_one_thread(self._detection),
            "efficacy": _on_one_thread(lambda: self._efficacy(target)),
            "privacy": self._privacy(),
        }

    # ---------------------------------------------------------------- columns

    def _numbers(self, frame: Any, argument: str) -> NDArray[np.float64]:
        """(n, columns): numbers, NaN where missing; codes of labels, -1 for a label that is not in the fitted table."""
        if not isinstance(frame, storage.pandas().DataFrame):
            raise invalid.type(argument, f"must be a DataFrame of pandas, got {type(frame).__name__}")
        if not len(frame):
            raise invalid.value(argument, "must have at least one row, got none")
        for column in self._learnt:
            if column.name not in frame.columns:
                raise invalid.value(argument, f"must have the column {column.name!r}, got none")
        made = np.full((len(frame), len(self._learnt)), np.nan)
        for place, column in enumerate(self._learnt):
            values = storage.read_as(column.storage, frame[column.name], column.name, "Report")
            made[~values.missing, place] = self._of_column(column, values)
            if isinstance(column, Category):
                made[values.missing, place] = len(column.labels) if column.has_missing else -1
        return made

    @staticmethod
    def _of_column(column: Column, values: storage.Values) -> NDArray[Any]:
        if isinstance(column, Number):
            families, got = {values.storage.family, column.storage.family}, values.storage.dtype
            if len(values.present) and len(families) > 1 and families != {"whole", "real"}:
                raise invalid.value(f"column {column.name!r}", f"must hold {column.storage.dtype} as at fit, got {got}")
            return column.grid.to_float(values.present)
        assert isinstance(column, Category)
        return storage.pandas().Index(column.labels, dtype=object).get_indexer(values.present.astype(object))

    def _column(self, place: int) -> dict[str, Any]:
        column, x, y = self._learnt[place], self._real[:, place], self._synthetic[:, place]
        found: dict[str, Any] = {"name": column.name, "kind": column.kind}
        if isinstance(column, Category):
            return found | {"measure": "TV", "distance": _total_variation(x, y, column.size)}
        gaps = {"missing_real": float(np.isnan(x).mean()), "missing_synthetic": float(np.isnan(y).mean())}
        return found | {"measure": "KS", "distance": _ks(x[~np.isnan(x)], y[~np.isnan(y)])} | gaps

    # ---------------------------------------------------------------- pairs

    def _pairs(self) -> dict[str, Any]:
        real, synthetic = self._binned(self._real), self._binned(self._synthetic)
        found: list[dict[str, Any]] = []
        for a, b in itertools.combinations(range(len(self._learnt)), 2):
            size = _BINS + _LABELS + 3
            x, y = (table[:, a] * size + table[:, b] for table in (real, synthetic))
            names = [self._learnt[a].name, self._learnt[b].name]
            found.append({"names": names, "distance": _total_variation(x, y, size * size)})
        found.sort(key=lambda pair: -pair["distance"])
        numbers = [place for place, column in enumerate(self._learnt) if isinstance(column, Number)]
        return {
            "mean_tv": _mean([pair["distance"] for pair in found]),
            "worst": found[:3],
            "correlation_error": _correlation_error(self._real[:, numbers], self._synthetic[:, numbers]),
        }

    def _binned(self, table: NDArray[np.float64]) -> NDArray[np.int64]:
        """Each column binned: by deciles of the real rows, or to the most frequent labels."""
        made = np.zeros(table.shape, dtype=np.int64)
        for place, column in enumerate(self._learnt):
            x, real = table[:, place], self._real[:, place]
            if isinstance(column, Number):
                present = real[~np.isnan(real)]
                edges = (
                    np.unique(np.quantile(present, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(present) else real[:0]
                )
                made[:, place] = np.where(np.isnan(x), _BINS, np.searchsorted(edges, np.nan_to_num(x), "right"))
                continue
            common = np.argsort(-np.bincount(real.astype(np.int64) + 1, minlength=column.size + 1), kind="stable")
            rank = np.full(column.size + 1, _LABELS)
            rank[common[:_LABELS]] = np.arange(min(_LABELS, column.size + 1))
            made[:, place] = rank[x.astype(np.int64) + 1]
        return made

    # ---------------------------------------------------------------- models

    def _some(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        rng = np.random.default_rng(self._seed)
        return table[rng.permutation(len(table))[:_ROWS]]

    def _detection(self) -> dict[str, Any] | None:
        """AUC of a classifier between synthetic and real rows, on held-out rows."""
        real, synthetic = self._some(self._real), self._some(self._synthetic)
        n = min(len(real), len(synthetic))
        if n < 10 * _FOLDS:
            return None
        ensemble = need("sklearn.ensemble", what="fastgan evaluate", package="scikit-learn")
        selection = need("sklearn.model_selection", what="fastgan evaluate", package="scikit-learn")
        x = np.concatenate([real[:n], synthetic[:n]])
        y = np.repeat([0, 1], n)
        model = ensemble.HistGradientBoostingClassifier(random_state=self._seed, max_iter=50)
        folds = selection.StratifiedKFold(_FOLDS, shuffle=True, random_state=self._seed)
        auc = selection.cross_val_score(model, x, y, scoring="roc_auc", cv=folds)
        return {"auc": float(auc.mean()), "rows": 2 * n}

    def _efficacy(self, target: Hashable | None) -> dict[str, Any] | None:
        """Models trained on real and on synthetic rows, tested on the same real rows."""
        place = self._target(target)
        if place is None:
            return None
        column = self._learnt[place]
        real, synthetic = self._some(self._real), self._some(self._synthetic)
        unseen = self._held_out is not None
        test = self._some(self._held_out) if self._held_out is not None else real[len(real) // 2 :]
        train = real if unseen else real[: len(real) // 2]
        if min(len(train), len(test), len(synthetic)) < 20 or len(self._learnt) < 2:
            return None
        made: dict[str, Any] = {"target": column.name, "rows_unseen_by_the_gan": unseen}
        for name, rows in (("real", train), ("synthetic", synthetic)):
            score = self._score(column, place, rows, test)
            if score is None:
                return None
            made["measure"], made[name] = score
        return made

    def _target(self, target: Hashable | None) -> int | None:
        names = [column.name for column in self._learnt]
        if target is not None:
            if target not in names:
                raise invalid.value("target", f"must be a learnt column ({', '.join(map(str, names))}), got {target!r}")
            return names.index(target)
        labels = [place for place, c in enumerate(self._learnt) if isinstance(c, Category) and c.size <= _TARGET_LABELS]
        numbers = [place for place, c in enumerate(self._learnt) if isinstance(c, Number)]
        candidates = labels or numbers
        return candidates[-1] if candidates else None

    def _score(
        self, column: Column, place: int, train: NDArray[np.float64], test: NDArray[np.float64]
    ) -> tuple[str, float] | None:
        ensemble = need("sklearn.ensemble", what="fastgan evaluate", package="scikit-learn")
        metrics = need("sklearn.metrics", what="fastgan evaluate", package="scikit-learn")
        train, test = (rows[~np.isnan(rows[:, place])] for rows in (train, test))
        x, y, x_test, y_test = (f(rows) for rows in (train, test) for f in (
            lambda rows: np.delete(rows, place, 1), lambda rows: rows[:, place]))  # fmt: skip
        if isinstance(column, Number):
            regressor = ensemble.HistGradientBoostingRegressor(random_state=self._seed, max_iter=100).fit(x, y)
            return "R2", float(metrics.r2_score(y_test, regressor.predict(x_test)))
        if len(np.unique(y_test)) < 2:
            return None
        if len(np.unique(y)) < 2:  # a model cannot be trained on one class
            return "AUC", 0.5
        model = ensemble.HistGradientBoostingClassifier(random_state=self._seed, max_iter=100).fit(x, y)
        known = [label for label in np.unique(y_test) if label in model.classes_]
        share = model.predict_proba(x_test)
        scores = [
            metrics.roc_auc_score(y_test == label, share[:, list(model.classes_).index(label)])
            if label in known
            else 0.5
            for label in np.unique(y_test)
        ]
        return "AUC", float(np.mean(scores))

    # ---------------------------------------------------------------- privacy

    def _privacy(self) -> dict[str, Any]:
        """Distances to the nearest training row, of samples and of real rows that are not among the training rows."""
        train = self._places(self._some(self._real))
        samples = self._places(self._some(self._synthetic))
        if self._held_out is None:  # one half of the real rows against the other
            half = len(train) // 2
            train, others = train[:half], train[half:]
        else:
            others = self._places(self._some(self._held_out))
        if not len(train) or not len(others):
            return {"copies": None}
        near = np.asarray(nearest_neighbours(samples, train).distance)
        usual = np.asarray(nearest_neighbours(others, train).distance)
        return {
            "copies": int((near == 0).sum()),
            "copies_share": float((near == 0).mean()),
            "real_copies_share": float((usual == 0).mean()),
            "median": float(np.median(near)),
            "real_median": float(np.median(usual)),
            "closer_than_5_percent": float((near < np.quantile(usual, 0.05)).mean()),
            "rows_unseen_by_the_gan": self._held_out is not None,
        }

    def _places(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows as points: numbers in standard deviations; two labels have distance one."""
        parts = []
        for place, column in enumerate(self._learnt):
            x, real = table[:, place], self._real[:, place]
            if isinstance(column, Number):
                present = real[~np.isnan(real)]
                mean, spread = (present.mean(), present.std() or 1.0) if len(present) else (0.0, 1.0)
                parts.append(np.nan_to_num((x - mean) / spread)[:, None])
                if column.has_missing:
                    parts.append(np.isnan(x).astype(np.float64)[:, None])
            else:
                parts.append((x[:, None] == np.arange(column.size)) / np.sqrt(2))
        return np.concatenate(parts, 1)

    # ---------------------------------------------------------------- text

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        rows = self.values["rows"]
        return (
            f"Report({len(self.columns)} columns, {rows['synthetic']} synthetic rows beside {rows['real']} real ones)"
        )

    def lines(self) -> list[str]:
        """The report as text of at most 80 columns."""
        out = [f"{'column':<24}{'kind':<12}{'measure':<8}{'distance':>8}   missing real / synthetic"]
        for column in self.columns:
            gaps = ""
            if column.get("missing_real") or column.get("missing_synthetic"):
                gaps = f"   {100 * column['missing_real']:.1f}% / {100 * column['missing_synthetic']:.1f}%"
            name = shortened(str(column["name"]), 23)
            out.append(f"{name:<24}{column['kind']:<12}{column['measure']:<8}{column['distance']:>8.3f}{gaps}")
        v = self.values
        means = [
            f"{text} {v[name]:.3f}" for name, text in (("mean_ks", "KS"), ("mean_tv", "TV")) if v[name] is not None
        ]
        out += ["", f"{'columns':<12}mean {', mean '.join(means)} (0: the same, 1: nothing in common)"]
        pairs = v["pairs"]
        if pairs["mean_tv"] is not None:
            out.append(f"{'pairs':<12}mean TV {pairs['mean_tv']:.3f}; worst: {self._worst(pairs)}")
        if pairs["correlation_error"] is not None:
            out.append(f"{'':<12}correlations of numbers differ by {pairs['correlation_error']:.3f} (mean)")
        detection = v["detection"]
        if detection is not None:
            out.append(f"{'detection':<12}AUC {detection['auc']:.3f} of a classifier between the two (0.5: it cannot)")
        efficacy = v["efficacy"]
        if efficacy is not None:
            line = f"{'efficacy':<12}{efficacy['measure']} {efficacy['synthetic']:.3f} by synthetic rows, "
            line += f"{efficacy['real']:.3f} by real ones; target "
            out.append(line + shortened(str(efficacy["target"]), 80 - len(line)))
        privacy = v["privacy"]
        if privacy["copies"] is not None:
            out += [
                f"{'privacy':<12}{privacy['copies']:,} copies of training rows ({100 * privacy['copies_share']:.1f}%; "
                f"of other real rows {100 * privacy['real_copies_share']:.1f}%)",
                f"{'':<12}{100 * privacy['closer_than_5_percent']:.1f}% nearer to a training row than "
                "the closest 5% of other",
                f"{'':<12}real rows (5%: as they are, more: memorised or too little spread)",
            ]
            if not privacy["rows_unseen_by_the_gan"]:
                out.append(f"{'':<12}the GAN saw all real rows: train with --rows to hold some out")
        return out

    @staticmethod
    def _worst(pairs: dict[str, Any]) -> str:
        worst = pairs["worst"][0]
        first, second = (shortened(str(name), 14) for name in worst["names"])
        return f"{first} x {second} {worst['distance']:.3f}"


def _on_one_thread(work: Callable[[], Any]) -> Any:
    """Run on one thread, because several are slower for trees this small."""
    torch.get_num_threads()  # torch reads the setting at its first use, which must not be this one
    with need("threadpoolctl", what="fastgan evaluate", package="scikit-learn").threadpool_limits(1):
        return work()


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _ks(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The largest difference of the distribution functions; 1 if only one of the samples is empty."""
    if not len(x) or not len(y):
        return float(len(x) != len(y))
    both = np.concatenate([x, y])
    below = (np.searchsorted(np.sort(part), both, "right") / len(part) for part in (x, y))
    return float(np.abs(next(below) - next(below)).max())


def _total_variation(x: NDArray[Any], y: NDArray[Any], size: int) -> float:
    """Total variation distance between samples of whole numbers from -1 to size - 1."""
    p, q = (np.bincount(part.astype(np.int64) + 1, minlength=size + 1) / max(len(part), 1) for part in (x, y))
    return float(np.abs(p - q).sum() / 2)


def _correlation_error(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    """The mean absolute difference of the pairwise rank correlations, over rows without missing values."""
    x, y = (rows[~np.isnan(rows).any(1)] for rows in (x, y))
    if x.shape[1] < 2 or len(x) < 2 or len(y) < 2:
        return None
    pd = storage.pandas()
    both = [pd.DataFrame(rows).rank().corr().fillna(0.0).to_numpy() for rows in (x, y)]
    return float(np.abs(both[0] - both[1])[np.triu_indices(x.shape[1], 1)].mean())
