"""What a node of a Ray cluster does with one run, and what it is sent for that."""

from __future__ import annotations

import os
import platform
import socket
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from normlab import __version__
from normlab.errors import NormlabError, StoreError, Unavailable
from normlab.study.executors.local import environment_of_run
from normlab.study.executors.travel import unpacked
from normlab.study.plan import ENGINE, RunSpec
from normlab.study.run import Options, Outcome, attempt
from normlab.study.store import MARKER, Store

PASSED_ON = "NORMLAB_DATA_DIR", "NORMLAB_CACHE_DIR"


def carry_out(
    payload: bytes, run: RunSpec, store: Store, options: Options, wanted: dict[str, str]
) -> Outcome | NormlabError:
    """`attempt` on a node; an error that concerns every run comes back as a value, without Ray's wrapping."""
    try:
        _check_versions(wanted)
        _check_store(store)
        return attempt(unpacked(payload), run, store, _on_own_gpu(options))
    except NormlabError as error:
        return error


def _check_store(store: Store) -> None:
    """Refuse to begin a run where the store that the study was started with is not to be seen."""
    node = socket.gethostname()
    try:
        marker = store.read(MARKER)
    except StoreError as error:
        raise StoreError(f"node {node}: {error}; nodes need what opens the store, too") from None
    if marker is None:
        raise StoreError(
            f"node {node} does not see the store {store}; on a cluster it must be on storage that all nodes share: a "
            "directory of a shared file system, or a URL like s3://bucket/study"
        )


def versions() -> dict[str, str]:
    """What decides a run's numbers, and must be the same wherever runs of one study are made."""
    return {
        "normlab": f"{__version__} (engine {ENGINE})",
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: metadata.version(name) for name in ("torch", "numpy")},
    }


def _check_versions(wanted: dict[str, str]) -> None:
    found = versions()
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        there = ", ".join(f"{name} {found.get(name, 'none')}" for name in differing)
        here = ", ".join(f"{name} {wanted[name]}" for name in differing)
        raise Unavailable(
            f"node {socket.gethostname()} has {there}, where the study was started it is {here}; runs of one study "
            "need the same versions everywhere"
        )


def _on_own_gpu(options: Options) -> Options:
    """Ray's process may have served another GPU before, and CUDA keeps to what it saw first: so we see all and choose.

    A run of several processes has a worker process for itself, which sees its own GPUs only.
    """
    if options.device != "cuda:0" or options.devices > 1:
        return options
    import ray
    import torch

    mine = str(ray.get_gpu_ids()[0])
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    index = seen.split(",").index(mine) if seen else int(mine)
    torch.cuda.set_device(index)
    try:
        torch.zeros(1, device="cuda").item()
    except RuntimeError:  # an earlier run's error left CUDA unusable in this process; another one takes the run
        os._exit(1)
    return replace(options, device=f"cuda:{index}")


def environment_of(options: Options) -> dict[str, str]:
    """Environment of the processes that carry out runs: that of local workers, and where the data is."""
    given = {name: str(Path(value).expanduser().absolute()) for name in PASSED_ON if (value := os.environ.get(name))}
    all_gpus = {} if options.devices > 1 else {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
    return {**environment_of_run(options), **given, **all_gpus}
