"""source.json in the run folder of a TabularGAN: the table, and the options of its training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from fastgan._files import write_atomically
from fastgan.apps.cli import runs
from fastgan.data import read_frame
from fastgan.training import Callback, Run

NAME = "source.json"


@dataclasses.dataclass(frozen=True)
class TableSource:
    """source.json of a run: the table, and what its columns are.

    Args:
        source: the table's file, an absolute path.
        n: how many of its first rows are trained on; None: all.
        header: whether its first line has names; None: as it looks.
        kinds, constraints, max_categories: the arguments of --kind, --constraint and --max-categories.
        options: of the TabularGAN.
    """

    source: str
    n: int | None = None
    header: bool | None = None
    kinds: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    max_categories: int | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, moved: str | None = None) -> TableSource:
        """Of a run folder; moved: where the table is now.

        Raises:
            FileNotFoundError: the table is not where it was. ValueError: the file is damaged.
        """
        try:
            body = json.loads((folder / NAME).read_bytes())
            lists = {name: tuple(map(str, body.get(name, ()))) for name in ("kinds", "constraints")}
            kept = cls(
                runs.absolute(moved or body["source"]),
                body["n"],
                body["header"],
                **lists,
                max_categories=body.get("max_categories"),
                options=dict(body.get("options", {})),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / NAME} must say what the run was trained on, got: {error}") from error
        if not Path(kept.source).is_file():
            hint = "where the table has moved, give its new path: --data, or SOURCE of train --resume"
            raise FileNotFoundError(f"no such file: {kept.source}; {hint}")
        return kept

    def table(self) -> Any:
        """What `TabularGAN.fit` gets: a whole Parquet file is read column by column."""
        path = Path(self.source)
        if self.n is None and self.header is None and path.suffix.lower() == ".parquet":
            return path
        frame = read_frame(path, header=self.header)
        return frame if self.n is None else frame.head(self.n)

    def write(self, folder: Path) -> None:
        """Into a run folder."""
        write_atomically(folder / NAME, [(json.dumps(dataclasses.asdict(self), indent=1) + "\n").encode()])


class KeepSource(Callback):
    """Writes source.json once training has accepted everything."""

    reads_networks = False

    def __init__(self, source: TableSource) -> None:
        self._source = source

    def on_start(self, run: Run) -> None:
        assert run.run_dir is not None
        self._source.write(run.run_dir)
