"""The training of TabularGAN: engines against the algorithm written out, in float64; training-by-sampling."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from algorithm1 import Game, compare, compiled, eager
from emulator import CSRC, compiler
from graph_launcher import Recorder
from torch import Tensor

import fastgan
from fastgan import GAN, TrainConfig, _backend, nn, reference
from fastgan.data.encoded import EncodedTable, Head
from fastgan.random import Purpose
from fastgan.tabular import TableTransformer, TabularConfig
from fastgan.tabular.gan import networks
from fastgan.training.engines.cuda_graph import GraphEngine
from fastgan.training.engines.plan import UnsupportedByEngine
from fastgan.training.sampled import Conditions, ConditionSampler, SampledRows

HEADS = (Head(0, 1, "tanh"), Head(1, 3, "softmax"), Head(4, 4, "softmax"), Head(8, 1, "tanh"), Head(9, 2, "softmax"))
PLACES, SIZES = (1, 2), (4, 2)  # of the softmax heads, those of columns of labels
WIDTH, LABELS = 11, 6


@pytest.fixture(params=["cpu", "eager", "cuda-graph"])
def train_by(request: pytest.FixtureRequest) -> Any:
    """Trains by an engine; the CUDA-graph engine's kernels are emulated."""
    if request.param == "eager":
        return eager
    if _backend.native is None:
        pytest.skip("not built")
    if request.param == "cpu":
        return compiled
    if not CSRC.is_dir() or compiler() is None:
        pytest.skip("the CUDA sources cannot be compiled for the emulator")
    library = request.getfixturevalue("library")
    return functools.partial(compiled, make=lambda *run: GraphEngine(*run, Recorder(library)))


def table(n: int = 200, seed: int = 0, kind: torch.dtype = torch.int64) -> EncodedTable:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, 3, n), rng.choice(4, n, p=[0.9, 0.07, 0.02, 0.01]), rng.integers(0, 2, n)], 1)
    scalars = torch.tensor(rng.uniform(-1, 1, (n, 2)), dtype=torch.float32)
    return EncodedTable(scalars, torch.tensor(codes).to(kind), HEADS)


def sampled(n: int = 200, kind: torch.dtype = torch.int16, labelled: bool = True) -> SampledRows:
    rows = table(n, kind=kind)
    return SampledRows(rows, ConditionSampler(rows, *((PLACES, SIZES) if labelled else ((), ()))))


def of_widths(widths: Sequence[int], n: int = 150) -> SampledRows:
    """A table of a number and a column of labels for each width; the last label of a column is rare or in no row."""
    rng, heads = np.random.default_rng(0), [Head(0, 1, "tanh")]
    for width in widths:
        heads.append(Head(heads[-1].stop, width, "softmax"))
    codes = np.stack([(width * rng.random(n) ** 2).astype(np.int16) for width in widths], 1)
    scalars = torch.tensor(rng.uniform(-1, 1, (n, 1)), dtype=torch.float32)
    rows = EncodedTable(scalars, torch.tensor(codes), tuple(heads))
    return SampledRows(rows, ConditionSampler(rows, range(len(widths)), widths))


def of_a_frame() -> SampledRows:
    """A table with missing values among numbers and among labels."""
    rng, n = np.random.default_rng(0), 150
    frame = pd.DataFrame({
        "x": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
        "label": np.where(rng.random(n) < 0.3, None, rng.choice(["a", "b", "c"], n)),
        "y": rng.gamma(2.0, size=n),
    })  # fmt: skip
    transformer = TableTransformer(seed=1, threads=1).fit(frame)
    rows, categories = transformer.encode(frame), transformer.categories
    return SampledRows(
        rows, ConditionSampler(rows, [place for _, place in categories], [c.size for c, _ in categories])
    )


def made(
    dtype: torch.dtype = torch.float64, labelled: bool = True, rows: SampledRows | None = None, **options: Any
) -> tuple[GAN, TrainConfig]:
    """Networks, and a config of `steps` iterations; fields of TrainConfig that TabularConfig has not are `beside`, and
    `smooth` gives D an activation with a second derivative, `chain` makes G one of plain layers."""
    beside, smooth, chain = (options.pop(name, {}) for name in ("beside", "smooth", "chain"))
    small = {"latent_dim": 5, "generator_hidden": (8, 7), "discriminator_hidden": (9, 6)}
    config = TabularConfig(**{"batch_size": 40, "pack": 4, "lr": 1e-3, "seed": 3, "steps": 10, **small, **options})
    torch.manual_seed(1)
    heads, labels = (HEADS, LABELS) if rows is None else (rows.table.heads, rows.sampler.width)
    gan = networks(config, heads, labels if labelled else 0).to(dtype)
    if chain:  # the labels are inputs of its first layer alone
        kinds = [("tanh" if head.kind == "tanh" else "gumbel_softmax", head.width) for head in heads]
        features = heads[-1].stop
        chained = (nn.Linear(5 + labels, 6), torch.nn.ReLU(), nn.Linear(6, features), nn.Heads(kinds, tau=0.5))
        gan = GAN(torch.nn.Sequential(*chained), gan.discriminator, latent_dim=5, classes=labels).to(dtype)
    if smooth:
        gan.discriminator[1] = torch.nn.Tanh()
    return gan, dataclasses.replace(config.training(200), **beside)


# ---------------------------------------------------------------- the algorithm, written out


class TableGame(Game):
    """Algorithm 1 of Xu et al. (2019): conditions, rows that meet them, the cross-entropy; the rest is `Game`'s."""

    def __init__(self, gan: GAN, rows: SampledRows, config: TrainConfig) -> None:
        super().__init__(gan, rows.rows(torch.arange(len(rows))), config)
        self.table, self.labelled = rows, gan.classes > 0
        self.asked: list[tuple[int, int]] = []  # column and code of each row
        apply = self.g.apply

        def noting(module: Any, x: Tensor, *rest: Any) -> Tensor:
            if isinstance(module, nn.Heads):
                self.logits_of_g = x
            return apply(module, x, *rest)

        self.g.apply = noting  # type: ignore[method-assign]

    def epoch(self, draw: int) -> tuple[int, int]:
        return divmod(draw, max(1, len(self.data) // (self.config.batch_size * self.config.pack)))

    def ask(self, purpose: Purpose, step: int) -> list[int]:
        """Ask for a label in each row of the batch; rows of the table that have them."""
        m, codes, sampler = self.config.batch_size * self.config.pack, self.table.table.codes, self.table.sampler
        places, sizes, starts = sampler.places, sampler.sizes, np.cumsum([0, *sampler.sizes])
        stream = {"seed": self.config.seed, "purpose": int(purpose), "step": step}
        which, weight, row = (reference.random_uniform(m, substream=k, **stream).tolist() for k in (1, 2, 3))
        if not self.labelled:
            self.condition = torch.zeros(m, 0, dtype=self.dtype)
            return [int(u * len(codes)) for u in row]
        self.condition, self.asked, found = torch.zeros(m, sum(sizes), dtype=self.dtype), [], []
        sums = [np.cumsum(np.log1p(np.bincount(codes[:, p], minlength=n))) for p, n in zip(places, sizes, strict=True)]
        for i in range(m):
            column = int(which[i] * len(sizes))
            own = codes[:, places[column]]
            code = int((sums[column] >= weight[i] * sums[column][-1]).argmax())
            having = (own == code).nonzero()[:, 0]
            found.append(int(having[int(row[i] * len(having))]))
            self.condition[i, starts[column] + code] = 1.0
            self.asked.append((column, code))
        return found

    def real(self, draw: int) -> Tensor:
        return self.pack(self.data[self.ask(Purpose.NOISE_D, draw)])

    def fake(self, purpose: int, step: int) -> Tensor:
        if purpose == Purpose.NOISE_G:
            self.ask(Purpose.NOISE_G, step)
        return super().fake(purpose, step)

    def beside_loss_of_g(self) -> Tensor | float:
        entropy: Tensor | float = 0.0
        heads = [head for head in self.table.table.heads if head.kind == "softmax"]
        for row, (column, code) in zip(self.logits_of_g, self.asked, strict=False):
            head = heads[self.table.sampler.places[column]]
            x = row[head.start : head.stop]
            entropy = entropy - torch.log(torch.exp(x[code]) / torch.exp(x).sum()) / len(self.asked)
        return entropy


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one iteration": {"steps": 1},
    "a row a pack": {"pack": 1},
    "two steps of D, weight decay": {"discriminator_steps": 2, "weight_decay": 0.1},
    "two steps of G": {"beside": {"generator_steps": 2}},
    "temperature, penalty": {"temperature": 1.0, "penalty_weight": 3.0},
    "no dropout": {"dropout": 0.0},
    "without labels": {"labelled": False},
    "one pack": {"batch_size": 12, "pack": 12},
    "simultaneous, moving average, bounded": {
        "beside": {"mode": "simultaneous", "ema_decay": 0.9, "max_grad_norm": 0.5},
    },
    "a table smaller than its batch": {"rows": 23},
    "codes of 32 bits": {"kind": torch.int32},
    "two penalties": {"beside": {"gradient_penalty": ("wgan-gp", "r1")}},
    "no penalty": {"beside": {"gradient_penalty": None, "loss": "non_saturating"}},
    "no penalty, a row a pack, without labels": {
        "labelled": False, "pack": 1, "beside": {"gradient_penalty": None, "loss": "non_saturating"},
    },
    "D with a second derivative": {"smooth": True},
    "units of bounded norm": {"beside": {"max_col_norm": 0.4}},
    "one column of one label": {"table": lambda: of_widths([1])},
    "columns of 1, 33 and 16 labels": {"table": lambda: of_widths([1, 33, 16]), "discriminator_hidden": (35, 6)},
    "40 columns of 20 labels": {"table": lambda: of_widths([20] * 40), "steps": 3},
    "a column of 10,000 labels": {"table": lambda: of_widths([10_000, 3]), "steps": 3, "chain": True},
    "missing values": {"table": of_a_frame},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_iteration_is_the_algorithm_written_out(case: dict[str, Any], train_by: Any) -> None:
    options = dict(case)
    if "table" in options:
        options["rows"] = rows = options.pop("table")()
    else:
        rows = sampled(options.pop("rows", 200), options.pop("kind", torch.int16), options.get("labelled", True))
    gan, config = made(**options)
    if config.loss == "wasserstein":  # the bias of logits cancels there; rounding would move it, and so all losses
        gan.discriminator[-1].bias.requires_grad_(False)
    game = TableGame(gan, rows, config)
    game.play(config.steps)
    engine, metrics = train_by(gan, rows, config)
    found = compare(game, gan, engine.optimizers, metrics)
    # The gradients of these are 0 in theory: rounding alone, which Adam divides by its own size.
    idle = ("generator.0.linear.bias", "generator.1.linear.bias")
    for name, difference in found.items():
        assert difference < (1e-7 if name.endswith(idle) else 1e-10), name


def test_float32_follows_float64(train_by: Any) -> None:
    gan, config = made(torch.float32)
    game = TableGame(gan, sampled(), config)
    game.play(config.steps)
    engine, metrics = train_by(gan, sampled(), config)
    assert max(compare(game, gan, engine.optimizers, metrics).values()) < 3e-3


def test_an_infinite_cross_entropy_skips_the_update_of_g(train_by: Any) -> None:
    """A label that G never gives, although its condition requests it: D's logits and all gradients stay finite."""
    gan, config = made(torch.float32, beside={"nonfinite": "skip"}, steps=3, weight_decay=0.0)
    with torch.no_grad():
        gan.generator[-2].bias[5:7] = torch.tensor([-3e38, 1e38])  # one label against another: 4e38
    before = {name: value.clone() for name, value in gan.generator.state_dict().items() if "running" not in name}
    _, metrics = train_by(gan, sampled(), config)
    assert np.isposinf(metrics[:, 1]).all() and np.isfinite(metrics[:, [0, 2, 3]]).all()
    for name, value in before.items():
        assert "batches" in name or torch.equal(value, gan.generator.state_dict()[name]), name


@pytest.fixture
def force() -> Iterator[Any]:
    """Sets the size of all teams; 0: as the engine decides."""
    if _backend.native is None:
        pytest.skip("not built")
    yield _backend.native.force_team
    _backend.native.force_team(0)


@pytest.mark.parametrize("beside", [{}, {"mode": "simultaneous"}], ids=["in turn", "simultaneous"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_R16_teams_have_the_bits_of_one_thread(dtype: torch.dtype, beside: dict[str, Any], force: Any) -> None:
    found, rows = [], of_widths([5, 70, 2])
    options: dict[str, Any] = {"batch_size": 120, "generator_hidden": (40, 33), "discriminator_hidden": (50, 20)}
    for size in (1, 2, 3, 4, 5):
        force(size)
        gan, config = made(dtype, rows=rows, beside=beside, **options)
        _, metrics = compiled(gan, rows, config)
        found.append((gan.state_dict(), metrics))
    for state, metrics in found[1:]:
        assert all(torch.equal(x, found[0][0][name]) for name, x in state.items())
        assert np.array_equal(metrics, found[0][1])


@pytest.mark.parametrize("widths, multiplies_in_bf16", [([300, 200], False), ([3, 2], True)], ids=["many", "few"])
def test_bf16_is_not_taken_where_listed_labels_save_more(widths: list[int], multiplies_in_bf16: bool) -> None:
    have = {} if _backend.native is None else _backend.native.bf16_products()
    if "yes" not in have.values():
        pytest.skip("this machine multiplies in bf16 no faster than in float32")
    rows = of_widths(widths)
    sizes: dict[str, Any] = {"generator_hidden": (64, 64), "discriminator_hidden": (64, 64)}
    gan, config = made(torch.float32, rows=rows, beside={"precision": "bf16"}, latent_dim=64, **sizes)
    reason = fastgan.train(gan, rows, config).engine_reason
    assert "products of G by" in reason and ("by fp32" not in reason) is multiplies_in_bf16, reason


def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path: Any) -> None:
    results = []
    for parts in ((10,), (4, 10)):
        for steps in parts:
            gan, config = made(steps=steps)
            folder = tmp_path / str(len(parts))
            result = fastgan.train(gan, sampled(), config, run_dir=folder, resume=steps != parts[0])
        results.append((gan.state_dict(), result.history))
    assert all(torch.equal(x, results[0][0][name]) for name, x in results[1][0].items())
    assert all(np.array_equal(values, results[0][1][name]) for name, values in results[1][1].items())


def test_members_of_a_population_train_as_alone() -> None:
    alone, config = made()
    members = fastgan.train_population(lambda: made()[0], sampled(), config, seeds=[3, 4]).members
    fastgan.train(alone, sampled(), config)
    first, second = (member.gan.state_dict() for member in members)
    assert all(torch.equal(x, first[name]) for name, x in alone.state_dict().items())
    assert not torch.equal(first["generator.0.linear.weight"], second["generator.0.linear.weight"])


def test_what_cannot_be_is_refused() -> None:
    gan, config = made()
    for options, rule in (
        ({"loss": "relativistic"}, "config.generator_sees_real must be False where rows are drawn by labels"),
        ({"gradient_penalty": None, "unroll": 1}, "config.unroll must be 0 where rows are drawn by labels"),
        ({"loss": "feature_matching"}, "config.loss must be 'of logits' where rows are drawn by labels"),
    ):
        with pytest.raises(ValueError, match=rule):
            fastgan.train(gan, sampled(), dataclasses.replace(config, **options))
    with pytest.raises(ValueError, match="gan.classes must be the 6 labels of the data, got 0"):
        fastgan.train(made(labelled=False)[0], sampled(), config)
    other = GAN(torch.nn.Sequential(torch.nn.Linear(11, 11)), gan.discriminator, latent_dim=5, classes=LABELS).double()
    with pytest.raises(ValueError, match="gan.generator must be a Sequential that ends in nn.Heads, got Sequential"):
        fastgan.train(other, sampled(), config)


def test_codes_that_a_head_has_not_are_refused() -> None:
    for code in (-1, 3):  # the compiled engine would write them beside the row
        rows = table(kind=torch.int16)
        rows.codes[7, 0] = code
        with pytest.raises(
            ValueError, match=rf"codes of softmax head 0 must lie in \[0, 3\), got (-1|0) to {max(code, 2)}"
        ):
            SampledRows(rows, ConditionSampler(rows, PLACES, SIZES))


@pytest.mark.skipif(_backend.native is None, reason="not built")
def test_any_layout_of_a_table_gives_the_same_numbers() -> None:
    rows, (gan, config) = table(kind=torch.int16), made()
    _, expected = compiled(gan, sampled(), config)
    turned = EncodedTable(rows.scalars.t().contiguous().t(), rows.codes, HEADS)
    _, metrics = compiled(made()[0], SampledRows(turned, ConditionSampler(turned, PLACES, SIZES)), config)
    assert np.array_equal(metrics, expected)
    with pytest.raises(UnsupportedByEngine, match=r"codes of the data are torch\.int64, not of 16 or 32 bits"):
        compiled(made()[0], sampled(kind=torch.int64), config)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.full((2, WIDTH), -1e4, requires_grad=True)
    with torch.no_grad():
        logits[0, 5] = 1e4
    entropy = sampled().cross_entropy(logits, torch.tensor([0, 5]))
    entropy.backward()
    assert torch.isfinite(entropy) and logits.grad is not None and torch.isfinite(logits.grad).all()


# ---------------------------------------------------------------- training-by-sampling


def test_conditions_are_balanced_and_rows_meet_them() -> None:
    rows = table(2000)
    sampler = ConditionSampler(rows, PLACES, SIZES)
    m = 20_000
    drawn = sampler.draw(m, seed=1, purpose=Purpose.NOISE_D, step=0)
    assert abs(float((drawn.column == 0).double().mean()) - 0.5) < 0.02
    counts = torch.bincount(rows.codes[:, 1], minlength=4).double()
    share = torch.bincount(drawn.code[drawn.column == 0], minlength=4).double()
    share /= share.sum()
    expected = torch.log1p(counts) / torch.log1p(counts).sum()
    assert ((share - expected).abs() < 0.02).all()
    found = sampler.matching(drawn, seed=1, purpose=Purpose.NOISE_D, step=0)
    places = torch.tensor(PLACES)[drawn.column]
    assert torch.equal(rows.codes[found, places], drawn.code)
    rare = found[(drawn.column == 0) & (drawn.code == 3)]
    assert len(rare.unique()) == int(counts[3])  # every row of the rarest label has its turn


def test_conditions_of_samples_have_the_frequencies_of_the_table() -> None:
    rows = table(2000)
    sampler = ConditionSampler(rows, PLACES, SIZES)
    again = ConditionSampler.without_rows(sampler.counts)
    drawn = sampler.draw(20_000, seed=1, purpose=Purpose.SAMPLE, step=0, real=True)
    saved = again.draw(20_000, seed=1, purpose=Purpose.SAMPLE, step=0, real=True)
    assert torch.equal(drawn.code, saved.code) and torch.equal(drawn.column, saved.column)
    share = torch.bincount(drawn.code[drawn.column == 0], minlength=4).double()
    counts = torch.bincount(rows.codes[:, 1], minlength=4).double()
    assert ((share / share.sum() - counts / counts.sum()).abs() < 0.02).all()
    part = sampler.draw(10, seed=1, purpose=Purpose.SAMPLE, step=0, real=True, offset=5)
    assert torch.equal(part.code, drawn.code[5:15])


def test_a_label_of_no_row_is_never_drawn_for_training() -> None:
    rows = EncodedTable(torch.zeros(9, 0), torch.tensor([[0], [2]] * 4 + [[2]]), (Head(0, 3, "softmax"),))
    sampler = ConditionSampler(rows, (0,), (3,))
    drawn = sampler.draw(5000, seed=0, purpose=Purpose.NOISE_D, step=0)
    assert set(drawn.code.tolist()) == {0, 2}
    assert sampler.labels(Conditions(torch.tensor([0]), torch.tensor([2]))).tolist() == [2]
