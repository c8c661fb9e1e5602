"""The files of a run folder that the library writes and its applications look for."""

from __future__ import annotations

from pathlib import Path

CONFIG, CONFIG_FORMAT = "config.json", 1
LOCK = ".lock"
TABLE, WEIGHTS = "table.json", "weights.safetensors"  # of a TabularGAN


def checkpoints(folder: Path) -> list[Path]:
    """The JSON files of a checkpoint folder, oldest first."""
    return sorted(folder.glob("step-" + "[0-9]" * 12 + ".json"))
