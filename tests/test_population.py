"""Populations: every member has the bits of its solo run, wherever and beside whatever it is trained."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fused_rows import same_bits, same_runs

import fastgan
from fastgan import GAN, Adam, Callback, Momentum, PopulationResult, TrainConfig
from fastgan._backend import native
from fastgan._ranks import ranks
from fastgan.models import mlp_gan
from fastgan.training import Run, TrainResult, checkpoint, population, scheduler
from fastgan.training.engines import cpu
from fastgan.training.history import COLUMNS
from fastgan.training.population import mean_and_error
from fastgan.training.session import ChunkSizer

DATA = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
CONFIG = TrainConfig(steps=12, batch_size=8, optimizer=Adam(1e-2))
needs_native = pytest.mark.skipif(native is None, reason="the engine is compiled")


def make_gan(seed: int = 0) -> GAN:
    torch.manual_seed(seed)
    return mlp_gan(2, latent_dim=3, hidden=(9, 7), discriminator_dropout=0.2)


def make_diverging(seed: int) -> GAN:
    """Networks of which those of seed 1 break down at once."""
    gan = make_gan(seed)
    if seed == 1:
        torch.nn.init.constant_(gan.discriminator[-1].weight, float("inf"))
    return gan


def assert_as_alone(
    result: PopulationResult, configs: list[TrainConfig], data: Any = DATA, make: Callable[[int], GAN] = make_gan
) -> None:
    assert len(result.members) == len(configs)
    for member, config in zip(result.members, configs, strict=True):
        gan = make(config.seed)
        solo = fastgan.train(gan, data, config)
        assert (member.seed, member.step, member.engine) == (config.seed, solo.step, solo.engine)
        assert same_runs((member.gan, member), (gan, solo))


# ------------------------------------------------------------ the bits


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("engine", [pytest.param("fused", marks=needs_native), "eager"])
def test_each_member_is_its_solo_run(engine: str, threads: int) -> None:
    config = replace(CONFIG, engine=engine)
    result = fastgan.train_population(make_gan, DATA, config, seeds=range(5), threads=threads)
    assert result.engine == engine.replace("fused", "cpu") and not result.interrupted and result.points == [{}]
    assert_as_alone(result, [replace(config, seed=seed) for seed in range(5)])
    assert len({member.history["loss_d"].tobytes() for member in result.members}) == 5  # they are different GANs


def test_packed_members_and_ema_ones() -> None:
    def make_packed(seed: int) -> GAN:
        gan = make_gan(seed)
        return GAN(gan.generator, mlp_gan(4, latent_dim=3, hidden=(9, 7)).discriminator, latent_dim=3)

    config = replace(CONFIG, pack=2, ema_decay=0.9, gradient_penalty="r1")
    result = fastgan.train_population(make_packed, DATA, config, seeds=range(3), threads=2)
    assert any(name.startswith("ema.") for name in result.members[0].gan.state_dict())
    assert_as_alone(result, [replace(config, seed=seed) for seed in range(3)], make=make_packed)


@needs_native
@pytest.mark.parametrize("threads", [2, 4])
def test_members_that_take_turns_keep_their_schedules(threads: int) -> None:
    """A call is done in parts, in each of which rates, momenta and skipped updates go on where the last one ended."""
    rule = fastgan.Momentum(0.1, 0.5, lr_decay=1.01, momentum_final=0.7, saturate_epochs=20)
    config = replace(CONFIG, steps=100, k=2, generator_steps=3, optimizer=rule, nonfinite="skip")
    result = fastgan.train_population(make_diverging, DATA, config, seeds=range(3), threads=threads)
    assert_as_alone(result, [replace(config, seed=seed) for seed in range(3)], make=make_diverging)


@needs_native
def test_more_members_than_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members enter as others leave, so neighbours are at different steps."""
    monkeypatch.setattr(cpu, "_A_THREAD", 2)
    configs = [replace(CONFIG, steps=steps, seed=seed) for seed, steps in enumerate((3, 12, 0, 7, 12, 1))]
    result = fastgan.train_population(make_gan, DATA, configs, threads=1)
    assert_as_alone(result, configs)
    assert [member.overrides for member in result.members[:2]] == [{"steps": 3}, {"steps": 12}]


@needs_native
def test_data_that_must_be_converted_are_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    data = DATA.double()
    raw = scheduler.Minibatches._raw
    monkeypatch.setattr(
        scheduler.Minibatches, "_raw", lambda self, index: (asked.append(len(index)), raw(self, index))[1]
    )
    result = fastgan.train_population(make_gan, data, CONFIG, seeds=range(4), threads=2)
    assert result.engine == "cpu"
    assert asked.count(40) == 2  # the check and the copy
    monkeypatch.undo()
    assert_as_alone(result, [replace(CONFIG, seed=seed) for seed in range(4)], data)


def test_a_grid_crosses_its_fields_with_the_seeds() -> None:
    grid = {"optimizer.lr": [1e-3, 1e-2], "k": (1, 2), "optimizer.betas.0": np.linspace(0.5, 0.5, 1)}
    result = fastgan.train_population(make_gan, DATA, CONFIG, seeds=[7, 3], grid=grid)
    points = [{"optimizer.lr": lr, "k": k, "optimizer.betas.0": 0.5} for lr in (1e-3, 1e-2) for k in (1, 2)]
    assert result.points == points
    configs = [
        replace(CONFIG, seed=seed, k=point["k"], optimizer=Adam(point["optimizer.lr"]))
        for point in points
        for seed in (7, 3)
    ]
    assert_as_alone(result, configs)
    assert [(m.point, m.seed) for m in result.members] == [(p, s) for p in range(4) for s in (7, 3)]


def test_listed_configs_that_differ_in_the_seed_are_one_point() -> None:
    configs = [replace(CONFIG, steps=2, seed=s, optimizer=o) for o in (Adam(1e-3), Momentum(0.1)) for s in (4, 5)]
    result = fastgan.train_population(make_gan, DATA, configs)
    assert [member.point for member in result.members] == [0, 0, 1, 1]
    assert result.points[0]["optimizer.type"] == "Adam" and result.points[1]["optimizer.momentum"] == 0.5
    assert result.members[0].overrides == result.members[1].overrides == result.points[0]


def test_makers_with_and_without_a_seed() -> None:
    def by_torch(width: int = 9) -> GAN:
        return mlp_gan(2, latent_dim=3, hidden=(width, 7), discriminator_dropout=0.2)

    def by_name(*, seed: int) -> GAN:
        return make_gan(seed)

    before = torch.get_rng_state()
    for maker in (by_torch, by_name, lambda number: make_gan(number)):
        result = fastgan.train_population(maker, DATA, replace(CONFIG, steps=0), seeds=[2, 5])
        for member in result.members:
            assert same_bits(member.gan, make_gan(member.seed))
        torch.set_rng_state(before)
        fastgan.train_population(by_torch, DATA, replace(CONFIG, steps=0), seeds=[2])
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("fixed", "each", "expected"),
    [(0.26, 1e-4, 2600), (2.0, 1e-2, 200), (0.0, 1e-3, 250), (0.05, 1e-3, 200), (0.0, 3.0, 1), (0.26, 1.0, 1)],
)
def test_a_chunk_is_not_short_because_it_costs_much_whatever_its_length(
    fixed: float, each: float, expected: int
) -> None:
    pace, noise, slow = ChunkSizer(), np.random.default_rng(1), 1.0
    found = []
    for _ in range(60):  # of which the first takes a second more
        found.append(pace.iterations)
        seconds = (fixed + each * pace.iterations) * noise.uniform(0.97, 1.03) + slow
        pace.learn(pace.iterations, seconds)
        slow = 0.0
    assert 0.6 * expected <= np.median(found[10:]) <= 1.6 * expected
    assert max(found) <= 8 * expected


# ------------------------------------------------------------ the result


def test_mean_and_standard_error_are_over_the_seeds_of_a_point() -> None:
    grid = {"optimizer.lr": [1e-3, 1e-2]}
    result = fastgan.train_population(make_gan, DATA, CONFIG, seeds=range(3), grid=grid)
    assert result.history["step"].tolist() == list(range(1, 13))
    assert set(result.mean) == set(result.standard_error) == set(COLUMNS) - {"step"}
    for name in result.mean:
        values = result.history[name].reshape(2, 3, 12)
        assert np.array_equal(values[1, 2], result.members[5].history[name])
        assert np.allclose(result.mean[name], values.mean(1), rtol=1e-12)
        assert np.allclose(result.standard_error[name], values.std(1, ddof=1) / np.sqrt(3), rtol=1e-9)
    assert result.steps_per_second > 0


def test_the_mean_passes_over_what_is_not_finite() -> None:
    nan, inf = np.nan, np.inf
    mean, error = mean_and_error(np.array([[1.0, nan, nan], [3.0, 5.0, inf], [nan, nan, nan]]))
    assert mean[:2].tolist() == [2.0, 5.0] and error[0] == 1.0
    assert np.isnan(mean[2]) and np.isnan(error[1:]).all()


def test_callbacks_get_the_number_of_the_member() -> None:
    seen: dict[int, list[str]] = {}

    class Listener(Callback):
        every = 5

        def on_start(self, run: Run) -> None:
            seen[run.member] = [f"start {run.config.seed}"]

        def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
            if run.step % 5 == 0:
                seen[run.member].append(str(run.step))

        def on_end(self, run: Run, result: TrainResult) -> None:
            seen[run.member].append(f"end {result.step}")

    fastgan.train_population(make_gan, DATA, CONFIG, seeds=[8, 9], callbacks=[Listener()])
    assert seen == {i: [f"start {seed}", "5", "10", "end 12"] for i, seed in enumerate((8, 9))}


def test_what_the_plan_cannot_say_runs_eagerly_beside_the_rest() -> None:
    configs = [replace(CONFIG, steps=3, seed=seed, impl=impl) for seed, impl in ((0, "auto"), (1, "reference"))]
    result = fastgan.train_population(make_gan, DATA, configs)
    assert_as_alone(result, configs)
    if native is not None:
        assert result.members[1].engine_reason == "config.impl is 'reference'"
        assert result.engine == "cpu and eager"
        assert result.engine_reason == "1 of 2 members: config.impl is 'reference'"
    reason = "FASTGAN_DISABLE_NATIVE|compiled" if native is None else "config.impl is 'reference'"
    with pytest.raises(ValueError, match=f"got 'fused': .*({reason})"):
        fastgan.train_population(make_gan, DATA, [replace(config, engine="fused") for config in configs[1:]])


# ------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize("engine", ["auto", "eager"])
def test_a_member_that_breaks_down_ends_alone(engine: str, tmp_path: Path) -> None:
    failures: list[tuple[int, str]] = []

    class Listener(Callback):
        def on_failure(self, run: Run, why: str) -> None:
            failures.append((run.member, why))

        def on_end(self, run: Run, result: TrainResult) -> None:
            assert run.member != 1

    config = replace(CONFIG, engine=engine)
    result = fastgan.train_population(
        make_diverging, DATA, config, seeds=range(3), run_dir=tmp_path, callbacks=[Listener()], threads=2
    )
    good, bad, other = result.members
    assert bad.failed is not None and "loss_d is not finite" in bad.failed and "at iteration 1;" in bad.failed
    assert failures == [(1, bad.failed)]
    assert good.failed is None and other.failed is None and not result.interrupted
    for member in (good, other):
        gan = make_gan(member.seed)
        solo = fastgan.train(gan, DATA, replace(config, seed=member.seed))
        assert same_runs((member.gan, member), (gan, solo))
    assert np.isfinite(result.mean["loss_d"]).all()
    assert not checkpoint.checkpoints(tmp_path / "member-0001/checkpoint")
    assert len(checkpoint.checkpoints(tmp_path / "member-0002/checkpoint")) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seeds": []}, ValueError, "seeds must hold at least one seed, got none"),
        ({"seeds": [1, 2, 1]}, ValueError, "seeds must be distinct, got 1 twice"),
        ({"seeds": [0.5]}, TypeError, r"seeds must be integers, got \[0.5\]"),
        ({"seeds": 3}, TypeError, "seeds must be integers, got 3"),
        ({"seeds": [-1]}, ValueError, "TrainConfig: seed must be at least 0, got -1"),
        ({"grid": {"lr": [1.0]}}, ValueError, "grid must name fields of the config.* got 'lr'"),
        ({"grid": {"optimizer": [1.0]}}, ValueError, "grid must name fields of the config.* got 'optimizer'"),
        ({"grid": {"optimizer.rate": [1.0]}}, ValueError, "grid must name fields.* got 'optimizer.rate'"),
        ({"grid": {"optimizer.betas.2": [0.5]}}, ValueError, "grid must name fields.* got 'optimizer.betas.2'"),
        (
            {"grid": {"generator_optimizer.lr": [1.0]}},
            ValueError,
            "grid must name fields that are set, got 'generator_optimizer.lr' while generator_optimizer is None",
        ),
        ({"grid": {"seed": [1]}}, ValueError, "grid must not name the seed"),
        ({"grid": {"k": []}}, ValueError, r"grid\['k'\] must hold at least one value, got none"),
        ({"grid": {"k": [2, 2]}}, ValueError, r"grid\['k'\] must hold distinct values, got 2 twice"),
        ({"grid": {"k": 2}}, TypeError, r"grid\['k'\] must be a list of values, got 2"),
        ({"grid": {"k": [0.5]}}, TypeError, "TrainConfig: k must be an integer, got 0.5"),
        ({"grid": {"batch_size": [8, 41]}}, ValueError, "batch_size must be at most the 40 rows of data, got 41"),
        ({"config": []}, ValueError, "config must not be an empty list"),
        ({"config": [CONFIG, 3]}, TypeError, "config must be a fastgan.TrainConfig or a list of them, got int"),
        ({"config": [CONFIG, CONFIG]}, ValueError, "members must differ, got one with seed 0 twice"),
        ({"make_gan": 3}, TypeError, "make_gan must be callable, got int"),
        ({"make_gan": lambda: None}, TypeError, "make_gan must give a fastgan.GAN, got NoneType"),
        ({"threads": 0}, ValueError, "threads must be an integer of at least 1, got 0"),
        ({"resume": True}, ValueError, "run_dir must be given where resume is True, got None"),
        ({"change": ("lr",)}, ValueError, "change must be empty where resume is False, got"),
        ({"config": replace(CONFIG, checkpoint_every=2)}, ValueError, "run_dir must be given where"),
        ({"data": DATA[:3]}, ValueError, "batch_size must be at most the 3 rows of data, got 8"),
    ],
)
def test_errors_are_one_sentence_before_anything_runs(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    class Never(Callback):
        def on_start(self, run: Run) -> None:
            raise AssertionError("something ran")

    given: dict[str, Any] = {"make_gan": make_gan, "data": DATA, "config": CONFIG, "seeds": [0, 1], **arguments}
    if isinstance(given["config"], list):
        given["seeds"] = None
    with pytest.raises(error, match=message) as caught:
        fastgan.train_population(**given, callbacks=[Never()])
    assert "\n" not in str(caught.value)


def test_after_an_error_what_is_under_way_ends_before_networks_are_written_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    one = scheduler.Scheduler([], make_gan, None, (), None, False, (), 1, np.empty((6, 0, 0)))
    one._open = [SimpleNamespace(close=lambda: order.append("close"))]  # type: ignore[assignment]

    def breaks(group: scheduler.Group, sessions: list[Any]) -> None:
        group.under_way.append(scheduler.Call([], lambda: order.append("finish") or [], 0.0))
        raise OSError("the disk is full")

    monkeypatch.setattr(one, "_go_on", breaks)
    with pytest.raises(OSError, match="the disk is full"):
        one._run([], 1, 1)
    assert order == ["finish", "close"]


def test_members_must_not_share_networks(tmp_path: Path) -> None:
    gan = make_gan()
    with pytest.raises(ValueError, match="make_gan must give a new GAN at each call, got shared parameters"):
        fastgan.train_population(lambda: gan, DATA, CONFIG, seeds=[0, 1], run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------ several processes

RANK = """
import sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import torch.distributed as dist
from test_population import *

rank, folder = int(sys.argv[2]), Path(sys.argv[3])
CONFIG = replace(CONFIG, ema_decay=0.9)
solos = {}
for number in (0, 2, 3, 4):  # before there is a group, in which train would share each batch
    gan = make_gan(number)
    solos[number] = gan, fastgan.train(gan, DATA, replace(CONFIG, seed=number))
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
seen = set()

class Listener(Callback):
    def on_start(self, run):
        seen.add(run.member)

result = fastgan.train_population(make_diverging, DATA, CONFIG, seeds=range(5), callbacks=[Listener()])
assert seen == set(range(rank, 5, 2)), seen
assert result.members[1].failed and "at iteration 1;" in result.members[1].failed
for number, (gan, solo) in solos.items():
    assert same_runs((result.members[number].gan, result.members[number]), (gan, solo))

def refused(seed):
    if seed == 3:
        raise OSError("the disk of seed 3 is full")
    return make_gan(seed)

try:
    fastgan.train_population(refused, DATA, CONFIG, seeds=range(4), run_dir=folder / "run")
except (OSError, RuntimeError) as error:
    print(type(error).__name__, error)
dist.destroy_process_group()
"""


def test_ranks_share_the_members_and_gather_the_results(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", RANK, str(Path(__file__).parent)]
    pipe = subprocess.PIPE
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stdout=pipe, stderr=pipe, text=True) for rank in (0, 1)
    ]
    told = [rank.communicate(timeout=240) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
    assert told[0][0].strip() == "RuntimeError train_population: rank 1 broke down: the disk of seed 3 is full"
    assert told[1][0].strip() == "OSError the disk of seed 3 is full"


def test_the_group_is_made_of_what_torchrun_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    backends: list[str] = []
    monkeypatch.setattr(torch.distributed, "init_process_group", backends.append)
    for size, asked in (("1", []), ("2", ["gloo"])):
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", size)
        with ranks() as ranks_:
            assert (ranks_.rank, ranks_.size) == (0, 1) and backends == asked


def test_engines_that_differ_are_all_named() -> None:
    def member(engine: str) -> Any:
        return SimpleNamespace(engine=engine, engine_reason=f"why {engine}")

    for engines, named in (
        (["cpu", "cpu"], ("cpu", "why cpu")),
        (["eager"], ("eager", "why eager")),
        (["eager", "cuda-graph"], ("cuda-graph and eager", "1 of 2 members: why eager")),
        (["cuda-graph", "cuda-persistent"], ("cuda-graph and cuda-persistent", "why cuda-graph")),
    ):
        assert population._engine([member(engine) for engine in engines]) == named
