"""The folder of a TabularGAN: table.json and weights.safetensors, or checkpoints until the training has ended."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from fastgan._errors import Invalid
from fastgan._files import write_atomically
from fastgan._run_folder import TABLE, WEIGHTS, checkpoints
from fastgan.models.gan import GAN
from fastgan.nn import saved
from fastgan.training import TrainConfig, checkpoint
from fastgan.training.callbacks import Callback, Run
from fastgan.training.history import Columns, as_columns, read_rows
from fastgan.training.sampled import SampledRows

if TYPE_CHECKING:
    from .gan import TabularGAN

FORMAT = 2  # 1, up to fastgan 0.2.0: other modes of numbers, and no moving average
_FITTED = ("squash", "body")  # of a column of numbers; another computer may fit them to other last bits
_FREE_FIELDS = ("epochs", "steps", "checkpoint_every", "engine")  # what a resume may change


def describe(gan: TabularGAN, counts: list[list[int]], fingerprint: str | None, interrupted: bool) -> dict[str, Any]:
    """The contents of table.json: all that a TabularGAN is, but its weights and its history."""
    return {
        "format": FORMAT,
        "config": dataclasses.asdict(gan.config),
        "transformer": gan.transformer.as_dict(),
        "constraints": [rule.as_dict() for rule in gan.constraints],
        "counts": counts,
        "fingerprint": fingerprint,
        "interrupted": interrupted,
    }


def write(gan: TabularGAN, folder: Path, body: dict[str, Any]) -> None:
    """Both files.

    Raises:
        OSError: a file cannot be written.
    """
    assert gan.gan is not None
    if folder.exists() and not folder.is_dir():
        raise Invalid("save")(FileExistsError, f"folder must be new or a folder, got the file {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {
        f"gan.{name}": value.detach().cpu().contiguous() for name, value in gan.gan.state_dict().items()
    }
    tensors |= {f"history.{name}": torch.from_numpy(np.ascontiguousarray(x)) for name, x in gan.history.items()}
    write_atomically(folder / WEIGHTS, [safetensors.torch.save(tensors)])
    _write_model(folder, body)


def _write_model(folder: Path, body: dict[str, Any]) -> None:
    write_atomically(folder / TABLE, [json.dumps(body, indent=1).encode()])


def read_state(gan: GAN, folder: Path) -> Columns:
    """Take over the weights, or those of the newest checkpoint of a training that has not ended; gives the history.

    Raises:
        KeyError, ValueError, RuntimeError, OSError, SafetensorError: a file is missing or damaged.
    """
    if (folder / WEIGHTS).is_file():
        tensors = safetensors.torch.load((folder / WEIGHTS).read_bytes())
        prefix = saved.PREFIX
        of_gan = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
        saved.load_state(gan, of_gan)
        prefix = "history."
        return {name.removeprefix(prefix): x.numpy() for name, x in tensors.items() if name.startswith(prefix)}
    newest = checkpoint.load(folder)
    newest.restore(gan)
    return of_every_step(as_columns(read_rows(folder / "history.csv", newest.step)), newest.step)


def of_every_step(history: Columns, steps: int) -> Columns:
    """A number for each of so many iterations and each column but the step; NaN where the history lost its row."""
    found = {name: np.full(steps, np.nan) for name in history if name != "step"}
    for name, values in found.items():
        values[history["step"] - 1] = history[name]
    return found


def fingerprint(rows: SampledRows) -> str:
    """A sha256 of the encoded table."""
    digest = hashlib.sha256()
    for tensor in (rows.table.scalars, rows.table.codes):
        digest.update(np.ascontiguousarray(tensor.numpy()).data)
    return digest.hexdigest()


def seed_of_columns(folder: Path, otherwise: int) -> int:
    """The seed that fitted the columns of a training, which in a population is not that of its networks.

    Args:
        folder: of the training.
        otherwise: what is given where no table.json says it.
    """
    try:
        return int(json.loads((folder / TABLE).read_bytes())["transformer"]["seed"])
    except (OSError, ValueError, KeyError, TypeError):  # `check_same_table` says what is wrong
        return otherwise


def check_same_table(folder: Path, body: dict[str, Any], invalid: Invalid) -> None:
    """A resumed training must be of the same table, with the same options.

    The rows of two tables whose columns have other names, places or labels can be encoded to the same bits.

    Args:
        folder: of the training that is resumed.
        body: of table.json as it would be written now.
        invalid: makes the errors.

    Raises:
        FileNotFoundError, ValueError: the folder has none, or that of another table, or other options.
    """
    try:
        stored = json.loads((folder / TABLE).read_bytes())
        old, format = stored["config"], stored["format"]
        same = [_identity(one) for one in (stored, json.loads(json.dumps(body)))]
    except FileNotFoundError:
        raise invalid(FileNotFoundError, "run_dir", f"must have a {TABLE} to be resumed, got {folder}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise invalid.value("run_dir", f"must have a whole {TABLE} to be resumed, got {folder} ({error})") from error
    if format != FORMAT:
        rule = f"must be of format {FORMAT} to be resumed, got format {format!r}, which other versions of fastgan write"
        raise invalid.value("run_dir", rule)
    new = json.loads(json.dumps(body["config"]))  # with lists for tuples
    for name in sorted(new.keys() - _FREE_FIELDS):
        if old.get(name, new[name]) != new[name]:
            raise invalid.value(name, f"must be {old[name]!r} as in {folder / TABLE}, got {new[name]!r}")
    if same[0] != same[1]:
        raise invalid.value("table", f"must hold the rows that {folder} was trained on, got others")


def as_begun(folder: Path | None, config: TrainConfig) -> TrainConfig:
    """The config with the moving average of the run in a folder, whose length chose its decay; as it is where none is.

    Raises:
        CheckpointError: a damaged checkpoint.
    """
    if folder is None or not checkpoints(folder / "checkpoint"):
        return config
    return dataclasses.replace(config, ema_decay=checkpoint.load_meta(folder)["config"].get("ema_decay"))


def _identity(body: dict[str, Any]) -> tuple[Any, ...]:
    """What the table of a table.json is known by: its encoded rows, and its columns but for the fit of numbers."""
    columns = body["transformer"]["columns"]
    return body["fingerprint"], [{name: x for name, x in one.items() if name not in _FITTED} for one in columns]


class KeepModel(Callback):
    """Writes table.json once `fastgan.train` has accepted everything; the checkpoints are the weights from then on.

    Args:
        body: gives that of table.json for the number of a member, 0 of a GAN alone.
    """

    reads_networks = False

    def __init__(self, body: Callable[[int], dict[str, Any]]) -> None:
        self._body = body

    def on_start(self, run: Run) -> None:
        assert run.run_dir is not None
        _write_model(run.run_dir, self._body(run.member))
        (run.run_dir / WEIGHTS).unlink(missing_ok=True)
