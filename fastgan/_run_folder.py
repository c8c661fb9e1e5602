"""The files of a run folder that the library writes and its applications look for."""

from __future__ import annotations

from pathlib import Path

CONFIG, CONFIG_FORMAT = "config.json", 1
LOCK = ".lock"
TABLE, WEIGHTS = "table.json", "weights.safetensors"  # of a TabularGAN


def of_member(folder: Path, number: int) -> Path:
    """The run folder of a member in the folder of its population."""
    return folder / f"member-{number:04d}"


def has_checkpoints(folder: Path) -> bool:
    """Whether a member of a population has a checkpoint."""
    return any(map(checkpoints, folder.glob("member-*/checkpoint")))


def checkpoints(folder: Path) -> list[Path]:
    """The JSON files of a checkpoint folder, oldest first."""
    return sorted(folder.glob("step-" + "[0-9]" * 12 + ".json"))
