"""fastgan sample: draw from a trained generator into a file."""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastgan import plots
from fastgan._files import write_atomically
from fastgan._torch_settings import usable_device
from fastgan.apps.cli import labels, runs, tabular
from fastgan.apps.cli.arguments import counting, natural, wholes
from fastgan.apps.cli.pictures import draw_samples, origin
from fastgan.models import GAN
from fastgan.training import load_checkpoint

_CHUNK = 4096  # rows in memory at a time
_SAMPLES = 64  # in a file of numbers
_FORMATS = (".npy", ".csv", ".png")


def add(commands: Any) -> None:
    """The command and its flags."""
    command = commands.add_parser(
        "sample",
        help="draw from a trained generator",
        description="Draw samples G(z), z ~ p_z, from the newest checkpoint of a run: rows as those of the data, in "
        "its own units, under the names of its columns in a .csv. Sample i of a seed is the same however many are "
        "drawn together.",
        epilog="examples:\n  fastgan sample runs/digits-1 --n 1000 --seed 1 --out x.npy\n"
        "  fastgan sample runs/digits-1 --out more.png\n"
        "  fastgan sample runs/digits-1 --labels 3 --out threes.png\n"
        "  fastgan sample runs/mine --n 1000 --out - | head\n"
        "  fastgan sample runs/customers-1 --where 'income=>50K' --out rows.csv\n",
    )
    command.add_argument("run_dir", metavar="RUN_DIR", help="folder of the run")
    command.add_argument(
        "--n",
        type=natural,
        metavar="N",
        help="how many samples (64; 1,000 of a TabularGAN; 10,000 for a picture of points or histograms)",
    )
    command.add_argument("--seed", type=counting, default=0, metavar="N", help="of the noise (0)")
    command.add_argument("--offset", type=counting, default=0, metavar="N", help="number of the first sample (0)")
    command.add_argument(
        "--labels",
        type=wholes,
        metavar="L,L",
        help="of a run trained with --conditional: one label, or several that samples have in turn, as 0:10 or 3,7 "
        "(all there are)",
    )
    command.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of a TabularGAN: rows with this label, as age=30..40, or without a value: spent=; repeatable",
    )
    command.add_argument("--device", default="cpu", metavar="NAME", help="where G runs (cpu)")
    command.add_argument(
        "--out",
        required=True,
        help="file to write: .npy, .csv or .png (a picture of them), - for csv on stdout; of a TabularGAN .csv, .tsv, "
        ".parquet or .png",
    )
    command.add_argument("--data", metavar="PATH", help="where the data of the run are now, if they have moved")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw samples into a file."""
    if tabular.is_run(arguments.run_dir):
        return tabular.sample(arguments)
    if arguments.where:
        raise ValueError(f"--where must be used with the run of a TabularGAN, got {arguments.run_dir}")
    out = Path(arguments.out)
    to_stdout = arguments.out == "-"
    kind = ".csv" if to_stdout else out.suffix.lower()
    if kind not in _FORMATS:
        raise ValueError(f"--out must end in {', '.join(_FORMATS)} or be -, got {arguments.out!r}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out must lie in an existing folder, got {arguments.out!r}")
    if arguments.seed >= 2**63:
        raise ValueError(f"--seed must be below 2**63, got {arguments.seed}")
    config = runs.read(Path(arguments.run_dir), moved=arguments.data)
    labels.check(config, arguments.labels)
    gan = runs.trained(Path(arguments.run_dir), config).to(usable_device("sample", arguments.device))
    if kind == ".png":
        with plots.source(origin(config, load_checkpoint(Path(arguments.run_dir)).step)):
            draw_samples(
                config,
                gan,
                config.load_data(),
                out,
                n=arguments.n,
                seed=arguments.seed,
                offset=arguments.offset,
                asked=arguments.labels,
            )
    else:
        arguments.n = arguments.n or _SAMPLES
        chunks = _chunks(config, gan, arguments)
        dim = config.networks.data_dim
        # float32 would round away what the rows of a table with large numbers differ by
        dtype = "<f4" if config.columns is None else "<f8"
        if to_stdout:
            return _print(_csv(chunks, config.column_names))
        npy = _npy(chunks, (arguments.n, dim), dtype)
        write_atomically(out, _csv(chunks, config.column_names) if kind == ".csv" else npy)
    number = "" if arguments.n is None else f"{arguments.n:,} "
    print(f"{number}samples of {config.source}: {out}")
    return 0


def _print(parts: Iterator[bytes]) -> int:
    """Text for another program, which may have read enough before the end."""
    try:
        for part in parts:
            sys.stdout.write(part.decode())
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
    return 0


def _chunks(config: runs.RunConfig, gan: GAN, arguments: argparse.Namespace) -> Iterator[np.ndarray]:
    for start in range(0, arguments.n, _CHUNK):
        count, offset = min(_CHUNK, arguments.n - start), arguments.offset + start
        wanted = labels.in_turn(config, arguments.labels, count, offset)
        samples = gan.sample(count, seed=arguments.seed, offset=offset, device="cpu", labels=wanted)
        yield config.restore(samples).numpy()


def _npy(chunks: Iterator[np.ndarray], shape: tuple[int, int], dtype: str) -> Iterator[bytes]:
    header = io.BytesIO()
    fields = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    yield header.getvalue()
    for chunk in chunks:
        yield np.ascontiguousarray(chunk, dtype=dtype).tobytes()


def _csv(chunks: Iterator[np.ndarray], names: Sequence[str]) -> Iterator[bytes]:
    if names:
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(names)
        yield header.getvalue().encode()
    for chunk in chunks:
        # str of a float is the shortest text that reads back as the same number
        yield "".join(",".join(map(str, row)) + "\n" for row in chunk).encode()
