"""The command line: fastgan train, sample, export, evaluate, compare, plot, reproduce, bench, info and completion.

Whatever a user can get wrong ends in exit code 2 and one line on stderr.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from fastgan import _interrupt
from fastgan.apps.cli import bench, compare, completion, evaluate, export, info, plot, reproduce, sample, train
from fastgan.apps.cli.arguments import Parser, command_of, explain

_EXAMPLES = """\
examples:
  fastgan train digits                             learn handwritten digits
  fastgan train table.csv --out runs/mine          the same for your own numbers
  fastgan sample runs/digits-1 --n 9 --out x.npy   draw from the generator
  fastgan export runs/digits-1 --out generator.pt  a generator without fastgan
  fastgan evaluate runs/digits-1                   likelihood, modes, neighbours
  fastgan compare ring                             a GAN beside three others
  fastgan plot figure1                             the paper's figure 1, live
  fastgan reproduce pacgan --trials 3 --steps 20000   a paper's table, again
  fastgan bench --quick                            against PyTorch and JAX, here
  fastgan info                                     what runs each operation here
  source <(fastgan completion bash)                complete with the tab key
"""
_PIPE_CLOSED = 128 + 13  # a shell's exit code for a process that SIGPIPE ended


def parser() -> Parser:
    """The whole command line."""
    top = Parser(prog="fastgan", description="Train the GAN of Goodfellow et al. (2014).", epilog=_EXAMPLES)
    top.add_argument("--version", action="store_true", help="print the version and exit")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for command in (train, sample, export, evaluate, compare, plot, reproduce, bench, info, completion):
        command.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` without the program's name, default those of the process.

    Returns:
        Exit code: 0; 1 where training itself broke down; 2 for a bad argument or file; 130 after Ctrl-C; 141 where the
        reader of the output is gone, as of `fastgan info | head -1`.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal's encoding lacks must not end a run
        sys.stdout.reconfigure(errors="backslashreplace")
    chosen = top = parser()
    command = "fastgan"
    with _interrupt.once():
        try:
            try:
                arguments = top.parse_args(argv)
                if arguments.version:
                    from fastgan import __version__

                    print(f"fastgan {__version__}")
                    return 0
                if arguments.command is None:
                    top.print_help()
                    return 0
                command, chosen = f"fastgan {arguments.command}", command_of(top, arguments)
                return int(arguments.run(arguments))
            finally:
                if sys.stdout is not None:  # what is written at the end of the process can raise an error no more
                    sys.stdout.flush()
        except BrokenPipeError:
            return _leave_pipe()
        except SystemExit as stop:  # argparse has printed the reason
            return int(stop.code or 0)
        except KeyboardInterrupt:
            _interrupt.say(command)
            return _interrupt.CODE
        except FloatingPointError as error:
            print(f"{command}: {explain(error, chosen)}", file=sys.stderr)
            return 1
        except (OSError, ValueError, TypeError, OverflowError, ImportError, MemoryError, RuntimeError) as error:
            print(f"{command}: {explain(error, chosen)}", file=sys.stderr)
            return 2


def _leave_pipe() -> int:
    """The exit code of a process that a closed pipe ends; Python must not try again to write what is left."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
    return _PIPE_CLOSED
