"""The side of bench_tabular.py that needs ctgan and sdmetrics, run by an interpreter that has them; prints JSON.

python ctgan_side.py train TABLE.csv SAMPLES.csv '{"epochs": 30, "batch_size": 500, "pack": 10, ...}'
python ctgan_side.py score TABLE.csv SAMPLES.csv '{"discrete": [...]}'
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import pandas as pd
import torch

CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


def train(frame: pd.DataFrame, out: str, options: dict[str, Any]) -> dict[str, Any]:
    """Times of preparation and of an epoch: of two trainings that differ by `epochs`."""
    torch.set_num_threads(options["threads"])
    torch.manual_seed(options["seed"])
    np.random.seed(options["seed"])
    import ctgan

    def trained(epochs: int) -> tuple[Any, dict[str, float]]:
        begun = {name: clock() for name, clock in CLOCKS.items()}
        sizes = {"batch_size": options["batch_size"], "pac": options["pack"]}
        model = ctgan.CTGAN(epochs=epochs, enable_gpu=False, **sizes)
        model.fit(frame, options["discrete"])
        return model, {name: clock() - begun[name] for name, clock in CLOCKS.items()}

    trained(1)  # first calls of all libraries
    _, short = trained(1)
    model, long = trained(options["epochs"])
    model.sample(options["rows"]).to_csv(out, index=False)
    per_epoch = {name: (long[name] - short[name]) / (options["epochs"] - 1) for name in CLOCKS}
    return {
        "version": ctgan.__version__,
        "preparation": {name: short[name] - per_epoch[name] for name in CLOCKS},
        "per_epoch": per_epoch,
    }


def score(real: pd.DataFrame, synthetic: pd.DataFrame, options: dict[str, Any]) -> dict[str, Any]:
    """SDMetrics' quality report."""
    from sdmetrics.reports.single_table import QualityReport

    kinds = {name: "categorical" if name in options["discrete"] else "numerical" for name in real}
    report = QualityReport()
    metadata = {"columns": {name: {"sdtype": kind} for name, kind in kinds.items()}}
    report.generate(real, synthetic[list(real)], metadata, verbose=False)
    return {"quality": float(report.get_score())}


def main() -> None:
    what, source, other, text = sys.argv[1:]
    frame, options = pd.read_csv(source), json.loads(text)
    done = train(frame, other, options) if what == "train" else score(frame, pd.read_csv(other), options)
    print(json.dumps(done))


if __name__ == "__main__":
    main()
