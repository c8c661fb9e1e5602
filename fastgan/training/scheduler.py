"""Scheduler of a population's members in one process: as many at once as their engine supports, then the others."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fastgan._errors import Invalid
from fastgan._files import folder_at, sweep
from fastgan._run_folder import checkpoints, has_checkpoints, of_member
from fastgan.models import GAN
from fastgan.training import networks
from fastgan.training.callbacks import Callback
from fastgan.training.checkpoint import CheckpointError
from fastgan.training.config import TrainConfig
from fastgan.training.engines import Engine, begin_all
from fastgan.training.history import COLUMNS
from fastgan.training.interrupt import Interrupt
from fastgan.training.members import Member
from fastgan.training.rows import Minibatches
from fastgan.training.session import ChunkSizer, Prepared, Session, place, prepare, rows_for

log = logging.getLogger("fastgan")

GroupKey = tuple[type[Engine], torch.device, torch.dtype]  # members of a kind train in one call


class Call(NamedTuple):
    """Iterations of some members that have been begun."""

    sessions: list[Session]
    finish: Callable[[], list[np.ndarray]]  # waits for them and gives their metrics
    begun: float


@dataclass
class Group:
    """Members that train in one call: those not started, those in progress, and those paused for lack of memory.

    Args:
        waiting: members not started.
        width: members of a call at most.
    """

    waiting: deque[Member]
    width: int
    under_way: deque[Call] = field(default_factory=deque)
    resting: deque[Session] = field(default_factory=deque)
    sizer: ChunkSizer = field(default_factory=ChunkSizer)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a member.

    Args:
        number: of the member.
        first, step: iterations done before and after this call.
        engine, engine_reason: which ran, and why.
        interrupted: whether it ended early, or never began.
        failed: what was not finite, or None.
    """

    number: int
    first: int
    step: int
    engine: str
    engine_reason: str
    interrupted: bool
    failed: str | None = None


class Scheduler:
    """Trains members to their end; only a few are in progress at a time, so the engines of the others take no memory.

    Args:
        members: to be trained here.
        build: gives the networks of a member.
        data, callbacks, resume, change, threads: as for `train_population`.
        folder: its run_dir.
        table: (columns, all members, steps), gets the history of each member.
    """

    def __init__(
        self,
        members: list[Member],
        build: Callable[[Member], GAN],
        data: Any,
        callbacks: Sequence[Callback],
        folder: Path | None,
        resume: bool,
        change: Collection[str],
        threads: int,
        table: np.ndarray,
    ) -> None:
        self.members, self.build, self.data, self.callbacks = members, build, data, callbacks
        self.folder, self.resume, self.change, self.threads, self.table = folder, resume, change, threads, table
        self.gans: dict[int, GAN] = {}
        self._parameters: set[int] = set()  # of all members, by identity
        self._rows: dict[tuple[torch.device, torch.dtype], Minibatches] = {}
        self._outcomes: list[Outcome] = []
        self._open: set[Session] = set()  # of the members that have begun and not ended
        self._no_logits: str | None = None  # of the first member whose discriminator gives none
        self._interrupt = Interrupt(terminate=folder is not None)

    def train(self) -> list[Outcome]:
        """Build and check all members, then train them."""
        if self.resume:
            self._check_resume()
        kinds: dict[GroupKey, list[Member]] = {}
        for member in self.members:
            kinds.setdefault(self._first_look(member), []).append(member)
        one = {engine for engine, *_ in kinds if engine.members_a_call(self.threads) == engine.calls_at_once == 1}
        alone = sum(len(members) for (engine, *_), members in kinds.items() if engine in one)
        if alone:
            log.info("train_population: %d of %d members train one after another", alone, len(self.members))
        if self._no_logits is not None:
            log.warning("train_population: %s", networks.advice(self._no_logits))
        if self.folder is not None:
            sweep(self.folder)
        with self._interrupt:
            for (engine, *_), members in kinds.items():
                self._run(members, engine.members_a_call(self.threads), engine.calls_at_once)
        return self._outcomes

    # ------------------------------------------------------------ before anything runs

    def _check_resume(self) -> None:
        if self.folder is None:
            raise Invalid("train_population").value("run_dir", "must be given where resume is True, got None")
        if not has_checkpoints(self.folder):
            raise CheckpointError(f"checkpoint: no member has one in {self.folder}")

    def _first_look(self, member: Member) -> GroupKey:
        """Build the networks and run every check; the engine is discarded."""
        gan = self.build(member)
        own = {id(p) for p in gan.parameters()}
        if own & self._parameters:
            raise Invalid("train_population").value(
                "make_gan", "must give a new GAN at each call, got shared parameters"
            )
        self._parameters |= own
        place(gan, member.config)
        self.gans[member.number] = gan
        prepared = self._prepare(member)
        self._no_logits = self._no_logits or prepared.run.no_logits
        return type(prepared.engine), gan.device, gan.dtype

    def _prepare(self, member: Member, memory_is_shared: bool = False) -> Prepared:
        gan = self.gans[member.number]
        folder = None if self.folder is None else self._folder_of(member)
        resumes = bool(self.resume and folder is not None and checkpoints(folder / "checkpoint"))
        rows = self._rows_for(gan, member.config)
        change = self.change if resumes else ()
        prepared = prepare(gan, rows, member.config, folder, resumes, memory_is_shared, change)
        prepared.run.member = member.number
        return prepared

    def _folder_of(self, member: Member) -> Path:
        assert self.folder is not None
        folder = of_member(self.folder, member.number)
        folder_at(Invalid("train_population"), "run_dir", folder / "checkpoint")
        return folder

    def _rows_for(self, gan: GAN, config: TrainConfig) -> Minibatches:
        """The data, checked and held once for all members that compute alike."""
        kind = (gan.device, gan.dtype)
        if kind not in self._rows:
            self._rows[kind] = rows_for(self.data, gan, config)
        return rows_for(self._rows[kind], gan, config)

    # ------------------------------------------------------------ training

    def _run(self, members: list[Member], width: int, calls: int) -> None:
        """Train members, at most `width` in each of `calls` at a time; a member that ends is replaced by the next.

        The host finishes one call after the other, while the device runs the rest.
        """
        group = Group(deque(members), width)
        try:
            for _ in range(calls):
                self._go_on(group, [])
            while group.under_way:
                self._go_on(group, self._look(group))
        finally:
            try:
                for call in group.under_way:  # after an error, no network may change any more
                    call.finish()
            finally:
                for session in self._open:
                    session.close()
        for member in group.waiting:
            self._leave_out(member)

    def _go_on(self, group: Group, sessions: list[Session]) -> None:
        """Start the next call of these members, and of others if memory allows."""
        while len(sessions) < group.width and (
            session := self._next(group, memory_is_shared=bool(sessions or group.under_way))
        ):
            if session.goes_on:
                sessions.append(session)
            else:
                self._finish(session)
        if not sessions:
            return
        counts, begun = [session.until_mark(group.sizer.iterations) for session in sessions], time.perf_counter()
        try:
            group.under_way.append(Call(sessions, self._begin(sessions, counts), begun))
        except torch.OutOfMemoryError:
            if not group.under_way:
                raise
            group.resting.extend(sessions)  # until one of the others has ended

    def _begin(self, sessions: list[Session], counts: list[int]) -> Callable[[], list[np.ndarray]]:
        engines = [session.engine for session in sessions]
        firsts = [session.run.step for session in sessions]
        return begin_all(engines, firsts, counts, self.threads, lambda: self._interrupt.requested)

    def _look(self, group: Group) -> list[Session]:
        """Wait for the call that was begun first; returns its members that continue."""
        sessions, finish, begun = group.under_way.popleft()
        tables = finish()
        going = [session for session, table in zip(sessions, tables, strict=True) if self._take(session, table)]
        group.sizer.learn(max(map(len, tables)), time.perf_counter() - begun)
        return going

    def _next(self, group: Group, memory_is_shared: bool) -> Session | None:
        """The next session: a paused one, or a new one; None if there is neither, or no memory for it."""
        if group.resting:
            return group.resting.popleft()
        if not group.waiting or self._interrupt.requested:
            return None
        try:
            prepared = self._prepare(group.waiting[0], memory_is_shared)
        except torch.OutOfMemoryError:
            if memory_is_shared:
                return None
            raise
        group.waiting.popleft()
        session = Session(prepared, self.callbacks, self._interrupt)
        self._open.add(session)
        session.start()
        return session

    def _take(self, session: Session, metrics: np.ndarray) -> bool:
        """Whether the member continues."""
        try:
            session.take(metrics)
        except FloatingPointError as error:
            self._fail(session, error)
            return False
        if session.goes_on:
            return True
        self._finish(session)
        return False

    def _finish(self, session: Session) -> None:
        try:
            result = session.finish()
        except FloatingPointError as error:
            return self._fail(session, error)
        self._note(session, result.interrupted)
        session.announce(result)

    def _fail(self, session: Session, error: FloatingPointError) -> None:
        self._note(session, interrupted=False, failed=str(error))
        session.fail(str(error))

    def _note(self, session: Session, interrupted: bool, failed: str | None = None) -> None:
        session.close()
        self._open.discard(session)
        run, columns = session.run, session.history.columns()
        for place_, name in zip(self.table, COLUMNS[1:], strict=True):
            place_[run.member, columns["step"] - 1] = columns[name]
        self._outcomes.append(
            Outcome(run.member, session.first, run.step, run.engine, run.engine_reason, interrupted, failed)
        )

    def _leave_out(self, member: Member) -> None:
        """Record a member that did not start before an interruption: as in its last checkpoint, or as built."""
        prepared = self._prepare(member)
        if prepared.source is not None:
            return self._finish(Session(prepared, (), self._interrupt))
        run = prepared.run
        self._outcomes.append(Outcome(member.number, 0, 0, run.engine, run.engine_reason, interrupted=True))
        return None
