"""How accurate is the loss in float32? Value and gradient of both terms against float64, beside torch's BCEWithLogits.

    python bench/loss_table.py [--out FOLDER]

Prints a Markdown table of the logits at which formulas break, and draws the error over all logits between. A unit in
the last place (ULP) is the distance of the float32 next to the truth from its neighbour. Exit code 1 if fastgan is
anywhere more than 2 ULP off.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import fastgan
from fastgan.apps.bench import harness, machine, pictures
from fastgan.apps.bench.results import Report, guarded

LOGITS = (-math.inf, -1e4, -100.0, -22.18, -10.0, 0.0, 10.0, 100.0, 1e4, math.inf)
SWEEP = np.linspace(-40.0, 40.0, 8001)
TERMS = {"real": "-log D(x), the real term", "fake": "-log(1 - D(G(z))), the fake term"}
ALLOWED_ULP = 2.0


def truth(term: str, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient in float64: softplus(s l) and s sigmoid(s l), s = -1 for the real term."""
    sign = -1.0 if term == "real" else 1.0
    x = sign * logits
    small = np.exp(-np.abs(x))
    return np.maximum(x, 0.0) + np.log1p(small), sign * np.where(x >= 0, 1.0, small) / (1.0 + small)


def by_fastgan(term: str, logits: Tensor) -> Tensor:
    """The unreduced term, from the public function."""
    other = logits.detach()
    pair = (logits, other) if term == "real" else (other, logits)
    return fastgan.discriminator_loss(*pair, reduction="none", impl=IMPL)[0 if term == "real" else 1]


def by_torch(term: str, logits: Tensor) -> Tensor:
    """The unreduced term, as users write it."""
    labels = torch.ones_like(logits) if term == "real" else torch.zeros_like(logits)
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")


IMPL = "auto"  # main sets it: native where it can run
LIBRARIES: dict[str, Callable[[str, Tensor], Tensor]] = {"fastgan": by_fastgan, "torch": by_torch}


def computed(library: str, term: str, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient in float32."""
    x = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    y = LIBRARIES[library](term, x)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    return y.detach().numpy(), gradient.numpy()


def ulp_error(got: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Distance from the truth in units of the last place of float32; NaN where the result is NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        spacing = np.spacing(np.abs(true.astype(np.float32))).astype(np.float64)
        return np.where(got == true, 0.0, np.abs(got.astype(np.float64) - true) / spacing)


def relative_error(got: np.ndarray, true: np.ndarray) -> np.ndarray:
    """|got - true| / |true|, 0 where both are equal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(got == true, 0.0, np.abs((got.astype(np.float64) - true) / true))


def entries() -> list[dict[str, Any]]:
    """One record for each term, logit and quantity."""
    found = []
    logits = np.array(LOGITS, dtype=np.float32).astype(np.float64)
    for term in TERMS:
        true = dict(zip(("value", "gradient"), truth(term, logits), strict=True))
        for quantity, which in (("value", 0), ("gradient", 1)):
            results = {name: computed(name, term, logits)[which] for name in LIBRARIES}
            for i, logit in enumerate(LOGITS):
                record: dict[str, Any] = {"term": term, "logit": logit, "quantity": quantity}
                record["float64"] = float(true[quantity][i])
                for name, got in results.items():
                    one, right = got[i : i + 1], true[quantity][i : i + 1]
                    record[name] = float(got[i])
                    record[f"{name} ulp"] = float(ulp_error(one, right)[0])
                    record[f"{name} relative error"] = float(relative_error(one, right)[0])
                found.append(record)
    return found


def sweep() -> dict[str, Any]:
    """Errors of the values and the gradients over logits from -40 to 40."""
    logits = SWEEP.astype(np.float32).astype(np.float64)
    found: dict[str, Any] = {}
    for term in TERMS:
        for quantity, right, which in zip(("value", "gradient"), truth(term, logits), (0, 1), strict=True):
            for name in LIBRARIES:
                got = computed(name, term, logits)[which]
                found[f"{term} {quantity} {name}"] = ulp_error(got, right)
    return found


def shown(value: float, digits: int = 9) -> str:
    """A number as the table shows it."""
    return f"{value + 0.0:.{digits}g}".replace("inf", "∞").replace("nan", "NaN")  # + 0.0: no minus before a zero


def error_shown(record: Mapping[str, Any], name: str) -> str:
    """An error in ULP, and in percent where it can be seen in the first digits."""
    ulp, relative = record[f"{name} ulp"], record[f"{name} relative error"]
    if math.isnan(ulp):
        return "NaN"
    if ulp > 100:
        return f"**{ulp:.2g}** ({relative:.2g} relative)" if relative < 1e-3 else f"**{relative:.1%} off**"
    return f"{ulp:.2f}" if ulp else "0"


def markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """One table for each term."""
    parts = []
    for term, heading in TERMS.items():
        header = ["l", "value, float64", "fastgan", "torch", "fastgan ULP", "torch ULP"]
        header += ["gradient, float64", "fastgan", "torch", "fastgan ULP", "torch ULP"]
        table = [header]
        for logit in LOGITS:
            row = [shown(logit, 6)]
            for quantity in ("value", "gradient"):
                r = next(r for r in records if (r["term"], r["logit"], r["quantity"]) == (term, logit, quantity))
                row += [shown(r["float64"]), *(shown(r[name]) for name in LIBRARIES)]
                row += [error_shown(r, name) for name in LIBRARIES]
            table.append(row)
        widths = [max(len(row[i]) for row in table) for i in range(len(header))]
        lines = ["| " + " | ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in table]
        lines.insert(1, "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|")
        parts.append(f"### {heading}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def picture(errors: Mapping[str, np.ndarray]) -> Any:
    """ULP over the logit: value and gradient of the fake term (the real term is its mirror image)."""
    fig, axes = pictures.figure(10, 4, 1, 2, sharey=True)
    logits = SWEEP
    for ax, quantity in zip(axes[0], ("value", "gradient"), strict=True):
        for name, colour in zip(("torch", "fastgan"), (pictures.COLOURS[1], pictures.COLOURS[0]), strict=True):
            label = "torch BCEWithLogits" if name == "torch" else name
            seen = np.maximum(errors[f"fake {quantity} {name}"], 1e-2)
            ax.plot(logits, seen, ".", markersize=1.5, color=colour, label=label, rasterized=True)
        pictures.ratio_line(ax, ALLOWED_ULP, "2 ULP")
        ax.set(yscale="log", xlabel="logit l", title=f"{quantity} of the fake term -log(1 - D(G(z))) = softplus(l)")
    axes[0, 0].set_ylabel("error, ULP of float32")
    axes[0, 0].legend(frameon=False, markerscale=6, fontsize=8, loc="upper right")
    notes = ["8,001 logits; 1e7 ULP is a result rounded to 0; errors below 0.01 are drawn at 0.01"]
    pictures.title(fig, "Error of the discriminator's loss in float32 against float64", notes)
    return fig


def bench(settings: harness.Settings) -> None:
    """Compute, print, write; ResultsDiffer where fastgan is more than 2 ULP off."""
    report = Report("loss-table", settings)
    records, errors = entries(), sweep()
    worst = {k: float(np.max(v)) for k, v in errors.items()}
    print(f"fastgan {IMPL} and torch {torch.__version__}, float32; errors in units of the last place of the truth.\n")
    print(markdown(records))
    print("\nLargest error over 8,001 logits from -40 to 40, ULP:")
    for key, value in worst.items():
        print(f"  {key:24s} {value:12.4g}")
    mine = {f"{r['term']} {r['quantity']} at {r['logit']}": r["fastgan ulp"] for r in records}
    mine |= {f"{k}, -40 to 40": v for k, v in worst.items() if k.endswith("fastgan")}
    for what, error in mine.items():
        if not error <= ALLOWED_ULP:
            raise harness.ResultsDiffer(f"{what} is {error:.3g} ULP from float64; allowed are {ALLOWED_ULP:g}")
    content = {"implementation": IMPL, "allowed ULP": ALLOWED_ULP, "table": records, "largest ULP, -40 to 40": worst}
    report.write(content, picture(errors))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    global IMPL
    p = argparse.ArgumentParser(description="accuracy of fastgan's loss and of torch's, in float32 against float64")
    p.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the results")
    p.add_argument("--machine", default=machine.name(), help="name of this machine in file names")
    args = p.parse_args(argv)
    IMPL = "native" if fastgan.backend_info()["backends"]["loss on cpu"] == "native" else "reference"
    settings = dataclasses.replace(harness.Settings(), out=args.out, machine=args.machine)
    return guarded("loss_table", lambda: bench(settings))


if __name__ == "__main__":
    raise SystemExit(main())
