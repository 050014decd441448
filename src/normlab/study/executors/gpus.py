"""Which GPUs of this machine each worker gets."""

from __future__ import annotations

import itertools
import math
import os
import re
from dataclasses import dataclass, replace

from normlab.errors import SpecError, Unavailable
from normlab.study.run import Options


@dataclass(frozen=True)
class Share:
    """What a run takes: `width` GPUs, each together with `tenants - 1` other runs."""

    width: int
    tenants: int


def share_of(options: Options) -> Share:
    """From `gpus` of each process and the number of processes; one whole GPU where nothing is said."""
    each = options.gpus or 1.0
    return Share(options.devices * math.ceil(each), max(1, math.floor(1 / each + 1e-9)))


def placed(options: Options, gpus: bool) -> Options:
    """Options with a definite device: "auto" is a GPU for runs that ask for a share of one where there is one.

    Args:
        gpus: whether there is one.

    Raises:
        SpecError: no device is called that.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", options.device):
        raise SpecError(f"device {options.device!r}: should be auto, cpu, cuda, cuda:1 (one GPU of several) or mps")
    if options.device != "auto":
        return options
    return replace(options, device="cuda" if gpus and options.gpus else "cpu")


def visible() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    Raises:
        Unavailable: there is none, with what PyTorch says about it.
    """
    import torch

    if not torch.cuda.is_available():
        why = "this PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch finds none"
        raise Unavailable(f"there is no GPU to run on ({why}); --device cpu")
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()][: torch.cuda.device_count()]
    return [str(index) for index in range(torch.cuda.device_count())]


def seats(share: Share, device: str, workers: int | None) -> list[list[str]]:
    """The GPUs of each worker, round robin, so that the first runs are spread over all of them.

    Args:
        device: "cuda" for all GPUs, "cuda:1" for one of them.
        workers: how many; as many as `share` leaves room for unless given.

    Raises:
        SpecError: no such GPU, or fewer than one run takes.
        Unavailable: there is none at all.
    """
    gpus = visible()
    _, _, index = device.partition(":")
    if index:
        if int(index) >= len(gpus):
            raise SpecError(f"device {device!r}: there are {len(gpus)} GPUs here, cuda:0 to cuda:{len(gpus) - 1}")
        gpus = [gpus[int(index)]]
    groups = [gpus[at : at + share.width] for at in range(0, len(gpus) - share.width + 1, share.width)]
    if not groups:
        raise SpecError(f"resources: a run takes {share.width} GPUs, and there are {len(gpus)} to use here")
    count = len(groups) * share.tenants if workers is None else workers
    return list(itertools.islice(itertools.cycle(groups), count))
