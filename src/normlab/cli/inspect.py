"""`normlab inspect MODEL`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normlab.cli.options import as_json, device
from normlab.cli.output import legible, print_lines, prints_aside, width
from normlab.errors import SpecError

if TYPE_CHECKING:
    from normlab.inspect import Report

WIDEST = 200
DEFAULT = "32x3x64x64"


@click.command()
@click.argument("model")
@click.option("--batch", metavar="SHAPE", help=f"Random numbers of this shape; default {DEFAULT}.")
@click.option("--input", "factory", metavar="FACTORY", help="Makes a batch of data: a tensor, a tuple or a dict.")
@device
@click.option("--to", "norm", metavar="NORM", help="Convert the norms first: `group(num_groups=8)`, say.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Also write a page.")
@as_json
def inspect(
    model: str,
    batch: str | None,
    factory: str | None,
    device: str | None,
    norm: str | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """See what normalization does to a network, layer by layer.

    MODEL is timm:resnet18, torchvision:resnet18, package.module:factory, file.py:factory or resnet8(width=16), with
    random weights. A FACTORY is package.module:function or file.py:function; what it gives may have labels.

    Exit code 0: healthy; 1: not healthy; 2: it could not be run, or nothing could be measured.
    """
    if batch is not None and factory is not None:
        raise SpecError("--batch and --input both make a batch: give one of them")
    with prints_aside():
        report = _examine(model, batch, factory, device, norm)
    if html is not None:
        report.html(html)
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        from normlab.inspect.text import lines

        print_lines(lines(report, width(WIDEST), legible))
    raise SystemExit(report.exit_code)


def _examine(model: str, batch: str | None, factory: str | None, device: str | None, norm: str | None) -> Report:
    import torch

    from normlab.inputs import parse_shape
    from normlab.inspect import inspect as examine
    from normlab.study.models import load_model
    from normlab.study.objects import call_object

    sizes = DEFAULT if batch is None else batch
    shape = parse_shape(sizes)
    torch.manual_seed(0)  # two calls find the same
    network = load_model(model, in_channels=shape[1] if len(shape) > 1 else 3)
    given: Any = call_object(factory, kind="input") if factory is not None else sizes
    if norm is not None:
        from normlab.surgery import convert

        convert(network, norm)
    return examine(network, given, device=device)
