"""The built-in training function: an arm of a study file, trained and tested.

It sees a resolved job and never asks which arm that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from normlab.seeding import Streams
from normlab.study.context import Context
from normlab.study.job import TrainJob
from normlab.study.training import Trainer


def train(arm: Mapping[str, Any], streams: Streams, context: Context) -> dict[str, Any]:
    """Train one network and test it; see `Trainer`.

    Args:
        arm: a `TrainJob` as plain JSON.

    Returns:
        as `Trainer.test`.

    Raises:
        Diverged: the training loss became non-finite; counted as chance level.
        SpecError: what the job asks for cannot be had; too little memory.
    """
    trainer = Trainer(TrainJob.model_validate(arm), streams, context)
    trainer.fit()
    return trainer.test()
