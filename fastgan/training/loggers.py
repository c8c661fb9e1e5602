"""Callbacks that log metrics (a file, TensorBoard, Weights & Biases, MLflow) or keep the best weights."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fastgan._errors import Invalid
from fastgan._extras import need
from fastgan.models import GAN
from fastgan.nn import saved
from fastgan.training import checkpoint
from fastgan.training.callbacks import Callback, Run
from fastgan.training.plain import count_of

if TYPE_CHECKING:
    from fastgan.training.result import TrainResult


class Logger(Callback):
    """Base of loggers: `write` gets the means of the history's columns every so many iterations.

    Args:
        every: iterations between two calls; what is left at the end makes one more.

    Raises:
        ValueError: every below 1.
    """

    one_run = True

    def __init__(self, every: int = 100) -> None:
        self.every = count_of(type(self).__name__, "every", every)
        self._waiting: list[dict[str, np.ndarray]] = []

    def write(self, run: Run, means: dict[str, float]) -> None:
        """Keep the means since the last call; `run.step` says how many iterations are done."""

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        self._waiting.append(rows)
        if run.step % self.every == 0:
            self._write(run)

    def on_end(self, run: Run, result: TrainResult) -> None:
        self._write(run)

    def _write(self, run: Run) -> None:
        if self._waiting:
            names = [name for name in self._waiting[0] if name != "step"]
            means = {name: float(np.concatenate([part[name] for part in self._waiting]).mean()) for name in names}
            self._waiting.clear()
            self.write(run, means)


class JSONLines(Logger):
    """A line of JSON every so many iterations, added to a file: the step and the means; null where one is not finite.

    Args:
        path: of the file; created if missing.
        every: iterations between two lines.
    """

    def __init__(self, path: str | os.PathLike[str], every: int = 100) -> None:
        super().__init__(every)
        self.path = Path(path)

    def on_start(self, run: Run) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, run: Run, means: dict[str, float]) -> None:
        known = {name: value if math.isfinite(value) else None for name, value in means.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"step": run.step, **known}) + "\n")


class TensorBoard(Logger):
    """Scalars for TensorBoard every so many iterations, one curve a column of the history.

    Args:
        folder: of the event files.
        every: iterations between two points.

    Raises:
        ImportError: the package tensorboard is missing.
    """

    def __init__(self, folder: str | os.PathLike[str], every: int = 100) -> None:
        super().__init__(every)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("TensorBoard needs the package tensorboard: pip install tensorboard") from error
        self.folder = Path(folder)
        self._make: Callable[[str], Any] = SummaryWriter
        self._writer: Any = None

    def on_start(self, run: Run) -> None:
        self._writer = self._make(str(self.folder))

    def write(self, run: Run, means: dict[str, float]) -> None:
        for name, value in means.items():
            self._writer.add_scalar(name, value, run.step)
        self._writer.flush()  # an error, after which there is no `on_end`, leaves what was written

    def on_end(self, run: Run, result: TrainResult) -> None:
        super().on_end(run, result)
        self._writer.close()


class WandB(Logger):
    """Curves in Weights & Biases, one a column of the history, and the config of the run.

    Args:
        every: iterations between two points.
        run: of `wandb.init`, which stays open; None: a run is begun here and finished at the end.
        settings: of `wandb.init` if a run is begun here, such as project and name.

    Raises:
        ImportError: the package wandb is missing. ValueError: settings beside a run.
    """

    def __init__(self, every: int = 100, *, run: Any = None, **settings: Any) -> None:
        super().__init__(every)
        if run is not None and settings:
            raise Invalid("WandB").value("settings", f"must be left out beside a run, got {', '.join(settings)}")
        self._wandb = need("wandb", what="WandB", package="wandb")
        self._given, self._run, self._settings = run is not None, run, settings

    def on_start(self, run: Run) -> None:
        if not self._given:
            self._run = self._wandb.init(**self._settings)
        self._run.config.update(run.config.as_dict(), allow_val_change=True)  # a resumed run has it

    def write(self, run: Run, means: dict[str, float]) -> None:
        self._run.log(means, step=run.step)

    def on_end(self, run: Run, result: TrainResult) -> None:
        super().on_end(run, result)
        if not self._given:
            self._run.finish()


class MLflow(Logger):
    """Metrics in MLflow, one a column of the history, and the fields of the config as parameters.

    They go to the active run of `mlflow`, which stays open. If there is none, a run is begun here and ended after
    training; after an error the caller must call `mlflow.end_run("FAILED")`.

    Args:
        every: iterations between two points.
        settings: of `mlflow.start_run` if a run is begun here, such as run_name.

    Raises:
        ImportError: the package mlflow is missing.
    """

    def __init__(self, every: int = 100, **settings: Any) -> None:
        super().__init__(every)
        self._mlflow, self._settings, self._began = need("mlflow", what="MLflow", package="mlflow"), settings, False

    def on_start(self, run: Run) -> None:
        self._began = self._mlflow.active_run() is None
        if self._began:
            self._mlflow.start_run(**self._settings)
        if run.step == 0:  # parameters are written once
            self._mlflow.log_params(run.config.as_dict())

    def write(self, run: Run, means: dict[str, float]) -> None:
        self._mlflow.log_metrics(means, step=run.step)

    def on_end(self, run: Run, result: TrainResult) -> None:
        super().on_end(run, result)
        if self._began:
            self._mlflow.end_run()


class Best(Callback):
    """Keeps the weights with the best value of a metric, and ends the run when the metric no longer improves.

    Args:
        metric: function of a GAN that gives a number, such as a distance between `gan.sample(...)` and held-out data.
        every: iterations between two measurements.
        patience: measurements without improvement after which the run ends, as if interrupted; None: never.
        maximize: whether a larger value is better.
        folder: to which the best networks are also written, as a checkpoint; None: not written.

    Attributes:
        value, step: of the best measurement; NaN and 0 before the first. A value that is NaN is never the best.
        history: pairs (step, value) of all measurements.

    Raises:
        TypeError: metric is not a function. ValueError: every or patience below 1.
    """

    one_run = True

    def __init__(
        self,
        metric: Callable[[GAN], float],
        *,
        every: int,
        patience: int | None = None,
        maximize: bool = False,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        if not callable(metric):
            raise Invalid("Best").type("metric", f"must be a function of a GAN, got {metric!r}")
        self.metric, self.every, self.maximize = metric, count_of("Best", "every", every), maximize
        self.patience = None if patience is None else count_of("Best", "patience", patience)
        self.folder = None if folder is None else Path(folder)
        self.value, self.step = math.nan, 0
        self.history: list[tuple[int, float]] = []
        self._weights: dict[str, Tensor] = {}
        self._without = 0

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        if run.step % self.every:
            return
        value = self._measured(run.gan)
        self.history.append((run.step, value))
        sign = -1.0 if self.maximize else 1.0
        if math.isnan(value) or not (math.isnan(self.value) or sign * value < sign * self.value):
            self._without += 1
            run.stop = run.stop or self._without == self.patience
            return
        self.value, self.step, self._without = value, run.step, 0
        self._weights = {name: part.detach().clone() for name, part in run.gan.state_dict().items()}
        if self.folder is not None:
            meta = {"metric": value if math.isfinite(value) else str(value)}  # JSON has no infinity
            path = checkpoint.save(self.folder, run.gan, {}, step=run.step, meta=meta, keep=sys.maxsize)
            checkpoint.keep_only(path)

    def _measured(self, gan: GAN) -> float:
        value = self.metric(gan)
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            raise Invalid("Best").type("metric", f"must give one number, got {value!r:.80}") from None

    def restore(self, gan: GAN) -> None:
        """Copy the best weights into the measured networks, or into others of the same shapes.

        Raises:
            ValueError: nothing has been measured.
        """
        if not self._weights:
            raise Invalid("Best").value("there", "must be a measurement before restore, got none")
        saved.load_state(gan, self._weights)
