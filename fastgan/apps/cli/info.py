"""fastgan info: versions, what was built, and which backend runs each operation, and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from fastgan.apps.cli.arguments import wrapped


def add(commands: Any) -> None:
    """The command and its flags."""
    command = commands.add_parser(
        "info",
        help="which backend runs each operation here, and why",
        description="Versions, instruction sets, CUDA build and device; which backend runs each operation, and why.",
        epilog="example:\n  fastgan info --json > info.json\n",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print versions, the build, and the backend of each operation."""
    from fastgan import backend_info

    facts = backend_info()
    print(json.dumps(facts, indent=1, default=str) if arguments.json else "\n".join(_lines(facts)))
    return 0


def _lines(facts: dict[str, Any], indent: str = "") -> Iterator[str]:
    width = max((len(name) for name, value in facts.items() if not isinstance(value, dict)), default=0)
    for name, value in facts.items():
        if isinstance(value, dict):
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield wrapped(f"{indent}{name:<{width}}  {text}", len(indent) + width + 2)
