"""Do generated rows help a classifier that has few labels? Measured, whatever comes out.

For each seed some labelled 8x8 digits are drawn. A conditional GAN learns p(x | label) from them alone, and as many
rows as asked are drawn from it. A logistic regression is fitted to the real rows, to the generated ones, and to both,
and is tested on all other digits.

    python examples/augmentation.py [--labelled 100,300] [--seeds 5] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression

import fastgan
from fastgan import data, models
from fastgan.apps.bench import harness, machine
from fastgan.apps.bench.results import Report
from fastgan.data import Dataset


def accuracy(rows: torch.Tensor, labels: torch.Tensor, test: Dataset) -> float:
    """Of a logistic regression, on the test rows."""
    assert test.labels is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rows that it could fit better still
        classifier = LogisticRegression(max_iter=200).fit(rows.numpy(), labels.numpy())
    return float(classifier.score(test.tensor().numpy(), test.labels.numpy()))


def trial(labelled: int, generated: int, seed: int, steps: int) -> dict[str, float]:
    """The three accuracies of one draw of labelled rows."""
    digits = data.digits()
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
    few, test = digits.take(order[:labelled]), digits.take(order[labelled:])
    assert few.labels is not None
    torch.manual_seed(seed)
    gan = models.mlp_gan(
        64, latent_dim=16, hidden=(128, 128), output_activation="sigmoid", discriminator_dropout=0.3, classes=10
    )
    config = fastgan.TrainConfig(
        steps, min(64, labelled), optimizer=fastgan.Adam(1e-3), real_label=0.9, ema_decay=0.99, seed=seed
    )
    fastgan.train(gan, few, config)
    made_labels = torch.arange(generated) % 10
    made = gan.sample(generated, seed=seed, labels=made_labels)
    real = few.tensor()
    return {
        "real": accuracy(real, few.labels, test),
        "generated": accuracy(made, made_labels, test),
        "both": accuracy(torch.cat([real, made]), torch.cat([few.labels, made_labels]), test),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labelled", default="100,300", help="labelled rows, one study each (100,300)")
    parser.add_argument("--generated", type=int, default=1000, help="rows drawn from the GAN (1000)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3000, help="iterations of the GAN (3000)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="of the figures, with machine and revision")
    parser.add_argument("--machine", default=machine.name(), help="name of this machine in file names")
    arguments = parser.parse_args()
    settings = harness.Settings(threads=(torch.get_num_threads(),), out=arguments.out, machine=arguments.machine)
    report = Report("augmentation-digits", settings, "studies")
    report.content = {"generated": arguments.generated, "steps": arguments.steps, "seeds": arguments.seeds}
    print(f"{'labelled':>8}  {'real alone':>16}  {'generated alone':>16}  {'both':>16}  {'both - real':>18}")
    for labelled in map(int, arguments.labelled.split(",")):
        found = [trial(labelled, arguments.generated, seed, arguments.steps) for seed in range(arguments.seeds)]
        gains = torch.tensor([t["both"] - t["real"] for t in found], dtype=torch.float64)

        def told(values: torch.Tensor, form: str = ".3f") -> str:
            error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
            return f"{float(values.mean()):{form}} +- {error:.3f}"

        names = "real", "generated", "both"
        numbers = [told(torch.tensor([t[name] for t in found], dtype=torch.float64)) for name in names]
        print(f"{labelled:>8}  {'  '.join(f'{n:>16}' for n in numbers)}  {told(gains, '+.3f'):>18}", flush=True)
        if arguments.out is not None:
            report.add({"labelled": labelled, "trials": found})


if __name__ == "__main__":
    main()
