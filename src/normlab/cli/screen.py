"""`normlab screen MODEL`."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from normlab.cli.options import as_json, data_dir, device
from normlab.cli.output import legible, print_lines, prints_aside, width
from normlab.errors import SpecError, UnknownName

if TYPE_CHECKING:
    from normlab.screen import Screening

SECONDS = 5.0
EXAMPLES = 4096  # of a dataset: enough to draw a few batches from


@click.command()
@click.argument("model")
@click.option("--data", required=True, metavar="DATA", help="digits, 3x32x32 (random numbers), or a FACTORY.")
@click.option("--batch-size", default=32, show_default=True, metavar="N", help="To train with.")
@click.option("--norms", metavar="NORM,NORM", help="Candidates; default: 17 that differ.")
@click.option("--seeds", default=3, show_default=True, metavar="N", help="Initial values to try.")
@click.option("--batches", default=3, show_default=True, metavar="N", help="Batches for each.")
@data_dir
@device
@as_json
def screen(
    model: str,
    data: str,
    batch_size: int,
    norms: str | None,
    seeds: int,
    batches: int,
    device: str | None,
    as_json: bool,
) -> None:
    """Rank normalizers for a network and a batch size, before training it.

    MODEL is timm:resnet18, torchvision:resnet18, package.module:factory, file.py:factory or resnet8(width=16). Each
    candidate is put into a copy with new random weights, and what it does to signals and gradients is measured.

    DATA is a dataset, "digits(train=300)", cifar10 or 'folder(path="...")'; the sizes of one example; or
    package.module:function or file.py:function, which returns a batch of at least N examples, with labels last, or a
    loader.

    Exit code 0: something is healthy; 1: nothing is; 2: it could not be told.
    """
    with prints_aside():
        found = _screen(model, data, norms, device, batch_size, seeds, batches)
    if as_json:
        click.echo(json.dumps(found.as_json()))
    else:
        from normlab.screen.text import lines

        print_lines(lines(found, width()))
    raise SystemExit(0 if found.healthy else 1)


def _screen(
    model: str, data: str, norms: str | None, device: str | None, batch_size: int, seeds: int, batches: int
) -> Screening:
    import torch

    from normlab.screen import DEFAULT
    from normlab.screen import screen as rank
    from normlab.screen.candidates import check
    from normlab.study.models import load_model

    chosen = DEFAULT if norms is None else split(norms)
    for spec in chosen:  # a typo is told before the work
        check(spec)
    examples, channels, classes = _read(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # two calls find the same
        network = load_model(model, in_channels=channels, num_classes=classes)
    found = rank(
        network,
        examples,
        batch_size=batch_size,
        norms=chosen,
        seeds=seeds,
        batches=batches,
        device=device,
        progress=_teller(),
    )
    return replace(found, subject=f"{model}, batches of {found.batch_size} from {data}")


def _read(data: str) -> tuple[Any, int, int]:
    """What to draw batches from, and the channels and classes that a built-in network should have."""
    from torch import Tensor
    from torch.utils import _pytree as pytree

    from normlab.study.data import DATASETS
    from normlab.study.objects import call_object

    name = data.partition("(")[0].strip()
    if name in DATASETS:
        return _dataset(data)
    if re.fullmatch(r"[\dx\s]+", data):
        return data, int(data.split("x", maxsplit=1)[0] or 3) if "x" in data else 3, 10
    if ":" in data:
        found = call_object(data, kind="data")
        tensors = [leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor) and leaf.dim() > 2]
        return found, tensors[0].shape[1] if tensors else 3, 10
    hint = "; or a shape, 3x32x32; or package.module:function, file.py:function"
    raise SpecError(str(UnknownName("data", name, DATASETS)).rstrip(".") + hint)


def _dataset(spec: str) -> tuple[Any, int, int]:
    """Training examples, standardized, with their labels."""
    import torch

    from normlab.study.data import load
    from normlab.study.data.examples import examples
    from normlab.study.job import DataSpec

    found = load(DataSpec(name=spec))
    every = max(1, len(found.train) // EXAMPLES)
    pixels, labels = examples(found.train, "cpu").batch(torch.arange(0, len(found.train), every))
    images = pixels.float()
    std, mean = torch.std_mean(images, (0, 2, 3), keepdim=True)
    return ((images - mean) / std, labels), found.in_channels, found.num_classes


def split(norms: str) -> list[str]:
    """`batch,group(num_groups=8, lower=True)` → the two.

    Raises:
        SpecError: there are none.
    """
    found = [text.strip() for text in re.split(r",(?![^(]*\))", norms) if text.strip()]
    if not found:
        raise SpecError(f"--norms {norms!r} names none: batch,layer,group(num_groups=8)")
    return found


def _teller() -> Callable[[int, int, str], None]:
    """Says on standard error how far it is: in one line on a terminal, now and then elsewhere."""
    started = said = time.monotonic()
    terminal = sys.stderr.isatty()

    def tell(done: int, count: int, name: str) -> None:
        nonlocal said
        now = time.monotonic()
        if done == count:
            click.echo("\r\x1b[K" if terminal else "", nl=False, err=True)
        elif terminal or now - said > SECONDS:
            said = now
            left = f" · {(now - started) / done * (count - done):.0f} s left" if done else ""
            text = legible(f"{done}/{count} done · {name}{left}")
            click.echo(f"\r\x1b[K{text}" if terminal else text, nl=not terminal, err=True)

    return tell
