"""What the callbacks for different trainers have in common."""

from __future__ import annotations

import random
import warnings
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from normlab.errors import SpecError, UnknownName
from normlab.layers import FollowsProgress, FollowsRate
from normlab.recipes import Finding, Recipe, attach_rules, recipe
from normlab.recipes.attach import follows_rules

Undone = Literal["raise", "warn"]


def as_recipe(spec: Recipe | str) -> Recipe:
    """A recipe, or what `recipe` makes of its spec."""
    return recipe(spec) if isinstance(spec, str) else spec


def check_undone(undone: object) -> None:
    """Refuse a name that is none of `Undone`."""
    if undone not in get_args(Undone):
        raise UnknownName("value of undone", undone, get_args(Undone))


def follow_rules(optimizer: Optimizer, model: nn.Module) -> None:
    """Let the optimizer follow the training rules of the model's layers, unless it does."""
    if not follows_rules(optimizer):
        attach_rules(optimizer, model)


def report(recipe: Recipe, findings: Iterable[Finding], undone: Undone) -> None:
    """Raise or warn, if there are any.

    Raises:
        SpecError: all findings, each with what to pass instead.
    """
    lines = [f"- {finding}" for finding in dict.fromkeys(findings)]
    if not lines:
        return
    text = "\n".join([f"this training undoes {recipe!r}:", *lines])
    if undone == "raise":
        raise SpecError(text)
    warnings.warn(text, stacklevel=2)


def listens(model: nn.Module) -> bool:
    """Are there layers that `set_progress` tells something?"""
    return any(isinstance(module, (FollowsProgress, FollowsRate)) for module in model.modules())


def lr_share(optimizer: Optimizer) -> float:
    """The learning rate now, as a share of the first one, or of that from which a scheduler works."""
    group = optimizer.param_groups[0]
    start = group.get("initial_lr", group["lr"])
    return group["lr"] / start if start else 1.0


@contextmanager
def same_random_numbers(generator: torch.Generator | None = None) -> Generator[None]:
    """What is drawn inside, by Python, NumPy, torch on the CPU or the generator, is drawn once more afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    own = None if generator is None else generator.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if generator is not None and own is not None:
            generator.set_state(own)
