"""One run: its checks, its engine, and what comes between iterations: history, checkpoints and callbacks."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan._errors import Invalid
from fastgan._files import sweep, write_atomically
from fastgan._ranks import Ranks, local_device
from fastgan._run_folder import CONFIG
from fastgan.models.gan import GAN, evaluating, join
from fastgan.training import checkpoint, labels, networks, plugins, run_file, sources
from fastgan.training.callbacks import Callback, Run
from fastgan.training.checkpoint import Checkpoint
from fastgan.training.config import TrainConfig
from fastgan.training.engines import Engine, choose
from fastgan.training.engines.eager import packed
from fastgan.training.history import COLUMNS, History, as_columns, read_rows
from fastgan.training.interrupt import Interrupt
from fastgan.training.lock import FolderLock
from fastgan.training.result import TrainResult
from fastgan.training.resume import (
    check_change,
    check_held,
    check_same_run,
    describe_run,
    find_source,
    threads_of,
)
from fastgan.training.rows import Minibatches, is_finite
from fastgan.training.stream import Stream

invalid = Invalid("train")

log = logging.getLogger("fastgan")

_CHUNK_SECONDS = (
    0.25  # between two looks at the metrics: a progress bar moves, and the device is hardly ever waited for
)

# Tensors. Each takes a millisecond to describe and save: with more, nothing would seem to happen for minutes.
_MOST_PARAMETERS = 100_000


def place(gan: GAN, config: TrainConfig) -> None:
    """Bring the networks where they train, and check their parameters."""
    networks.check_unwrapped(gan)
    if (device := local_device(config.device)) is not None:
        try:
            gan.to(device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            why = " ".join(str(error).split())
            raise invalid.value("config.device", f"must be one that torch can use here, got {device} ({why})") from None
    if gan.device.type == "meta":
        raise invalid.value("gan", "must lie on a device with memory, got meta: gan.to_empty(device=...) gives it some")
    for name in ("generator", "discriminator"):
        parameters = list(getattr(gan, name).parameters())
        if len(parameters) > _MOST_PARAMETERS:
            rule = f"must have at most {_MOST_PARAMETERS:,} parameter tensors, got {len(parameters):,}"
            raise invalid.value(f"gan.{name}", rule)
        if not any(p.requires_grad for p in parameters):
            raise invalid.value(f"gan.{name}", "must have trainable parameters, got none")
        for parameter in parameters:
            if torch.nn.parameter.is_lazy(parameter):
                rule = "must know its sizes, got a lazy layer: call it once before training"
                raise invalid.value(f"gan.{name}", rule)
            if parameter.is_inference():
                raise invalid.value(
                    f"gan.{name}", "must be made outside torch.inference_mode, got parameters made there"
                )
            if parameter.device != gan.device:
                raise invalid.value("gan", f"must lie on one device, got {gan.device} and {parameter.device}")


def rows_for(data: Any, gan: GAN, config: TrainConfig, ranks: Ranks | None = None) -> Minibatches:
    """The data as this run's minibatches. The Minibatches of another run are neither checked nor converted again.

    A stream is started. With several ranks, each has its part of every minibatch, or a stream of its own.
    """
    size = config.batch_size * config.pack
    if ranks is not None and ranks.size > 1:
        part = size // ranks.size
        if sources.is_stream(data):
            return Stream(data, batch_size=part, device=gan.device, dtype=gan.dtype)
        rows = rows_for(data, gan, config)
        rows.part = slice(ranks.rank * part, (ranks.rank + 1) * part)
        return rows
    if isinstance(data, Minibatches):
        return data.reordered(batch_size=size, seed=config.seed, impl=config.impl)
    if sources.is_stream(data):
        return Stream(data, batch_size=size, device=gan.device, dtype=gan.dtype)
    return Minibatches(data, batch_size=size, seed=config.seed, device=gan.device, dtype=gan.dtype, impl=config.impl)


@dataclass(frozen=True)
class Prepared:
    """A run that has been checked and has its engine; nothing of it has been written, restored or started.

    Args:
        run: what callbacks get.
        engine: of the run.
        meta: what a checkpoint says about it.
        source: the checkpoint to continue from, or None.
        change: what the config changes of the checkpoint's run.
        config_json: of its folder.
        rows: its data.
    """

    run: Run
    engine: Engine
    meta: dict[str, Any]
    source: Checkpoint | None
    config_json: bytes
    rows: Minibatches
    change: Collection[str] = ()


def prepare(
    gan: GAN,
    rows: Minibatches,
    config: TrainConfig,
    folder: Path | None,
    resume: bool | str | os.PathLike[str] | None,
    memory_is_shared: bool = False,
    change: Collection[str] = (),
    ranks: Ranks | None = None,
) -> Prepared:
    """Try the networks on the data, choose the engine, find and compare the checkpoint to continue from.

    memory_is_shared: other runs hold memory temporarily; on out-of-memory, re-raise instead of falling back to eager.

    Raises:
        torch.OutOfMemoryError: the memory does not suffice to try the networks or, with memory_is_shared, for an
        engine.
    """
    if config.checkpoint_every and folder is None:
        raise invalid.value("run_dir", "must be given where config.checkpoint_every is set, got None")
    logits_per_batch, no_logits = _dry_run(gan, rows, config)
    if config.ema_decay is not None:
        gan.keep_ema()
    engine, reason = choose(gan, rows, config, logits_per_batch, memory_is_shared, ranks)
    meta = describe_run(gan, rows, config)
    if engine.as_built:
        meta["built"] = engine.as_built
    if folder is not None:
        checkpoint.others(engine.optimizers, engine.schedulers)  # refuses now what it could not write later
    source = find_source(resume, folder)
    if source is not None and isinstance(rows, Stream):
        raise invalid.value("data", f"must have rows by number to resume, got a {rows.kind}: its batches are gone")
    check_change(change, source, config)
    if source is not None:
        check_same_run(source, meta, change)
    if engine.threads is not None:
        engine.threads = threads_of(source) or engine.threads
        meta["threads"] = engine.threads
    writes = ranks is None or ranks.is_first
    run = Run(gan, config, folder if writes else None, engine.name, reason, no_logits=no_logits)
    config_json = b"" if folder is None else run_file.to_bytes(config, rows)
    return Prepared(run, engine, meta, source, config_json, rows, change)


def check_together(config: TrainConfig, ranks: Ranks) -> None:
    """Raise unless these processes can share each batch of this run.

    Raises:
        ValueError: a batch that cannot be divided, a look-ahead, feature matching, or configs that differ.
    """
    if config.batch_size % ranks.size:
        raise invalid.value(
            "config.batch_size", f"must be a multiple of the {ranks.size} processes, got {config.batch_size}"
        )
    if (part := config.batch_size // ranks.size) % config.micro_batches:
        raise invalid.value(
            "config.micro_batches", f"must divide the {part} rows of each process, got {config.micro_batches}"
        )
    if config.unroll:
        raise invalid.value("config.unroll", f"must be 0 with {ranks.size} processes, got {config.unroll}")
    if config.loss == "feature_matching":
        raise invalid.value(
            "config.loss",
            f"must not be 'feature_matching' with {ranks.size} processes: it is of the whole batch's mean",
        )
    mine = config.as_dict()
    for rank, other in enumerate(ranks.gather(lambda: mine, "train")):
        for name in sorted(mine):
            if name != "device" and mine[name] != other.get(name):
                got = f"{mine[name]!r} and {other.get(name)!r} of rank {rank}"
                raise invalid.value(
                    f"config.{name}",
                    f"must be the same in all processes, which train one GAN, got {got}; train_population trains many",
                )


class ChunkSizer:
    """The number of iterations in a chunk: as many as take about a quarter of a second.

    If the fixed cost of a chunk is large, as with the plans of a thousand members, a chunk takes twice that cost.
    """

    def __init__(self) -> None:
        self._iterations = 1.0
        self._fixed: float | None = None  # estimated fixed cost per chunk, in seconds
        self._last = (0, 0.0)

    @property
    def iterations(self) -> int:
        return int(self._iterations)

    def learn(self, iterations: int, seconds: float) -> None:
        """Record that a chunk of so many iterations took so many seconds, all included."""
        before, took = self._last
        few, many = sorted((before, iterations))
        if few and many >= 1.5 * few:
            each = max((seconds - took) / (iterations - before), 0.0)
            self._fixed = max(min(seconds, took) - each * few, 0.0)
        self._last = iterations, seconds
        fixed = self._fixed or 0.0
        wanted = max(_CHUNK_SECONDS - fixed, fixed) * iterations / max(seconds - fixed, 1e-9)
        least = (
            1.0 if self._fixed is not None else 2.0
        )  # a second chunk of the same length would not tell the two costs apart
        self._iterations = min(max(least, wanted), 4 * self._iterations)


class Session:
    """One run between its first iteration and its last: history, callbacks, checkpoints. The owner runs the engine.

    Args:
        prepared: the run; its checkpoint is restored and its folder made here.
        callbacks: of the run.
        interrupt: checked between iterations; it also gets a Ctrl-C during a callback.
    """

    def __init__(self, prepared: Prepared, callbacks: Sequence[Callback], interrupt: Interrupt) -> None:
        self.run, self.engine, self.meta = prepared.run, prepared.engine, prepared.meta
        self._config_json, self._change, self._rows = prepared.config_json, prepared.change, prepared.rows
        self.callbacks, self.interrupt = callbacks, interrupt
        run = prepared.run
        self._lock: FolderLock | None = None
        if run.run_dir is not None:
            (run.run_dir / "checkpoint").mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(run.run_dir)
        try:
            self.history = self._begin(prepared.source, prepared.change)
        except BaseException:
            self._unlock()
            raise
        self.marks = [every for every in (run.config.checkpoint_every, *(c.every for c in callbacks)) if every]
        self.first, self.begun = run.step, time.perf_counter()
        self.saved_step = run.step if run.checkpoint is not None else -1
        self.warned = False

    def _begin(self, source: Checkpoint | None, change: Collection[str]) -> History:
        """Restore the checkpoint and clean the folder; gives the history so far."""
        run, earlier = self.run, None
        if run.run_dir is not None:
            check_held(run.run_dir, source)  # again: another process may have trained here until now
            checkpoint.clean(run.run_dir / "checkpoint", run.config.keep_checkpoints)
            sweep(run.run_dir)
            sweep(run.run_dir / "snapshots")
        if source is not None:
            groups = [group for optimizer in self.engine.optimizers.values() for group in optimizer.param_groups]
            rates = [group["lr"] for group in groups]  # the config's
            source.restore(run.gan, self.engine.optimizers, self.engine.schedulers)
            if "lr" in change:
                groups = [group for optimizer in self.engine.optimizers.values() for group in optimizer.param_groups]
                for group, rate in zip(groups, rates, strict=True):
                    group["lr"] = rate
            run.step, run.checkpoint = source.step, source.path
            file = source.path.parent.parent / "history.csv"
            earlier = read_rows(file, source.step)
            if (lost := source.step - len(earlier)) > 0:
                log.warning(
                    "train: %s lacks %d of the %d iterations done: their metrics are lost", file, lost, source.step
                )
        return History(None if run.run_dir is None else run.run_dir / "history.csv", earlier)

    def close(self) -> None:
        """Leave networks up to date, the history's file closed and the folder to other processes."""
        self.engine.write_back()
        self.history.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def start(self) -> None:
        """Write config.json, and call `on_start` of the callbacks.

        The file of a resumed run stays, with the new rates where those change. One from before the first checkpoint
        is of a run that ended there.
        """
        if self.run.run_dir is not None:
            file = self.run.run_dir / CONFIG
            if self.run.checkpoint is None or not file.exists():
                write_atomically(file, [self._config_json])
            elif self._change:
                with contextlib.suppress(ValueError):  # damaged: the checkpoint, which counts, is whole
                    write_atomically(file, [run_file.with_train(file.read_bytes(), self.run.config)])
        self._notify(lambda callback: callback.on_start(self.run))

    @property
    def goes_on(self) -> bool:
        """Whether iterations are left and no stop was requested here."""
        return self.run.step < self.run.config.steps and not (self.interrupt.requested or self.run.stop)

    def until_mark(self, wanted: int) -> int:
        """The number of iterations until the next checkpoint, callback or end of run, at most `wanted`."""
        step = self.run.step
        return min(wanted, self.run.config.steps - step, *(every - step % every for every in self.marks))

    def take(self, metrics: np.ndarray) -> None:
        """The metrics of the iterations that have just run; writes a checkpoint where one is due."""
        self._look(metrics)
        if self.run.config.checkpoint_every and self.run.step % self.run.config.checkpoint_every == 0:
            self._save()

    def finish(self) -> TrainResult:
        """Save the last state; `announce` the result afterwards."""
        run = self.run
        interrupted = run.step < run.config.steps
        self._save()
        for parameter in run.gan.parameters():
            parameter.grad = None
        rate = (run.step - self.first) / max(time.perf_counter() - self.begun, 1e-9)
        return TrainResult(self.history.columns(), rate, run.engine, run.engine_reason, run.step, interrupted)

    def announce(self, result: TrainResult) -> None:
        """Tell the callbacks that the run has ended."""
        self._notify(lambda callback: callback.on_end(self.run, result))

    def fail(self, why: str) -> None:
        """Tell the callbacks that this member of a population ends here."""
        self._notify(lambda callback: callback.on_failure(self.run, why))

    def _look(self, metrics: np.ndarray) -> None:
        """Append a chunk's metrics to the history, call the callbacks, check that all are finite."""
        run = self.run
        numbers = np.arange(run.step + 1, run.step + len(metrics) + 1, dtype=np.float64)[:, None]
        table = np.concatenate([numbers, metrics], 1)
        run.step += len(metrics)
        self.history.append(table)
        rows = as_columns(table)
        if any(callback.reads_networks for callback in self.callbacks):
            self.engine.write_back()
        self._notify(lambda callback: callback.on_chunk(run, rows))
        bad = np.argwhere(~np.isfinite(metrics))
        if len(bad):
            row, column = bad[0]
            self._complain(
                f"{COLUMNS[column + 1]} is not finite ({metrics[row, column]}) at iteration {int(numbers[row, 0])}"
            )

    def _complain(self, what: str) -> None:
        last = f"last checkpoint: {self.run.checkpoint}" if self.run.checkpoint else "there is no checkpoint"
        if self._rows.flawed is not None:
            last = f"a NaN or an infinity came with draw {self._rows.flawed + 1} of the data; {last}"
        if self.run.config.nonfinite == "raise":
            raise invalid(FloatingPointError, f"{what}; {last}")
        if not self.warned:
            log.warning("train: %s; %s", what, last)
        self.warned = True

    def _save(self) -> None:
        """Write a checkpoint, unless there is no folder or nothing happened since the last one."""
        run = self.run
        self.engine.write_back()
        if run.config.nonfinite == "raise":
            # The metrics of the last iteration were taken before its update, so the parameters must be checked too.
            for name, value in run.gan.state_dict().items():
                if value.is_floating_point() and not is_finite(value):
                    self._complain(f"{name} is not finite after iteration {run.step}")
        if run.run_dir is None or run.step == self.saved_step:
            return
        self.history.sync()
        path = checkpoint.save(
            run.run_dir / "checkpoint",
            run.gan,
            self.engine.optimizers,
            step=run.step,
            meta=self.meta,
            schedulers=self.engine.schedulers,
            keep=run.config.keep_checkpoints,
        )
        run.checkpoint, self.saved_step = path, run.step
        self._notify(lambda callback: callback.on_checkpoint(run, path))

    def _notify(self, call: Callable[[Callback], None]) -> None:
        for callback in self.callbacks:
            try:
                call(callback)
            except KeyboardInterrupt:  # between iterations: the state is whole and can be saved
                self.interrupt.requested = True


def _dry_run(gan: GAN, rows: Minibatches, config: TrainConfig) -> tuple[int, str | None]:
    """Try both networks on two rows in eval mode, without a trace.

    Returns:
        The logits in a minibatch, and why they are none where they look like probabilities.
    """
    if gan.data_shape is not None and gan.data_shape != rows.shape:
        raise invalid.value("data", f"must have rows of shape {gan.data_shape} (gan.data_shape), got {rows.shape}")
    labels.check(gan, rows, config)
    count = min(2, config.batch_size)
    numbers = torch.arange(count * config.pack)
    real = rows.gather(numbers % rows.n if rows.n else numbers)  # a stream has no count of rows
    condition = gan.one_hot(torch.zeros(len(real), dtype=torch.int64))
    with untouched(gan), evaluating(gan), torch.no_grad():
        z = join(gan.noise(len(real), seed=0, impl=config.impl), condition)
        fake = _try("gan.generator", gan.generator, z, f"must take noise of shape {tuple(z.shape)}")
        if fake.shape != real.shape:
            raise invalid.value(
                "gan.generator", f"must give samples of the data's shape {rows.shape}, got {tuple(fake.shape[1:])}"
            )
        beside = None if condition is None else packed(condition, config.pack)
        d_inputs = join(packed(real, config.pack), beside)
        logits = _try(
            "gan.discriminator", gan.discriminator, d_inputs, f"must take data of shape {tuple(d_inputs.shape)}"
        )
        no_logits = networks.why_no_logits(gan, config.loss, logits, d_inputs, join(packed(fake, config.pack), beside))
    if logits.ndim < 1 or len(logits) != count or not logits.is_floating_point():
        raise invalid.value(
            "gan.discriminator",
            f"must give floating logits, one or more a sample, got {logits.dtype} of shape "
            f"{tuple(logits.shape)} for {count} samples",
        )
    if not isinstance(config.loss, str):
        plugins.check_loss(config.loss, logits)
    return logits.numel() // count * config.batch_size, no_logits


def _try(name: str, network: torch.nn.Module, batch: Tensor, rule: str) -> Tensor:
    try:
        result = network(batch)
    except torch.OutOfMemoryError:  # not an error of the network
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise invalid.value(name, f"{rule}, got {' '.join(str(error).split())}") from error
    if not isinstance(result, Tensor):
        raise invalid.type(name, f"must give a Tensor, got {type(result).__name__}")
    return result


@contextlib.contextmanager
def untouched(gan: GAN) -> Iterator[None]:
    """Restore buffers and random generators afterwards."""
    buffers = [(buffer, buffer.clone()) for buffer in gan.buffers()]
    devices = [gan.device] if gan.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            for buffer, saved in buffers:
                buffer.copy_(saved)
