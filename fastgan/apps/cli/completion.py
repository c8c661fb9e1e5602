"""fastgan completion: what a shell needs to complete commands and flags with the tab key."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from fastgan import data
from fastgan.apps.cli.arguments import Parser, commands_of

_NONE = '""'  # the empty command in a case
_EXAMPLES = """\
examples:
  source <(fastgan completion bash)                        in ~/.bashrc
  source <(fastgan completion zsh)                         in ~/.zshrc
  fastgan completion fish > ~/.config/fish/completions/fastgan.fish
"""


def add(commands: Any) -> None:
    """The command and its flags."""
    command = commands.add_parser(
        "completion",
        help="completion with the tab key for bash, zsh or fish",
        description="Print a script that completes commands, flags and names of data sets in a shell.",
        epilog=_EXAMPLES,
    )
    command.add_argument("shell", metavar="SHELL", help="bash, zsh or fish")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the shell's script."""
    from fastgan.apps.cli import parser

    if arguments.shell not in _SCRIPTS:
        raise ValueError(f"SHELL must be one of {', '.join(_SCRIPTS)}, got {arguments.shell!r}")
    print(_SCRIPTS[arguments.shell](_words(parser())), end="")
    return 0


def _words(top: Parser) -> dict[str, list[str]]:
    """What may follow each command, "" for none: commands, flags, and names of data sets."""
    commands = commands_of(top)
    found = {"": sorted(commands) + sorted(top._option_string_actions)}
    for name, command in commands.items():
        flags = sorted(flag for flag in command._option_string_actions if flag.startswith("--"))
        inner = sorted(commands_of(command))
        sources = [*data.NAMES, *data.USERS_OWN] if name in ("train", "compare") else []
        found[name] = [*inner, *sources, *flags]
    return found


def _bash(words: dict[str, list[str]]) -> str:
    cases = "\n".join(f'    {name or _NONE}) words="{" ".join(known)}" ;;' for name, known in words.items())
    return f"""\
_fastgan() {{
  local command="" words="" current="${{COMP_WORDS[COMP_CWORD]}}"
  [ "$COMP_CWORD" -gt 1 ] && command="${{COMP_WORDS[1]}}"
  case "$command" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _fastgan fastgan
"""


def _zsh(words: dict[str, list[str]]) -> str:
    cases = "\n".join(f"    {name or _NONE}) known=({' '.join(known)}) ;;" for name, known in words.items())
    return f"""\
_fastgan() {{
  local command="" known
  (( CURRENT > 2 )) && command="${{words[2]}}"
  case "$command" in
{cases}
  esac
  compadd -- $known
  _files
}}
(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit }}
compdef _fastgan fastgan
"""


def _fish(words: dict[str, list[str]]) -> str:
    lines = [f"complete -c fastgan -n __fish_use_subcommand -a '{' '.join(w for w in words[''] if w[0] != '-')}' -f"]
    for name, known in words.items():
        if name:
            seen = f"-n '__fish_seen_subcommand_from {name}'"
            plain = [word for word in known if not word.startswith("--")]
            lines += [f"complete -c fastgan {seen} -a '{' '.join(plain)}'"] if plain else []
            lines += [f"complete -c fastgan {seen} -l {word[2:]}" for word in known if word.startswith("--")]
    return "\n".join(lines) + "\n"


_SCRIPTS: dict[str, Callable[[dict[str, list[str]]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
