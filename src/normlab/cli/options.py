"""Arguments that several commands take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

C = TypeVar("C", bound=Callable[..., Any])


def study_arguments(command: C) -> C:
    """STUDY, `--set` and `--store`."""
    command = click.option(
        "--store", type=click.Path(path_type=Path), metavar="DIR", help="Where runs are kept; default runs/NAME."
    )(command)
    command = click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value: --set train.epochs=5."
    )(command)
    return click.argument("study", type=click.Path(path_type=Path), metavar="STUDY")(command)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")

device = click.option(
    "--device", metavar="DEVICE", help="Where to run: cpu, cuda, cuda:1, mps; default: where the model is."
)

style = click.option(
    "--style",
    type=click.Choice(["default", "paper"]),
    default="default",
    show_default=True,
    help="`paper`: the table of Davis and Frank, mean ± SD, bold where the one-sided paired t-test gives p ≤ 0.05.",
)
