"""TabularGAN: a conditional GAN for tables, from a DataFrame to synthetic rows."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from fastgan import nn, random
from fastgan._errors import Invalid
from fastgan._files import folder_at
from fastgan._options import HeadName
from fastgan._run_folder import TABLE
from fastgan._torch_settings import torch_threads, usable_device
from fastgan.data import DataError
from fastgan.data.encoded import EncodedTable, Head, pack
from fastgan.data.frames import open_table
from fastgan.models.gan import GAN
from fastgan.random import Purpose
from fastgan.training import PopulationMember, TrainResult, train
from fastgan.training.callbacks import Callback
from fastgan.training.display import counted
from fastgan.training.sampled import Conditions, ConditionSampler, SampledRows

from . import constraints as rules
from . import model_folder, population
from .columns import Kind, Normalization
from .conditions import Wanted
from .config import TabularConfig
from .constraints import Constraint
from .model_folder import FORMAT
from .transformer import TableTransformer

_BLOCK = 1000  # rows of a forward pass of `sample`; the bits depend on it
_TRIES = 200  # rows generated for each requested one, before `sample` gives up
_LEAST_TRIES = 20_000


def networks(config: TabularConfig, heads: Sequence[Head], classes: int) -> GAN:
    """The networks of Xu et al. (2019), section 4.4, for a table with these heads and `classes` labels in all.

    G: residual blocks, then tanh for scalars and Gumbel-softmax for groups. D sees packs: leaky ReLU and dropout.
    """
    width = config.latent_dim + classes
    layers: list[torch.nn.Module] = []
    for features in config.generator_hidden:
        layers.append(nn.Residual(width, features))
        width += features
    kinds: dict[str, HeadName] = {"tanh": "tanh", "softmax": "gumbel_softmax"}
    groups = [(kinds[head.kind], head.width) for head in heads]
    features = heads[-1].stop
    generator = nn.Sequential(*layers, torch.nn.Linear(width, features), nn.Heads(groups, tau=config.temperature))
    layers, width = [], config.pack * (features + classes)
    for units in config.discriminator_hidden:
        layers += [torch.nn.Linear(width, units), torch.nn.LeakyReLU(0.2), nn.Dropout(config.dropout)]
        width = units
    discriminator = nn.Sequential(*layers, torch.nn.Linear(width, 1))
    return GAN(generator, discriminator, latent_dim=config.latent_dim, classes=classes)


class TabularGAN:
    """CTGAN: a conditional GAN for tables with columns of any kind.

    Equivalent to the networks, losses and training-by-sampling of the paper, in float32, trained by `fastgan.train`.
    Where the paper is not specific: the probability of a label is proportional to log(1 + frequency), the
    cross-entropy is that of G's logits, a number in 5% of the rows has a mode of its own, and asinh compresses heavy
    tails.

    Args:
        kinds, normalization, max_categories: of the columns, as in `TableTransformer`.
        constraints: rules for rows, such as `Inequality("start", "end")`. A sample that breaks one is drawn again.
        device: on which the networks train.
        threads: on a CPU; None: torch's number.
        options: fields of `TabularConfig`, such as epochs, steps, batch_size, seed.

    Attributes:
        transformer: the fitted TableTransformer.
        gan: the networks, a `fastgan.GAN`; None before `fit`.
        history: metrics of `TrainResult` (loss_d, loss_g, ...) by name, a number for each iteration. loss_d includes
            the penalty, loss_g the cross-entropy of the conditions.
        engine, engine_reason: the engine that `fit` used, and why.
        failed: of a member of `fit_population`, the loss or logit that was not finite, and when; else None.
        rejected: how many rows the last `sample` drew again, by constraint, and "conditions".

    Raises:
        TypeError, ValueError: an option that breaks its rule.

    Source: Xu, Skoularidou, Cuesta-Infante, Veeramachaneni (2019).
    """

    def __init__(
        self,
        *,
        kinds: Mapping[Hashable, Kind] | None = None,
        normalization: Normalization = "modes",
        max_categories: int = 1000,
        constraints: Sequence[Constraint] = (),
        device: torch.device | str = "cpu",
        threads: int | None = None,
        **options: Any,
    ) -> None:
        known = [item.name for item in dataclasses.fields(TabularConfig)]
        for name in options:
            if name not in known:
                raise Invalid("TabularGAN").type("options", f"must be among {', '.join(known)}, got {name!r}")
        self.config = TabularConfig(**options)
        self.transformer = TableTransformer(
            kinds=kinds,
            normalization=normalization,
            max_categories=max_categories,
            seed=self.config.seed,
            threads=threads,
        )
        if isinstance(constraints, Constraint):
            raise Invalid("TabularGAN").type("constraints", f"must be a list of rules, got {constraints!r}")
        for rule in constraints:
            if not isinstance(rule, Constraint):
                raise Invalid("TabularGAN").type(
                    "constraints", f"must be of fastgan.tabular, got {type(rule).__name__}"
                )
        self.constraints = tuple(constraints)
        self.device = usable_device("TabularGAN", device)
        self.threads = threads
        self.gan: GAN | None = None
        self.engine = self.engine_reason = ""
        self.history: dict[str, NDArray[np.float64]] = {}
        self.rejected: dict[str, int] = {}
        self.interrupted = False
        self.failed: str | None = None
        self._sampler: ConditionSampler | None = None
        self._fingerprint: str | None = None  # of the rows, where they have a run folder

    def __repr__(self) -> str:
        steps = len(self.history.get("loss_d", ()))
        state = f"{steps:,} iterations" if self.gan is not None else "not fitted"
        return f"TabularGAN({state}, {self.transformer!r})"

    # ---------------------------------------------------------------- training

    def fit(
        self,
        table: Any,
        *,
        progress: bool = False,
        callbacks: Sequence[Callback] = (),
        run_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> TabularGAN:
        """Fit the columns, then train both networks from new weights with `fastgan.train`.

        Args:
            table: a DataFrame, or the path of a .csv, .tsv or .parquet file.
            progress: show progress on standard error.
            callbacks: as of `fastgan.train`.
            run_dir: folder for what `save` writes, history.csv and checkpoint/; None writes nothing.
            resume: continue from the newest checkpoint of `run_dir`, with the same table and the same options but
                epochs, steps, checkpoint_every and engine. It gives the bits of an uninterrupted training.

        Returns:
            Itself. Ctrl-C ends the training early and sets `interrupted`.

        Raises:
            DataError: as `TableTransformer.fit`; nothing in the table varies; a row breaks a constraint.
            FloatingPointError: a loss or a logit is not finite.
            ValueError: the requested engine cannot run this; a resume of another table, or with other options.
            CheckpointError: nothing to resume from, or a damaged checkpoint.
            OSError: the run folder cannot be written.
        """
        folder = None if run_dir is None else folder_at(Invalid("fit"), "run_dir", run_dir)
        if folder is not None and resume:
            self.transformer.seed = model_folder.seed_of_columns(folder, self.transformer.seed)
        rows = self.prepare(table)
        assert self.gan is not None
        if folder is not None:
            self._fingerprint = model_folder.fingerprint(rows)
            body = model_folder.describe(self, rows.sampler.counts, self._fingerprint, interrupted=True)
            if resume:
                model_folder.check_same_table(folder, body, Invalid("fit"))
            callbacks = [*callbacks, model_folder.KeepModel(lambda _: body)]
        with torch_threads(self.threads or torch.get_num_threads()):
            result = train(
                self.gan,
                rows,
                model_folder.as_begun(folder if resume else None, self.config.training(len(rows), self.device)),
                callbacks=callbacks,
                progress=progress,
                run_dir=folder,
                resume=resume,
            )
        self._take(result, rows)
        if folder is not None:
            self.save(folder)
        return self

    def fit_population(
        self,
        table: Any,
        *,
        seeds: Iterable[int] | None = None,
        grid: Mapping[str, Iterable[Any]] | None = None,
        progress: bool = False,
        callbacks: Sequence[Callback] = (),
        run_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> list[TabularGAN]:
        """Fit the columns once, then train a GAN for each seed and each combination of options by `train_population`.

        Equivalent to `fit` of a TabularGAN with each seed and combination, to the same bits, with columns as the own
        seed fits them.

        Args:
            table: as for `fit`.
            seeds: of the members; None: the own seed.
            grid: values by option (a field of `TabularConfig`), all combinations of them.
            progress: show progress on standard error.
            callbacks: as of `train_population`.
            run_dir: folder for what `fit` writes of each member, in member-0000 and so on; None writes nothing.
            resume: continue each member of `run_dir` from its newest checkpoint, as `fit` does; those without one
                begin.

        Returns:
            The members: for each combination, those of all seeds. A member whose losses are not finite ends alone, with
            `failed` set, and its folder stays at its newest checkpoint. After Ctrl-C the state of all is saved, and
            `interrupted` is set in those that have iterations left.

        Raises:
            DataError, ValueError, CheckpointError, OSError: as `fit`. TypeError, ValueError: seeds or a grid that break
            their rule.
        """
        planned = population.configs(self.config, seeds, grid)
        folder = None if run_dir is None else folder_at(population.invalid, "run_dir", run_dir)
        if resume:
            self.transformer.seed = population.seed_of_columns(folder, len(planned), self.transformer.seed)
        rows = self.prepare(table)
        self.gan = None
        self._fingerprint = None if folder is None else model_folder.fingerprint(rows)
        return population.train(
            self, planned, rows, progress=progress, callbacks=callbacks, folder=folder, resume=resume
        )

    def _take(self, result: TrainResult | PopulationMember, rows: SampledRows) -> None:
        """What a training on these rows gave, beside the networks."""
        self.interrupted, self.engine, self.engine_reason = result.interrupted, result.engine, result.engine_reason
        self.history = model_folder.of_every_step(result.history, result.step)
        self._sampler = ConditionSampler.without_rows(rows.sampler.counts)

    def prepare(self, table: Any) -> SampledRows:
        """Fit the columns and build the networks, as `fit` does before training.

        Args:
            table: as for `fit`.

        Returns:
            SampledRows: the data for `fastgan.train`.
        """
        source = open_table(table)
        self.transformer.fit(source)
        self.constraints = rules.fit_all(self.constraints, source)
        for rule in self.constraints:
            for column in self.transformer.columns:
                if column.kind == "identifier" and column.name in rule.columns:
                    got = f"must be of columns that are learnt, got the identifier {column.name!r}"
                    raise Invalid("fit")(DataError, f"the constraint {rule}", got)
        if not self.transformer.width:
            kinds = ", ".join(f"{column.name} is {column.kind}" for column in self.transformer.columns[:4])
            raise Invalid("fit")(DataError, "at least one column", f"must have something to learn, got none ({kinds})")
        encoded = self.transformer.encode(source)
        categories = self.transformer.categories
        sampler = ConditionSampler(
            encoded, [place for _, place in categories], [column.size for column, _ in categories]
        )
        self._build(sampler)
        return SampledRows(encoded, sampler)

    def _build(self, sampler: ConditionSampler) -> None:
        self._sampler, self.gan = sampler, self._networks(self.config, sampler.width)

    def _networks(self, config: TabularConfig, classes: int) -> GAN:
        """Networks of a config with first weights, for the fitted columns and so many labels."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random.torch_seed(config.seed, 0))
            return networks(config, self.transformer.heads, classes).to(self.device)

    # ---------------------------------------------------------------- samples

    def sample(
        self,
        n: int,
        *,
        conditions: Mapping[Hashable, Any] | None = None,
        seed: int = 0,
        offset: int = 0,
        progress: bool = False,
    ) -> Any:
        """Synthetic rows, with G in eval mode.

        Row i of a seed does not depend on n. Rows that do not meet the conditions, or break a constraint, are drawn
        again; `rejected` counts them.

        Args:
            n: number of rows.
            conditions: by column name: a label; for numbers and dates a value or a pair (lowest, highest), of which one
                may be None; None alone: a missing value.
            seed: for the noise.
            offset: index of the first row; only without conditions and constraints.
            progress: show a bar on standard error, if that is a terminal.

        Returns:
            DataFrame of n rows, with the columns, order and dtypes of the table.

        Raises:
            ValueError: an unknown column or label; conditions and constraints that hardly any row meets.
            FloatingPointError: G gives numbers that are not finite.
            RuntimeError: the GAN is not fitted.
        """
        for name, value in (("n", n), ("offset", offset), ("seed", seed)):
            Invalid("sample").check_integer(name, value, 0)
        if self.gan is None:
            raise RuntimeError("TabularGAN must be fitted first: fit(table)")
        wanted = Wanted(conditions or {}, self.transformer)
        filtered = bool(wanted.labels or wanted.ranges or self.constraints)
        if offset and filtered:
            raise Invalid("sample").value("offset", f"must be 0 with conditions or constraints, got {offset}")
        self.rejected = dict.fromkeys([*map(str, self.constraints), *(["conditions"] if conditions else [])], 0)
        parts, found, tried, block = [], 0, 0, offset // _BLOCK
        limit = max(_LEAST_TRIES, _TRIES * n)
        with counted(n, "sampling", quiet=not progress) as show:
            while found < n:
                encoded = self._block(block, seed, wanted)
                first = max(offset - block * _BLOCK, 0)
                index = torch.arange(first, _BLOCK)
                if filtered:
                    index = torch.from_numpy(np.flatnonzero(self._kept(encoded, wanted)))
                index = index[: n - found]
                parts.append(EncodedTable(encoded.scalars[index], encoded.codes[index], encoded.heads))
                found, tried, block = found + len(index), tried + _BLOCK, block + 1
                show(found)
                if filtered and found < n and tried >= limit:
                    counts = ", ".join(f"{count:,} by {name}" for name, count in self.rejected.items())
                    raise Invalid("sample").value(
                        "conditions and constraints",
                        f"must be met by one row in {_TRIES} at least, got {found:,} of {tried:,} generated rows "
                        f"(refused: {counts})",
                    )
        heads = self.transformer.heads
        empty = torch.empty(0, self.transformer.width)
        scalars, codes = (
            torch.cat([getattr(part, name) for part in [pack(empty, heads), *parts]]) for name in ("scalars", "codes")
        )
        return self.transformer.decode(EncodedTable(scalars, codes, heads), first=offset)

    def _block(self, block: int, seed: int, wanted: Wanted) -> EncodedTable:
        """The 1000 rows from block * 1000 on. A block is always generated whole."""
        assert self.gan is not None and self._sampler is not None
        start, labels = block * _BLOCK, None
        if self.gan.classes:
            drawn = self._sampler.draw(_BLOCK, seed=seed, purpose=Purpose.SAMPLE, step=0, offset=start, real=True)
            if wanted.labels:  # G gets the rarest label; rejection does the others
                counts = self._sampler.counts
                place = min(wanted.labels, key=lambda place: counts[place][wanted.labels[place]])
                drawn = Conditions(torch.full((_BLOCK,), place), torch.full((_BLOCK,), wanted.labels[place]))
            labels = self._sampler.labels(drawn)
        rows = self.gan.sample(_BLOCK, seed=seed, batch_size=_BLOCK, offset=start, device="cpu", labels=labels)
        if not rows.isfinite().all():
            raise Invalid("sample")(FloatingPointError, "G", "must give finite numbers, got others: it failed")
        return pack(rows, self.transformer.heads)

    def _kept(self, encoded: EncodedTable, wanted: Wanted) -> NDArray[np.bool_]:
        places = [place for _, place in self.transformer.categories]
        frame = self.transformer.decode(encoded)
        kept = wanted.holds(frame, encoded.codes[:, places].numpy())
        if "conditions" in self.rejected:
            self.rejected["conditions"] += int((~kept).sum())
        for rule in self.constraints:
            holds = rule.holds(frame)
            self.rejected[str(rule)] += int((kept & ~holds).sum())
            kept = kept & holds
        return kept

    # ---------------------------------------------------------------- saving

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write table.json and weights.safetensors, without pickle.

        Args:
            folder: created if it does not exist.

        Raises:
            RuntimeError: the GAN is not fitted. OSError: a file cannot be written.
        """
        if self.gan is None or self._sampler is None:
            raise RuntimeError("TabularGAN must be fitted first: fit(table)")
        body = model_folder.describe(self, self._sampler.counts, self._fingerprint, self.interrupted)
        model_folder.write(self, Path(folder), body)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> TabularGAN:
        """Read a folder of `save`, or of `fit(run_dir=...)`, also if that has not ended: at its newest checkpoint.

        Args:
            folder: of `save` or `fit`.
            device: of the networks.

        Returns:
            TabularGAN: it samples the same rows.

        Raises:
            FileNotFoundError: the folder has no TabularGAN. ValueError: a file is damaged, or torch cannot use the
                device here.
        """
        path, device = Path(folder), usable_device("load", device)
        if not (path / TABLE).is_file():
            raise Invalid("load")(FileNotFoundError, f"no TabularGAN in {path}: it has no {TABLE}")
        try:
            body = json.loads((path / TABLE).read_bytes())
            if body["format"] not in (1, FORMAT):
                raise ValueError(f"format must be at most {FORMAT}, got {body['format']!r}")
            made = cls(device=device, **{"ema_decay": None, **body["config"]})  # format 1 had no average
            made.transformer = TableTransformer.from_dict(body["transformer"])
            made.constraints = tuple(rules.from_dict(rule) for rule in body["constraints"])
            made.interrupted, made._fingerprint = bool(body["interrupted"]), body.get("fingerprint")
            made._build(ConditionSampler.without_rows(body["counts"]))
            assert made.gan is not None
            made.history = model_folder.read_state(made.gan, path)
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise Invalid("load").value(path, f"must hold a whole TabularGAN, got: {reason}") from error
        return made
