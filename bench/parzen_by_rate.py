"""What does the learning rate do to the Parzen log-likelihood of the paper's Table 1?

    fastgan reproduce goodfellow2014 --dataset mnist --data DIR --epochs 175 --threads 1
    python bench/parzen_by_rate.py --data DIR [--run FOLDER] [--rates 0.02 0.005 0.001] [--epochs 25]
                                   [--precision fp32] [--out FOLDER]

Continues a copy of that run, for some epochs at each rate, and measures 10,000 samples after each. The recipe divides
its rate of 0.1 by 1.000004 at each update; the rates here are divided in the same way, and the rate that an update
really has is in the table. JSON goes to bench/results.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
import time
from pathlib import Path

import torch

from fastgan import train
from fastgan._options import Precision, names
from fastgan.apps.bench import harness, machine
from fastgan.apps.bench.results import Report
from fastgan.apps.reproduce import goodfellow2014 as paper
from fastgan.training import Momentum, load_checkpoint

DECAY = 1.000004


def main() -> None:
    """Train, measure, print a line for each rate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of MNIST's IDX files")
    parser.add_argument(
        "--run", type=Path, default=Path("reproduce/goodfellow2014-mnist"), help="folder of fastgan reproduce"
    )
    parser.add_argument("--rates", nargs="+", type=float, default=[0.02, 0.005, 0.001], metavar="X")
    parser.add_argument("--epochs", type=int, default=25, metavar="N", help="at each rate (25)")
    parser.add_argument("--precision", choices=names(Precision), default="fp32", help="of the run (fp32)")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the results")
    parser.add_argument("--machine", default=machine.name(), help="name of this machine in file names")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    split = paper.load("mnist", arguments.data)
    report = Report(
        "parzen-by-rate", harness.Settings(threads=(1,), out=arguments.out, machine=arguments.machine), "rates"
    )
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(arguments.run, Path(folder) / "run"))
        stage = paper.plan("mnist", split, copy, precision=arguments.precision)[0]
        done = load_checkpoint(stage.folder).step
        load_checkpoint(stage.folder).restore(stage.gan)
        optimizer = stage.config.optimizer
        assert isinstance(optimizer, Momentum)
        for rate in (optimizer.lr, *arguments.rates):
            begun = time.process_time()
            if rate != optimizer.lr:
                done += arguments.epochs * (len(split.train) // stage.config.batch_size)
                config = dataclasses.replace(
                    stage.config, steps=done, checkpoint_every=0, optimizer=dataclasses.replace(optimizer, lr=rate)
                )
                train(stage.gan, split.train, config, run_dir=stage.folder, resume=True, change=("lr",))
            seconds, found = time.process_time() - begun, paper.measure(stage.gan, split)
            row = {"iteration": done, "rate": rate / DECAY**done, "seconds": seconds, "sigma": found.sigma}
            report.add({**row, "nats": found.mean, "standard_error": found.standard_error})
            print(
                f"iteration {done:,}, rate {row['rate']:.4f}: {found.mean:.1f} +- {found.standard_error:.1f} nats, "
                f"sigma {found.sigma:.3f}, {seconds:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
