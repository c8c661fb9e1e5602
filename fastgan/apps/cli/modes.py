"""Which modes of the data a run's generator has found, where they are known."""

from __future__ import annotations

from typing import Any

from fastgan import evaluation
from fastgan.apps.cli.runs import RunConfig
from fastgan.data import Dataset
from fastgan.models import GAN

SAMPLES = 2500


def modes_found(config: RunConfig, gan: GAN, dataset: Dataset) -> evaluation.ModeCoverage | None:
    """The mode coverage of 2,500 samples; None if modes are not known, or samples are not finite."""
    if dataset.centres is None or not dataset.std or len(dataset.centres) < 2:
        return None
    samples = config.restore(gan.sample(SAMPLES, seed=0, device="cpu"))
    return evaluation.mode_coverage(samples, dataset.centres, dataset.std) if bool(samples.isfinite().all()) else None


def as_dict(found: evaluation.ModeCoverage | None) -> dict[str, Any] | None:
    """For --json."""
    return None if found is None else {"covered": found.covered, "of": found.modes, "near": found.high_quality}
