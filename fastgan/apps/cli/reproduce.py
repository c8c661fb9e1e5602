"""fastgan reproduce: the tables of papers, trained again."""

from __future__ import annotations

import argparse
from typing import Any

from fastgan.apps.cli import reproduce_goodfellow, reproduce_pacgan, reproduce_ring

_PAPERS = (reproduce_pacgan, reproduce_goodfellow, reproduce_ring)


def add(commands: Any) -> None:
    """The command, and one below it for each paper."""
    command = commands.add_parser(
        "reproduce",
        help="the tables of papers, trained again",
        description="Train at a paper's published settings, and print its row, fastgan's row, and the standard errors "
        "between them.",
        epilog="examples:\n"
        "  fastgan reproduce pacgan --dataset ring --trials 3 --steps 20000\n"
        "  fastgan reproduce goodfellow2014                 the digits; a minute\n"
        "  fastgan reproduce goodfellow2014 --dataset mnist --data DIR\n"
        "  fastgan reproduce unrolled --trials 2 --steps 2000\n"
        "  fastgan reproduce costs --trials 2 --steps 2000\n",
    )
    command.set_defaults(run=lambda arguments: _help(command))
    papers = command.add_subparsers(title="papers", metavar="PAPER", dest="paper")
    for paper in _PAPERS:
        paper.add(papers)


def _help(command: argparse.ArgumentParser) -> int:
    command.print_help()
    return 0
