"""Arguments that several commands take."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

C = TypeVar("C", bound=Callable[..., Any])

DATA_DIR = "NORMLAB_DATA_DIR"  # as in study.data.places, which loads what help does not need


def study_arguments(command: C) -> C:
    """STUDY, `--set` and `--store`."""
    command = click.option(
        "--store", metavar="DIR|URL", help="Where runs are kept, s3://bucket/study, say; default runs/NAME."
    )(command)
    command = click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value: --set train.epochs=5."
    )(command)
    return click.argument("study", type=click.Path(path_type=Path), metavar="STUDY")(command)


def _point_to_data(context: click.Context, _option: click.Parameter, folder: Path | None) -> None:
    """Set the environment variable while the command runs: worker processes inherit it."""
    if folder is None:
        return
    before = os.environ.get(DATA_DIR)
    os.environ[DATA_DIR] = str(folder.absolute())
    context.call_on_close(lambda: os.environ.pop(DATA_DIR) if before is None else os.environ.update({DATA_DIR: before}))


data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    expose_value=False,
    callback=_point_to_data,
    help=f"Folder with local copies of datasets, DIR/cifar10, say; default: {DATA_DIR}.",
)

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
