"""The members of a population that one process trains: many at once, a thread each, or one after another."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastgan.models import GAN
from fastgan.training import checkpoint
from fastgan.training.callbacks import Callback
from fastgan.training.checkpoint import CheckpointError
from fastgan.training.config import TrainConfig
from fastgan.training.history import COLUMNS
from fastgan.training.interrupt import Interrupt
from fastgan.training.members import Member
from fastgan.training.rows import Rows
from fastgan.training.run import Engine, Pace, Prepared, Session, place, prepare, rows_for

log = logging.getLogger("fastgan")

_A_THREAD = 4  # members under way for each thread: a thread whose core somebody else uses takes fewer of them
Kind = tuple[type[Engine], torch.device, torch.dtype]  # members of a kind train in one call
Advance = Callable[[list[Session], list[int]], list[np.ndarray]]


@dataclass(frozen=True)
class Outcome:
    """What became of a member.

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


class Share:
    """Trains members to their end; a few are under way at a time, so the engines of the others take no memory.

    Args:
        members: to be trained here.
        build: gives the networks of a seed.
        data, callbacks, resume, threads: as for `train_population`.
        folder: its run_dir.
        table: (columns, all members, steps), gets the history of each member.
    """

    def __init__(
        self,
        members: list[Member],
        build: Callable[[int], GAN],
        data: Any,
        callbacks: Sequence[Callback],
        folder: Path | None,
        resume: bool,
        threads: int,
        table: np.ndarray,
    ) -> None:
        self.members, self.build, self.data, self.callbacks = members, build, data, callbacks
        self.folder, self.resume, self.threads, self.table = folder, resume, threads, table
        self.gans: dict[int, GAN] = {}
        self._parameters: set[int] = set()  # of all members, by identity
        self._rows: dict[tuple[torch.device, torch.dtype], Rows] = {}
        self._outcomes: list[Outcome] = []
        self._interrupt = Interrupt(terminate=folder is not None)

    def train(self) -> list[Outcome]:
        """Build and check all members, then train them."""
        if self.resume:
            self._check_resume()
        kinds: dict[Kind, list[Member]] = {}
        for member in self.members:
            kinds.setdefault(self._first_look(member), []).append(member)
        alone = sum(len(members) for (engine, *_), members in kinds.items() if engine.members_a_launch == 1)
        if alone:
            log.info("train_population: %d of %d members train one after another", alone, len(self.members))
        with self._interrupt:
            for (engine, *_), members in kinds.items():
                if engine.members_a_launch == 1:
                    self._run(members, 1, self._by_itself)
                else:
                    self._run(members, engine.members_a_launch or _A_THREAD * self.threads, self._side_by_side)
        return self._outcomes

    # ------------------------------------------------------------ before anything runs

    def _check_resume(self) -> None:
        if self.folder is None:
            raise ValueError("train_population: run_dir must be given where resume is True, got None")
        if not any(checkpoint.steps(path) for path in self.folder.glob("member-*/checkpoint")):
            raise CheckpointError(f"checkpoint: no member has one in {self.folder}")

    def _first_look(self, member: Member) -> Kind:
        """Build the networks and go through every check; the engine found is given up again."""
        gan = self.build(member.config.seed)
        own = {id(p) for p in gan.parameters()}
        if own & self._parameters:
            raise ValueError("train_population: make_gan must give a new GAN at each call, got shared parameters")
        self._parameters |= own
        place(gan, member.config)
        self.gans[member.number] = gan
        return type(self._prepare(member).engine), gan.device, gan.dtype

    def _prepare(self, member: Member) -> Prepared:
        gan, folder = self.gans[member.number], self._folder_of(member)
        held = folder is not None and checkpoint.steps(folder / "checkpoint")
        prepared = prepare(gan, self._rows_for(gan, member.config), member.config, folder, bool(self.resume and held))
        prepared.run.member = member.number
        return prepared

    def _folder_of(self, member: Member) -> Path | None:
        return None if self.folder is None else self.folder / f"member-{member.number:04d}"

    def _rows_for(self, gan: GAN, config: TrainConfig) -> Rows:
        """The data, checked and held once for all members that compute alike."""
        kind = (gan.device, gan.dtype)
        if kind not in self._rows:
            self._rows[kind] = rows_for(self.data, gan, config)
        return rows_for(self._rows[kind], gan, config)

    # ------------------------------------------------------------ training

    def _run(self, members: list[Member], width: int, advance: Advance) -> None:
        """Train members, at most `width` at a time; whoever ends makes room for the next."""
        waiting, active, pace = deque(members), list[Session](), Pace()
        try:
            while True:
                while waiting and len(active) < width and not self._interrupt.requested:
                    self._enter(waiting.popleft(), active)
                if not active:
                    break
                started = time.perf_counter()
                tables = advance(active, [session.until_mark(pace.iterations) for session in active])
                active[:] = [s for s, table in zip(active, tables, strict=True) if self._take(s, table)]
                pace.learn(max(map(len, tables)), time.perf_counter() - started)
        finally:
            for session in active:
                session.close()
        for member in waiting:
            self._leave_out(member)

    def _side_by_side(self, sessions: list[Session], counts: list[int]) -> list[np.ndarray]:
        engines: Any = [session.engine for session in sessions]
        firsts = [session.run.step for session in sessions]
        tables: list[np.ndarray] = engines[0].advance_all(engines, firsts, counts, self.threads)
        return tables

    def _by_itself(self, sessions: list[Session], counts: list[int]) -> list[np.ndarray]:
        (session,), (count,) = sessions, counts
        return [session.engine.advance(session.run.step, count, lambda: self._interrupt.requested)]

    def _enter(self, member: Member, active: list[Session]) -> None:
        session = Session(self._prepare(member), self.callbacks, self._interrupt)
        session.start()
        if session.goes_on:
            active.append(session)
        else:
            self._finish(session)

    def _take(self, session: Session, metrics: np.ndarray) -> bool:
        """Whether the member goes on."""
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
        run, columns = session.run, session.history.columns()
        for place_, name in zip(self.table, COLUMNS[1:], strict=True):
            place_[run.member, columns["step"] - 1] = columns[name]
        self._outcomes.append(
            Outcome(run.member, session.first, run.step, run.engine, run.engine_reason, interrupted, failed)
        )

    def _leave_out(self, member: Member) -> None:
        """A member that an interruption leaves no time for: as its last checkpoint has it, or as it was built."""
        prepared = self._prepare(member)
        if prepared.source is not None:
            return self._finish(Session(prepared, (), self._interrupt))
        run = prepared.run
        self._outcomes.append(Outcome(member.number, 0, 0, run.engine, run.engine_reason, interrupted=True))
        return None
