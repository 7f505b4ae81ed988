"""`river-fast completion bash|zsh|fish`: a script that completes commands and options in that shell.

Pure but for printing; needs no database. Written by shtab, which the extra `completion` brings.
"""

from __future__ import annotations

import argparse

from river_fast.errors import ConfigError

SHELLS = ("bash", "zsh", "fish")
INSTALL = """to use it: bash: river-fast completion bash > ~/.local/share/bash-completion/completions/river-fast
zsh: river-fast completion zsh > a directory of $fpath, as _river-fast
fish: river-fast completion fish > ~/.config/fish/completions/river-fast.fish"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser], whole: argparse.ArgumentParser) -> None:
    """The `completion` command; `whole`: the parser of the command line."""
    parser = commands.add_parser(
        "completion",
        help="print a shell's completion script",
        description="Prints a script that completes river-fast in a shell.",
        epilog=INSTALL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=lambda args: run(args, whole), ignores_environment=True)


def run(args: argparse.Namespace, whole: argparse.ArgumentParser) -> int:
    """Always 0; `ConfigError` without shtab."""
    try:
        import shtab
    except ImportError:
        raise ConfigError("shell completion needs shtab: pip install 'river-fast[completion]'") from None
    print(shtab.complete(whole, shell=args.shell))
    return 0
