"""What a benchmark leaves behind: its records as JSON, each written as soon as there is one, a picture, and notes."""

from __future__ import annotations

import io
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastgan._files import write_atomically
from fastgan.apps.bench import machine
from fastgan.apps.bench.harness import ResultsDiffer, Settings


def plain(value: Any) -> Any:
    """Times and ratios to six digits; infinities and NaN, which JSON has not, as words."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


class Report:
    """The output of a benchmark: JSON, a picture, their paths, and a note on disturbances.

    Each record is on disk as soon as it is added, so that what ends a run costs only what was not yet measured.

    Args:
        name: of the files.
        settings: of the run.
        key: under which the JSON has the records.
    """

    quick = "QUICK RUN: it checks that the benchmark works; its times are not measurements."

    def __init__(self, name: str, settings: Settings, key: str = "cases") -> None:
        self.name, self.settings, self.key = name, settings, key
        self.load_before = machine.load_average()
        self.started = machine.moment()["started"]
        self.content: dict[str, Any] = {}
        self.records: list[dict[str, Any]] = []
        self.refused: list[str] = []
        self._machine: dict[str, Any] = {}

    @property
    def machine(self) -> dict[str, Any]:
        """What the figures depend on, described once."""
        self._machine = self._machine or machine.describe()
        return self._machine

    @property
    def stem(self) -> Path:
        quick = "-quick" if self.settings.quick else ""
        return self.settings.out / f"{self.name}-{self.settings.machine}{quick}"

    @property
    def path(self) -> Path:
        """The path of the JSON file."""
        return self.stem.with_name(self.stem.name + ".json")

    @property
    def failures(self) -> list[str]:
        """What has no time: sides that departed from a float64 run, and whole cases that broke down."""
        sides = [f"{r.get('case', '')}: {why}" for r in self.records for why in r.get("wrong", {}).values()]
        return [*sides, *self.refused]

    def resume(self, *keys: str) -> None:
        """Take over the records of an earlier run of the same name, and these keys of its content; none without it."""
        if self.path.exists():
            earlier = json.loads(self.path.read_text())
            self.records = earlier.get(self.key, [])
            self.content |= {key: earlier[key] for key in keys if key in earlier}

    def add(self, record: dict[str, Any], instead_of: int | None = None) -> None:
        """A finished case, which is written at once.

        Args:
            record: with the moment it was begun, or else it is given that of the run.
            instead_of: the number of the record that it replaces.
        """
        record = {"started": self.started, "revision": machine.revision()} | record
        place = len(self.records) if instead_of is None else instead_of
        self.records[place : place + 1] = [record]
        self.save()

    def save(self) -> Path:
        """Write the JSON, also of what is not finished; where it is."""
        settings = {k: v for k, v in asdict(self.settings).items() if k != "out"}
        record = {
            "benchmark": self.name,
            "started": self.started,
            "command": Path(sys.argv[0]).name,
            "settings": settings,
            "machine": self.machine,
            "load average": {"before": self.load_before, "after": machine.load_average()},
            **self.content,
            self.key: self.records,
            "no time": self.failures,
        }
        text = json.dumps(plain(record), indent=1, allow_nan=False) + "\n"
        self.settings.out.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, [text.encode()])
        return self.path

    def write(self, content: Mapping[str, Any], figure: Any) -> None:
        """Write both files, and say so on the terminal."""
        self.content |= content
        path = self.save()
        print(f"\nwritten: {path}")
        if figure is not None:
            picture = io.BytesIO()
            figure.savefig(picture, format="png", dpi=150)
            write_atomically(path.with_suffix(".png"), [picture.getvalue()])
            print(f"picture: {path.with_suffix('.png')}")

    def revisions(self) -> str:
        """One line on records that were measured at different revisions; empty if all are of one."""
        counts = Counter(str(record.get("revision") or "an unknown one") for record in self.records)
        listed = ", ".join(f"{revision} ({count})" for revision, count in counts.items())
        return f"The rows are of different revisions: {listed}." if len(counts) > 1 else ""

    def disturbances(self) -> str:
        """One line on what makes these figures untrustworthy; empty if nothing does."""
        if self.settings.quick:
            return self.quick
        load = self.load_before
        if load and load[0] > 0.5:
            return f"The machine was not idle: load average {load[0]} before the run. Trust these figures accordingly."
        return ""


def guarded(name: str, body: Callable[[], Report | None]) -> int:
    """Run a benchmark; a line on stderr for all that has no time, and then exit code 1.

    A body that raises ResultsDiffer has nothing to report: no time is printed, no file written.
    """
    try:
        report = body()
    except ResultsDiffer as failure:
        print(f"{name}: results differ, so no result is given. {failure}", file=sys.stderr)
        return 1
    failures = report.failures if report else []
    for why in failures:
        print(f"{name}: no time: {why}", file=sys.stderr)
    return 1 if failures else 0
