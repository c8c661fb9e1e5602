"""fastgan export: a run's generator for programs without fastgan."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fastgan import _options
from fastgan._options import ExportFormat
from fastgan.apps.cli import runs
from fastgan.apps.cli.arguments import did_you_mean

_FORMATS = _options.names(ExportFormat)
_USE = {
    "torch": "torch.load({name!r}, weights_only=False)(z)",
    "torchscript": "torch.jit.load({name!r})(z)",
    "onnx": "onnxruntime.InferenceSession({name!r}).run(None, {{'z': z}})",
}
_EXAMPLES = """\
examples:
  fastgan export runs/digits-1 --out generator.pt
  fastgan export runs/digits-1 --out generator.onnx
"""


def add(commands: Any) -> None:
    """The command and its flags."""
    command = commands.add_parser(
        "export",
        help="a trained generator for programs without fastgan",
        description="Write the generator of a run's newest checkpoint, for noise z (n, latent_dim), of a conditional "
        "run with the label as a vector with a one in its place behind it. Samples come as training saw the data: "
        "config.json has the mean and the standard deviation that were taken out of columns.",
        epilog=_EXAMPLES,
    )
    command.add_argument("run_dir", metavar="RUN_DIR", help="folder of the run")
    command.add_argument(
        "--format",
        metavar="FORMAT",
        help="torch, modules of torch.nn; torchscript; onnx, which needs the packages onnx and onnxscript (onnx where "
        "FILE ends in .onnx, else torch)",
    )
    command.add_argument("--out", required=True, metavar="FILE", help="file to write")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write it, and say how it is used."""
    kind = arguments.format or _options.format_of(arguments.out)
    if kind not in _FORMATS:
        raise ValueError(f"--format must be one of {', '.join(_FORMATS)}, got {kind!r}{did_you_mean(kind, _FORMATS)}")
    out = Path(arguments.out)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out must lie in an existing folder, got {arguments.out!r}")
    folder = Path(arguments.run_dir)
    gan = runs.trained(folder, runs.read(folder))
    gan.export(out, kind)
    print(f"generator: {out}")
    behind = f", and behind it the label as a vector of {gan.classes}" if gan.classes else ""
    print(f"use:       {_USE[kind].format(name=out.name)}")
    print(f"z:         (n, {gan.latent_dim}) {str(gan.dtype).removeprefix('torch.')}, {gan.prior}{behind}")
    return 0
