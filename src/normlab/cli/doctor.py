"""`normlab doctor MODEL`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normlab.cli.options import as_json, device
from normlab.cli.output import print_lines, prints_aside, width
from normlab.errors import DataError, NormlabError, SpecError, Unavailable

if TYPE_CHECKING:
    from normlab.doctor import Findings

_OUT = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("model")
@click.option("--batch", metavar="SHAPE", help="Random numbers of this shape: 8x3x32x32.")
@click.option("--input", "factory", metavar="FACTORY", help="Makes a batch of data: a tensor, a tuple or a dict.")
@click.option("--loader", metavar="FACTORY", help="Makes what gives the batches.")
@click.option("--optimizer", metavar="FACTORY", help="Makes the optimizer of a model, or (optimizer, scheduler).")
@device
@click.option("--select", metavar="RULE,RULE", help="Check these rules alone, by id or name.")
@click.option("--ignore", metavar="RULE,RULE", default="", help="Leave these out.")
@click.option("--sarif", type=_OUT, metavar="FILE", help="Also write a SARIF log, for CI.")
@as_json
def doctor(
    model: str,
    batch: str | None,
    factory: str | None,
    loader: str | None,
    optimizer: str | None,
    device: str | None,
    select: str | None,
    ignore: str,
    sarif: Path | None,
    as_json: bool,
) -> None:
    """Look for the failures of normalization layers that people report.

    MODEL is timm:resnet18, torchvision:resnet18, package.module:factory, file.py:factory or resnet8(width=16), with
    random weights. A FACTORY is package.module:function or file.py:function. Under torchrun the processes are compared.

    Exit code 0: clean; 1: findings; 2: it could not be told.
    """
    if batch is not None and factory is not None:
        raise SpecError("--batch and --input both make a batch: give one of them")
    rank = _join()
    try:
        with prints_aside():
            findings = _examine(model, batch, factory, loader, optimizer, device, select, ignore)
    except NormlabError:
        if sarif is not None and rank in (None, 0):
            click.echo("No SARIF log is written:", err=True)
        raise
    finally:
        _leave(rank)
    if rank in (None, 0):
        _show(findings, sarif, as_json=as_json)
    raise SystemExit(findings.exit_code)


def _examine(
    model: str,
    batch: str | None,
    factory: str | None,
    loader: str | None,
    optimizer: str | None,
    device: str | None,
    select: str | None,
    ignore: str,
) -> Findings:
    import torch

    from normlab.doctor import doctor as examine
    from normlab.doctor.examine import choose
    from normlab.inputs import parse_shape
    from normlab.study.models import load_model
    from normlab.study.objects import call_object

    choose(select, ignore)  # a typo is told before the work
    shape = parse_shape(batch) if batch is not None else None
    torch.manual_seed(0)  # two calls find the same
    network = load_model(model, in_channels=shape[1] if shape is not None and len(shape) > 1 else 3)
    trains: Any = call_object(optimizer, network, kind="optimizer") if optimizer is not None else None
    pair = trains if isinstance(trains, tuple) else (trains, None)
    if len(pair) != 2:
        raise SpecError(f"optimizer {optimizer!r} made {len(pair)} values; (optimizer, scheduler) is wanted")
    findings = examine(
        network,
        call_object(factory, kind="input") if factory is not None else batch,
        optimizer=pair[0],
        scheduler=pair[1],
        loader=call_object(loader, kind="loader") if loader is not None else None,
        device=device,
        select=select,
        ignore=ignore,
    )
    return findings if findings.source is not None else replace(findings, source=_factory_source(model))


def _factory_source(spec: str) -> tuple[str, int] | None:
    """Where the function is that made the model, in a file or module that has been imported for it."""
    from normlab.doctor.examine import source_of
    from normlab.study.objects import split_call

    place, _, name = split_call(spec, "model")[0].rpartition(":")
    file = str(Path(place).resolve())
    files = {getattr(module, "__file__", None): module for module in [*sys.modules.values()]}
    found = sys.modules.get(place, files.get(file))
    return None if found is None or "." in name else source_of(getattr(found, name, None))


def _join() -> int | None:
    """Our rank among the processes that torchrun started; None without it."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        return None
    import torch.distributed as dist

    if not dist.is_initialized():
        try:
            dist.init_process_group("gloo")
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise Unavailable(f"the processes that torchrun started do not meet: {reason}") from None
    return dist.get_rank()


def _leave(rank: int | None) -> None:
    if rank is not None:
        import torch.distributed as dist

        dist.destroy_process_group()


def _show(findings: Findings, sarif: Path | None, *, as_json: bool) -> None:
    if sarif is not None:
        try:
            sarif.write_text(json.dumps(findings.sarif(), indent=1), encoding="utf-8")
        except OSError as error:
            raise DataError(f"{sarif} cannot be written: {error.strerror}") from None
    if as_json:
        click.echo(json.dumps(findings.as_json()))
    else:
        _print(findings)
    if findings.failure is not None:
        click.echo(f"Error: the model does not run on the batch in training mode: {findings.failure}", err=True)


def _print(findings: Findings) -> None:
    from normlab.doctor.text import lines

    print_lines(lines(findings, width()))
