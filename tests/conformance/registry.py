"""The registry is the list: each example of each registered norm, with the oracle it is held to."""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray
from torch import Tensor, nn

from normlab import functional as F
from normlab.errors import SpecError
from normlab.layers import NORMS
from tests.conftest import TOLERANCE
from tests.oracles.common import Undefined

SPACE: dict[int, tuple[int, ...]] = {2: (), 3: (7,), 4: (3, 5), 5: (3, 2, 5)}
"""Positions by rank."""
BATCH = 4


@dataclass(frozen=True)
class Example:
    """A spec string to try, and the oracle of the norm it names."""

    name: str
    spec: str
    oracle: ModuleType

    def __str__(self) -> str:
        return self.spec

    @property
    def channels(self) -> int:
        return getattr(self.oracle, "NUM_FEATURES", 6)

    @cached_property
    def options(self) -> dict[str, Any]:
        return dict(NORMS.parse(self.spec, given=("num_features",)).arguments)

    @property
    def is_default(self) -> bool:
        return self.spec == self.oracle.EXAMPLES[0]

    @property
    def differentiable(self) -> bool:
        """Is the backward pass that of the forward pass? Not where the paper takes for constant what depends on x."""
        return not getattr(self.oracle, "CONSTANTS_OF_X", False)

    def layer(self, dtype: torch.dtype | None = None, *, random: bool = True, **options: Any) -> Any:
        """The layer, with parameters that are not the initial ones."""
        layer = NORMS[self.name](self.channels, **self.options | {"dtype": dtype} | options)
        with torch.no_grad():
            for parameter in layer.parameters() if random else ():
                parameter.add_(0.3 * torch.randn(parameter.shape).to(parameter.dtype))
            for name, value in getattr(self.oracle, "STATE", {}).get(self.spec, {}).items():
                layer.get_buffer(name).fill_(value)
        return layer

    def shape(self, rank: int, batch: int = BATCH) -> tuple[int, ...]:
        return batch, self.channels, *SPACE[rank]

    def input(self, rank: int = 4, dtype: torch.dtype = torch.float32, mean: float = 0.0) -> Tensor:
        return (torch.randn(self.shape(rank)) + mean).to(dtype)

    def fitting(self, layer: nn.Module, dtype: torch.dtype = torch.float64) -> Tensor:
        """An input of the first rank of which there is one that the layer takes."""
        inputs = (self.input(rank, dtype) for rank in (4, 3, 2, 5))
        return next(x for x in inputs if self.takes(layer, x))

    def expect(self, layer: nn.Module, x: Tensor, **options: Any) -> tuple[ndarray, dict[str, ndarray]]:
        """y and the state after, by the oracle."""
        if x.dim() not in getattr(self.oracle, "RANKS", SPACE):
            raise Undefined(f"not for {x.dim()} dimensions")
        return self.oracle.forward(self.options | options, arrays(layer), x.detach().double().numpy(), layer.training)

    def takes(self, layer: nn.Module, x: Tensor) -> bool:
        """Does the paper say what comes of x?"""
        try:
            self.expect(layer, x)
        except Undefined:
            return False
        return True


def arrays(layer: nn.Module) -> dict[str, ndarray]:
    """The state, with floating point numbers in float64."""
    return {k: v.double().numpy() if v.is_floating_point() else v.numpy() for k, v in copied(layer).items()}


def copied(layer: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in layer.state_dict().items()}


def find_oracle(name: str) -> ModuleType | None:
    path = f"tests.oracles.{name}"
    return importlib.import_module(path) if importlib.util.find_spec(path) else None


ORACLES = {name: oracle for name in NORMS if (oracle := find_oracle(name))}
EXAMPLES = [Example(name, spec, oracle) for name, oracle in ORACLES.items() for spec in oracle.EXAMPLES]
DEFAULTS = [example for example in EXAMPLES if example.is_default]


def follow(example: Example, layer: nn.Module, x: Tensor, mean: float = 0.0) -> Tensor | None:
    """Hold the layer's output for x and its state afterwards to the oracle; and an error, where that has no value."""
    before = copied(layer)
    try:
        expected, after = example.expect(layer, x)
    except Undefined:
        with pytest.raises(SpecError):
            layer(x)
        assert_same(copied(layer), before)
        return None
    y = layer(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert_near(y, expected, x.dtype, mean)
    state = copied(layer)
    assert state.keys() == after.keys()
    for name, value in state.items():
        wide = x.dtype if name in dict(layer.named_parameters()) else torch.promote_types(x.dtype, torch.float32)
        assert_near(value, after[name], wide, mean, name)
    return y


def on(backend: str | None) -> AbstractContextManager[None]:
    """The backend of this name; None for the one that is chosen where none is asked for."""
    return F.use_backend(backend) if backend else nullcontext()


def assert_near(actual: Tensor, expected: ndarray, dtype: torch.dtype, mean: float = 0.0, what: str = "y") -> None:
    """Within the table's tolerance for values of the size of what is expected, and of inputs around `mean`."""
    size = max(1.0, float(np.abs(expected).max(initial=0.0)))
    wide = actual.detach().double().numpy()
    np.testing.assert_allclose(wide, expected, rtol=0, atol=TOLERANCE[dtype] * (mean + size), err_msg=what)


def assert_same(state: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    """Equal to the bit; NaN equals NaN."""
    assert state.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(
            state[name], value, rtol=0, atol=0, equal_nan=True, msg=lambda text, n=name: n + text
        )
