"""train(): one GAN, from its arguments to its result."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from fastgan._errors import Invalid
from fastgan._files import folder_at
from fastgan._ranks import Ranks, ranks
from fastgan.models import GAN
from fastgan.training import networks
from fastgan.training.callbacks import Callback, check_callbacks
from fastgan.training.config import TrainConfig
from fastgan.training.display import progress as display
from fastgan.training.interrupt import Interrupt
from fastgan.training.result import TrainResult
from fastgan.training.session import ChunkSizer, Prepared, Session, check_together, place, prepare, rows_for

log = logging.getLogger("fastgan")

_PATIENCE = datetime.timedelta(minutes=30)  # of a process that waits for another one, as torch's own


@torch.inference_mode(False)  # also under no_grad: the caller's mode is not that of an update
def train(
    gan: GAN,
    data: Any,
    config: TrainConfig,
    *,
    callbacks: Sequence[Callback] = (),
    resume: bool | str | os.PathLike[str] | None = None,
    change: Collection[str] = (),
    run_dir: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> TrainResult:
    """Train both networks in place by Algorithm 1.

    The networks keep their mode (train mode, unless you called `eval`). The same seed gives the same bits, and a
    resumed run gives the bits of an uninterrupted one. The bits of the compiled engines do not depend on the number of
    threads; those of the eager engine do, as torch's own: a resumed run uses the number of threads in its checkpoint.

    Under torchrun, or in another process group of torch.distributed, all processes train one GAN: each has its part of
    every batch, and their gradients are averaged. The result is that of one process with the whole batch, except for
    operations on a batch as a whole, such as batch normalisation: docs/several-processes.md. Rank 0 alone writes
    `run_dir`, shows progress and calls callbacks.

    Args:
        gan: the networks and the prior.
        data: floating Tensor or array (n, ...), memory-mapped too, a DataFrame, a `fastgan.data.Dataset` or another
            object with a length and `rows(index)`, or a map-style dataset of PyTorch; may be on the CPU while the
            networks are on a GPU. Or a stream, for the eager engine: a `DataLoader`, an `IterableDataset`, an iterable
            of batches of `config.batch_size * config.pack` rows, in its own order, without resuming.
        config: how to train.
        callbacks: called after each chunk of iterations, in order.
        resume: True to continue from the newest checkpoint of `run_dir`; or the path of a run folder or checkpoint.
        change: what the config may change on a resume: ("lr",), the learning rates of both optimisers. Another change
            that affects the results is refused.
        run_dir: folder for history.csv and checkpoint/; None writes nothing.
        progress: show the progress on standard error: a bar on a terminal, ten lines elsewhere, such as in a notebook.

    Returns:
        TrainResult. After Ctrl-C (or SIGTERM, with a run folder) the state is saved and `interrupted` is
        True.

    Raises:
        TypeError, ValueError: an argument that breaks its rule, before anything runs.
        CheckpointError: nothing to resume from, or a damaged or different checkpoint.
        FloatingPointError: a loss or a logit is not finite and config.nonfinite is "raise".
        OSError: the run folder cannot be written.

    Source: Goodfellow et al. (2014), Algorithm 1.
    """
    if not isinstance(gan, GAN):
        raise Invalid("train").type("gan", f"must be a fastgan.GAN, got {type(gan).__name__}")
    if not isinstance(config, TrainConfig):
        raise Invalid("train").type("config", f"must be a fastgan.TrainConfig, got {type(config).__name__}")
    callbacks = check_callbacks(Invalid("train"), callbacks)
    folder = None if run_dir is None else folder_at(Invalid("train"), "run_dir", run_dir)
    place(gan, config)
    with ranks(_PATIENCE, gan.device) as group:
        if group.size > 1:
            check_together(config, group)
        callbacks = callbacks if group.is_first else ()
        with contextlib.closing(rows_for(data, gan, config, group)) as rows, contextlib.ExitStack() as at_end:
            if group.size > 1:
                prepared = _together(
                    lambda: prepare(gan, rows, config, folder, resume, change=change, ranks=group), group
                )
                _check_rows(rows.n, group)
                group.copy_from_first_([*gan.parameters(), *gan.buffers()])  # else each would train a model of its own
            else:
                prepared = prepare(gan, rows, config, folder, resume, change=change)
            if config.engine == "auto" and prepared.engine.name == "eager":
                log.info("train: the eager engine runs: %s", prepared.run.engine_reason)
            if prepared.run.no_logits is not None:
                log.warning("train: %s", networks.advice(prepared.run.no_logits))
            displays = at_end.enter_context(display(config.steps, quiet=not (progress and group.is_first)))
            interrupt = at_end.enter_context(Interrupt(terminate=folder is not None))
            session = _begin(prepared, [*callbacks, *displays], interrupt, group)
            at_end.callback(session.close)
            session.start()
            sizer = ChunkSizer()
            while not group.any(not session.goes_on):
                started, count = time.perf_counter(), group.first(session.until_mark(sizer.iterations))
                # Of several processes none may stop alone: they look together, between chunks.
                table = session.engine.begin(session.run.step, count, lambda: interrupt.requested and group.size == 1)()
                session.run.held = 0.0
                session.take(table)
                sizer.learn(len(table), time.perf_counter() - started - session.run.held)
            result = session.finish()
        session.announce(result)
        return result


def _check_rows(mine: int, group: Ranks) -> None:
    """Each rank takes its part of the same order of the rows: of other rows, some would come twice and some never."""
    for rank, other in enumerate(group.gather(lambda: mine, "train")):
        if other != mine:
            got = f"{mine:,} rows and {other:,} of rank {rank}"
            raise Invalid("train").value("data", f"must be the same in all processes, got {got}")


def _together(work: Callable[[], Prepared], group: Ranks) -> Prepared:
    """Work that must succeed on every rank before any continues; rank 0 begins to write only then."""
    done: list[Prepared] = []
    group.gather(lambda: done.append(work()), "train")
    return done[0]


def _begin(prepared: Prepared, callbacks: Sequence[Callback], interrupt: Interrupt, group: Ranks) -> Session:
    """The session of this rank; rank 0 cleans the folder when the others have read from it."""
    if group.is_first:
        group.any(False)
        return Session(prepared, callbacks, interrupt)
    session = Session(prepared, callbacks, interrupt)
    group.any(False)
    return session
