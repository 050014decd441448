"""What a training function is given besides its arm and its random streams."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normlab.atomic import write_atomically
from normlab.errors import SpecError
from normlab.study.distributed import World

CHECKPOINT, PROGRESS = "checkpoint.pt", "progress.json"
SLOWER = 50  # a checkpoint is followed by so many times what it took
PLAIN = (int, float, bool, str, bytes, type(None))


class Diverged(Exception):
    """Raise it in a training function when training became non-finite: a result, not a failure.

    Args:
        reason: what happened, `loss is nan in epoch 12`.
        metrics: what the run counts as, `{"test_accuracy": 10.0}` for chance level. A metric left out counts as
            the worst value that the run's arm and the one it is compared with have.
        counted_as: those metrics in words, for the table: `chance level, 10 %`.
    """

    def __init__(self, reason: str, metrics: Mapping[str, float] | None = None, *, counted_as: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.metrics = dict(metrics or {})
        self.counted_as = counted_as


@dataclass
class Context:
    """The run that a training function is part of.

    Attributes:
        directory: the run's own; whatever the function writes here stays with the run.
        device: "cpu" or "cuda:0": where to train.
        checkpoint_seconds: time between checkpoints; more of it where writing one takes longer than 2 % of that.
        world: the processes that share the run; this one alone unless the study says otherwise.
        facts: what the result keeps about how it was made, label → text: data, versions, precision.
        keep: takes name and content of a file that outlives this process; without it, `directory` does.
    """

    directory: Path
    device: str = "cpu"
    checkpoint_seconds: float = 10.0
    world: World = field(default_factory=World)
    facts: dict[str, str] = field(default_factory=dict[str, str])
    keep: Callable[[str, bytes], None] | None = None
    rows: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    seconds: float = 0.0  # computing time before the last checkpoint was written, in earlier processes
    _started: float = field(default_factory=time.monotonic)
    _saved: float = field(default_factory=time.monotonic)
    _took: float = 0.0  # seconds to write the last checkpoint
    _reported: float = 0.0

    @property
    def elapsed(self) -> float:
        """Computing time of this run in seconds, interrupted attempts included up to their last checkpoint."""
        return self.seconds + time.monotonic() - self._started

    @property
    def due(self) -> bool:
        """Would `checkpoint` write now?"""
        rest = SLOWER * self._took if self.checkpoint_seconds > 0 else 0.0
        return time.monotonic() - self._saved >= max(self.checkpoint_seconds, rest)

    def restore(self) -> dict[str, Any] | None:
        """The last state given to `checkpoint`, or None at a fresh start; what was logged until then is back too."""
        import torch

        content = self.world.broadcast(self._kept() if self.world.is_first else None)
        if content is None:
            return None
        try:
            saved = torch.load(io.BytesIO(content), map_location=self.device, weights_only=True)
            self.rows, self.seconds = saved["rows"], saved["seconds"]
            return saved["state"]
        except Exception:  # of many kinds, by where it was cut
            return None  # a damaged checkpoint costs the time it saved, never the run

    def _kept(self) -> bytes | None:
        try:
            return (self.directory / CHECKPOINT).read_bytes()
        except OSError:
            return None

    def checkpoint(self, state: Mapping[str, Any], *, done: float) -> None:
        """Keep `state` so that `restore` finds it, unless the last one is younger than `checkpoint_seconds`.

        Of several processes the first one's is kept, and restored in all.

        Args:
            state: tensors, numbers, strings, lists and dicts of them (what `torch.load(weights_only=True)` reads).
            done: share of the run that is finished, in [0, 1], for the progress display.

        Raises:
            SpecError: something in `state` that `restore` could not read back; a NumPy array, say.
        """
        self.progress(done)
        if not (self.due and self.world.is_first):
            return
        import torch

        _check_plain(state, "state")
        start = time.monotonic()
        content = io.BytesIO()
        torch.save({"state": dict(state), "rows": self.rows, "seconds": self.elapsed}, content)
        self._keep(CHECKPOINT, content.getvalue())
        self._saved = time.monotonic()
        self._took = self._saved - start

    def progress(self, done: float) -> None:
        """Say how much of the run is finished, in [0, 1]; at most twice a second reaches the disk."""
        if time.monotonic() - self._reported < 0.5 or not self.world.is_first:
            return
        self._reported = time.monotonic()
        self._keep(PROGRESS, json.dumps({"done": done, "seconds": round(self.elapsed, 3)}).encode())

    def _keep(self, name: str, data: bytes) -> None:
        if self.keep is None:
            write_atomically(self.directory / name, data)
        else:
            self.keep(name, data)

    def log(self, **values: float) -> None:
        """Keep one row of the training curve, once an epoch, say: `context.log(train_loss=0.3)`."""
        self.rows.append({name: float(value) for name, value in values.items()})


def _check_plain(value: Any, path: str) -> None:
    import torch

    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_plain(inner, f"{path}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _check_plain(inner, f"{path}[{index}]")
    elif not isinstance(value, torch.Tensor) and type(value) not in PLAIN:
        raise SpecError(
            f"checkpoint: {path} is a {type(value).__name__}; tensors, numbers, strings, None, and lists and dicts of "
            "them can be restored (torch.from_numpy(x) for an array, float(x) for a NumPy number)"
        )
