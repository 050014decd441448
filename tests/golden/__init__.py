"""Stored numbers of the authors' code: `load("bn_2d")`, or all that match: `cases("bn_scaleinit_*")`.

A case is one .npz file: arrays, and a JSON text `meta` that says what they are. Tests choose cases by file name and
read everything else from `meta`, so that other shapes and seeds in the same format can be replayed as they are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """One golden file.

    Args:
        meta: origin, constructor arguments, roles and tolerance.
        arrays: as stored, NumPy.
    """

    name: str
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key].copy())

    def by_role(self, prefix: str) -> dict[str, Tensor]:
        """Arrays `<prefix>.<name>` under the role of each name: `by_role("grad")["gamma"]`."""
        roles = self.meta.get("roles", {})
        return {roles.get(name, name): value for name, value in self.under(prefix).items()}

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Arrays `<prefix>.<name>` by name: `under("buf1")["running_mean"]`."""
        return {k.removeprefix(f"{prefix}."): self.tensor(k) for k in self.arrays if k.startswith(f"{prefix}.")}

    def assert_close(self, actual: Tensor | np.ndarray, expected: Tensor | np.ndarray, what: str = "") -> None:
        """|a - b| <= atol + rtol max|b|, with the tolerances of the case."""
        a, b = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
        assert a.shape == b.shape, f"{self.name} {what}: {a.shape} instead of {b.shape}"
        tol = self.meta["tol"]
        worst = np.abs(a - b).max(initial=0.0)
        allowed = tol["atol"] + tol["rtol"] * np.abs(b).max(initial=0.0)
        assert worst <= allowed, f"{self.name} {what}: off by {worst}, allowed {allowed}"


def load(name: str, root: Path = HERE) -> Case:
    with np.load(root / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return Case(name, json.loads(str(arrays.pop("meta"))), arrays)


def cases(pattern: str, root: Path = HERE) -> list[Case]:
    """All cases whose file name matches, by name; an error where there is none."""
    found = [load(path.stem, root) for path in sorted(root.glob(f"{pattern}.npz"))]
    assert found, f"no golden case {pattern!r} in {root}"
    return found
