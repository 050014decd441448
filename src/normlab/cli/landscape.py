"""`normlab landscape MODEL`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normlab.cli.options import as_json, data_dir, device
from normlab.cli.output import legible, print_lines, prints_aside, width
from normlab.errors import DataError, SpecError

if TYPE_CHECKING:
    from torch import nn

    from normlab.landscape import LandscapeReport

DATA, BATCH_SIZE, STEPS = "digits(train=300)", 64, 100


@click.command()
@click.argument("model")
@click.option("--data", metavar="DATA", help=f"A dataset with labels, `cifar10`, say; default: {DATA}.")
@click.option("--batch", metavar="SHAPE", help="Random numbers of this shape: 64x3x32x32.")
@click.option("--input", "factory", metavar="FACTORY", help="Makes a batch: a tensor, (input, labels) or a dict.")
@click.option("--loader", metavar="FACTORY", help="Makes what gives the batches; the first 16 are used.")
@click.option("--batch-size", type=int, metavar="N", help=f"Of --data; default: {BATCH_SIZE}.")
@click.option("--to", metavar="NORM", help="Convert first, to `group(num_groups=8)`, say.")
@click.option("--against", metavar="NORM", default="none", show_default=True, help="Compare with this norm instead.")
@click.option("--alone", is_flag=True, help="Compare with nothing: half the cost.")
@click.option("--checkpoint", type=click.Path(path_type=Path), metavar="FILE", help="Weights to start from.")
@click.option("--steps", type=int, metavar="N", help=f"Of training; default: {STEPS}, or 0 with --checkpoint.")
@click.option(
    "--points", type=int, default=21, show_default=True, metavar="N", help="Of training, where curves are taken."
)
@click.option("--lr", type=float, default=0.05, show_default=True, help="Learning rate of gradient descent.")
@click.option("--only", metavar="PART,PART", help="curves, ics, lipschitz, slice, surface, sharpness, ablation.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, order of the data and directions.")
@data_dir
@device
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Write landscape.json and figures (SVG).")
@as_json
def landscape(
    model: str,
    data: str | None,
    batch: str | None,
    factory: str | None,
    loader: str | None,
    batch_size: int | None,
    to: str | None,
    against: str,
    alone: bool,
    checkpoint: Path | None,
    steps: int | None,
    points: int,
    lr: float,
    only: str | None,
    seed: int,
    device: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure how smooth a network's loss is, with its norms and without, while it trains.

    Loss variation, gradient predictiveness and effective β-smoothness (Santurkar et al.), internal covariate shift,
    Lipschitz ratios, filter-normalized slices, sharpness in SAM's direction, ablation of channels.

    MODEL is timm:resnet18, torchvision:resnet18, package.module:factory, file.py:factory or resnet8(width=16), with
    random weights. A FACTORY is package.module:function or file.py:function. With `--against none` each norm becomes
    the linear map that it is on the first batch, so that both networks start as the same function. The expected cost
    is said first.

    Exit code 0: measured; 1: a network diverged; 2: bad input.
    """
    sources = {"--data": data, "--batch": batch, "--input": factory, "--loader": loader}
    given = [name for name, value in sources.items() if value is not None]
    if len(given) > 1:
        raise SpecError(f"{' and '.join(given)} both give data: give one of them")
    if batch_size is not None and given and given != ["--data"]:
        raise SpecError(f"--batch-size is of --data; {given[0]} says its own")
    if out is not None:
        _check_place(out)
    with prints_aside():
        _check_seed(seed)
        size = BATCH_SIZE if batch_size is None else batch_size
        network, options = _network_and_data(model, sources, size, seed)
        _change(network, to, checkpoint)
        count = steps if steps is not None else 0 if checkpoint is not None else STEPS
        options |= {"against": None if alone else against, "steps": count, "points": points, "lr": lr, "only": only}
        options |= {"seed": seed, "device": device}
        report = _measure(network, options)
    files = report.write(out) if out is not None else []
    _show(report, files, as_json=as_json)
    raise SystemExit(any(track is not None and track.diverged is not None for track in (report.given, report.other)))


def _check_place(out: Path) -> None:
    """What cannot be written is told before the work."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out} cannot be made a directory: {error.strerror}; choose another with --out") from None


def _check_seed(seed: int) -> None:
    from normlab.landscape.parts import check_seed

    check_seed(seed)


def _network_and_data(
    model: str, sources: dict[str, str | None], batch_size: int, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    import torch

    from normlab.inputs import parse_shape
    from normlab.study.models import load_model
    from normlab.study.objects import call_object

    shape = parse_shape(sources["--batch"]) if sources["--batch"] is not None else None
    options: dict[str, Any] = {}
    channels, classes = (shape[1] if shape is not None and len(shape) > 1 else 3), 10
    if sources["--input"] is not None:
        options["batch"] = call_object(sources["--input"], kind="input")
    elif sources["--loader"] is not None:
        options["loader"] = call_object(sources["--loader"], kind="loader")
    elif shape is not None:
        options["batch"] = shape
    else:
        options["loader"], channels, classes = _dataset(sources["--data"] or DATA, batch_size, seed)
    torch.manual_seed(seed)  # two calls find the same
    return load_model(model, in_channels=channels, num_classes=classes), options


def _dataset(name: str, batch_size: int, seed: int) -> tuple[list[Any], int, int]:
    """As many batches as are used of the shuffled training examples, all of one size; their channels and classes."""
    import torch

    from normlab.landscape.batches import MOST
    from normlab.seeding import Streams
    from normlab.study.data import load
    from normlab.study.data.examples import examples
    from normlab.study.job import DataSpec

    data = load(DataSpec(name=name))
    if not 2 <= batch_size <= len(data.train):
        raise SpecError(f"--batch-size {batch_size} should be from 2 to {len(data.train)}, the examples of {name}")
    order = torch.from_numpy(Streams(seed).numpy("shuffle").permutation(len(data.train)))
    parts = [part for part in order.split(batch_size) if len(part) == batch_size][:MOST]
    batches = [examples(data.train, "cpu").batch(part) for part in parts]
    return [(images.float() * data.scale, labels) for images, labels in batches], data.in_channels, data.num_classes


def _change(network: nn.Module, to: str | None, checkpoint: Path | None) -> None:
    if to is not None:
        import normlab

        normlab.convert(network, to)
    if checkpoint is not None:
        _load(network, checkpoint)


def _load(network: nn.Module, checkpoint: Path) -> None:
    """A state dict of tensors, or a dict that holds one as "state_dict" or "model"."""
    import pickle

    import torch

    try:
        state: Any = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{checkpoint} cannot be read: {error.strerror}") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        raise DataError(f"{checkpoint} is no file of tensors that torch.save wrote: {_first_line(error)}") from None
    for key in ("state_dict", "model"):
        state = state[key] if isinstance(state, dict) and isinstance(state.get(key), dict) else state
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise SpecError(f"{checkpoint} does not fit the model: {' '.join(lines[1:2] or lines[:1])[:200]}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _measure(network: nn.Module, options: dict[str, Any]) -> LandscapeReport:
    from normlab.landscape import landscape as measure

    with _progress() as (say, progress):
        return measure(network, say=say, progress=progress, **options)


@contextmanager
def _progress() -> Generator[tuple[Callable[[str], None], Callable[[float], None] | None]]:
    """The cost on standard error, and a bar with the time left where that is a terminal."""

    def say(text: str) -> None:
        click.echo(text, err=True)

    if not sys.stderr.isatty():
        yield say, None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TimeRemainingColumn

    with Progress(BarColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield say, lambda share: bar.update(task, completed=share)


def _show(report: LandscapeReport, files: list[Path], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.as_json(), allow_nan=False))
        return
    from normlab.landscape.text import lines

    print_lines(lines(report, width(), legible))
    if files:
        print_lines([(f"Written: {', '.join(path.as_posix() for path in files)}", "")])
