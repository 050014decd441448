"""Training functions of studies that compare batch sizes: rate and length follow the batch size.

Holds the training functions of batch_sizes.toml and beyond_batchnorm.toml; what is trained is the built-in trainer's.
"""

from __future__ import annotations

import copy

from normlab.study.train import train as built_in


def linear(arm, streams, context):
    """`train.lr` is the rate at a batch of 256; others train at lr · batch_size / 256.

    Source: Goyal et al., arXiv:1706.02677, sec. 2.1, as in the code of Switchable Norm.
    """
    return built_in(_scaled(arm, 256), streams, context)


def lubana(arm, streams, context):
    """As `linear`; batches of 16 take a sixth of the epochs, and no step of the rate.

    Source: Lubana et al., authors' code, main.py: 60 epochs at 256, 10 at 16, where the rate stays as it is.
    """
    job = _scaled(arm, 256)
    if job["train"]["batch_size"] == 16:
        job["train"]["epochs"] = max(job["train"]["epochs"] // 6, 1)
        job["train"] |= {"schedule": "constant", "milestones": []}
        job["train"].pop("step_factor", None)
    return built_in(job, streams, context)


def _scaled(arm, base):
    job = copy.deepcopy(arm)
    job["train"]["lr"] *= job["train"]["batch_size"] / base
    return job
