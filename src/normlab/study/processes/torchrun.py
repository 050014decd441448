"""`torchrun -m normlab run`: all processes are there from the start; the first one leads, the others follow."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from itertools import count

from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

from normlab.study.distributed import World
from normlab.study.processes.helper import serve
from normlab.study.processes.others import meet

POLL = 0.1


def follow() -> None:
    """Take part in the first process's runs until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # stopping is the first one's business, and then ours
    store, rank, size = meet()
    serve(_tasks(store), store, World(rank, size), int(os.environ.get("LOCAL_RANK", rank)))


def _tasks(store: Store) -> Iterator[bytes]:
    for number in count():
        key = f"task{number}"
        while not store.check([key]):
            time.sleep(POLL)
        packed = store.get(key)
        if not packed:
            return
        yield packed
