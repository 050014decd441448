"""The command line: each command reads arguments, calls one function and prints.

Commands are imported when they are called, so that `normlab --help` loads click alone.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import click

from normlab import __version__
from normlab.errors import NormlabError, UnknownName

COMMANDS = {
    "run": "Run a study: train every arm at every seed, then report.",
    "plan": "Show what a study would run, and what it would cost.",
    "status": "Show how far a study has come.",
    "report": "Write the report of a study from what is finished.",
    "compare": "Compare the arms in anybody's CSV of results.",
    "doctor": "Find the failures of normalization layers that people report.",
    "landscape": "Measure how smooth a network's loss is, with its norms and without.",
    "inspect": "See what normalization does to a network, layer by layer.",
    "screen": "Rank normalizers for a network and a batch size, before training it.",
    "power": "Seeds needed, power, or smallest effect that can be found.",
}

INTERRUPTED = 130
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF)


class Commands(click.Group):
    """A group whose commands live in modules of the same name; errors of normlab's own become one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of a study's life."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; an unknown name is an error with the nearest one."""
        if cmd_name not in COMMANDS:
            raise click.UsageError(str(UnknownName("command", cmd_name, COMMANDS)))
        return getattr(importlib.import_module(f"normlab.cli.{cmd_name}"), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; bad input, and output that cannot be written, end in one line and exit code 2."""
        try:
            with _written(ctx):
                return super().invoke(ctx)
        except NormlabError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            sys.stderr.close()  # the reader of our output went away (`| head`): nothing to say to anybody
            ctx.exit(1)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; `--help` and `--version` print here."""
        with _written(ctx):
            return super().parse_args(ctx, args)


@contextmanager
def _written(ctx: click.Context) -> Generator[None]:
    """Output that cannot be written ends in one line and exit code 2."""
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison] - it is, where it was closed (`>&-`)
        click.echo("Error: standard output is closed: nothing could be said", err=True)
        ctx.exit(2)
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITABLE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would be tried again at exit
        click.echo(f"Error: the output cannot be written: {error.strerror}", err=True)
        ctx.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="normlab")
def main() -> None:
    """Choose a normalization, apply it to a network, see what it does, and prove that it helps."""
