"""Stored numbers of the authors' code: `load("bn_2d")`, or all that match: `cases("bn_scaleinit_*")`.

A case is one .npz file: arrays, and a JSON text `meta` that says what they are. `python -m tests.golden DIR` replays
all cases of a directory; it reads everything from `meta` and the arrays and nothing from file names, so that other
shapes, seeds and arguments in the same format can be replayed as they are.
"""

from __future__ import annotations

import json
import re
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

    @property
    def cls(self) -> str:
        """Class or function of the original code, without what is said about it; "" where a formula was computed."""
        return re.split(r"[^\w.]", self.meta.get("origin", {}).get("cls") or "")[0]

    @property
    def kind(self) -> str:
        return self.canonical.get("kind", "")

    @property
    def canonical(self) -> dict[str, Any]:
        return self.meta.get("canonical", {})

    @property
    def expect(self) -> str:
        return self.meta.get("expect", "ok")

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.meta.get("dtype", "float64"))

    @property
    def channels(self) -> int:
        return self.arrays["x"].shape[1]

    def told(self, key: str, default: Any = None) -> Any:
        """An argument of the constructor, or of its neutral description; `default` where neither has it."""
        for arguments in (self.meta.get("ctor", {}), self.canonical):
            if key in arguments:
                return arguments[key]
        return default

    def eps(self, default: float = 1e-5) -> float:
        """The eps told; null stands for the default of the code."""
        told = self.told("eps")
        return default if told is None else told

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key].copy())

    def by_role(self, prefix: str) -> dict[str, Tensor]:
        """Arrays `<prefix>.<name>` under the role of each name: `by_role("grad")["gamma"]`."""
        roles = self.meta.get("roles", {})
        return {roles.get(name, name): value for name, value in self.under(prefix).items()}

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Arrays `<prefix>.<name>` by name: `under("buf1")["running_mean"]`."""
        return {k.removeprefix(f"{prefix}."): self.tensor(k) for k in self.arrays if k.startswith(f"{prefix}.")}

    def difference(self, actual: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> tuple[float, float]:
        """Largest |a - b|, and what is allowed: atol + rtol max|b|, with the tolerances of the case."""
        a, b = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
        assert a.shape == b.shape, f"{a.shape} instead of {b.shape}"
        tol = self.meta.get("tol", {"atol": 1e-10, "rtol": 1e-9})
        worst = float(np.abs(a - b).max(initial=0.0))
        return worst, tol["atol"] + tol["rtol"] * float(np.abs(b).max(initial=0.0))

    def assert_close(self, actual: Tensor | np.ndarray, expected: Tensor | np.ndarray, what: str = "") -> None:
        """|a - b| <= atol + rtol max|b|, with the tolerances of the case."""
        worst, allowed = self.difference(actual, expected)
        assert worst <= allowed, f"{self.name} {what}: off by {worst}, allowed {allowed}"


def read(path: Path) -> Case:
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    return Case(path.stem, json.loads(str(arrays.pop("meta"))), arrays)


def load(name: str, root: Path = HERE) -> Case:
    return read(root / f"{name}.npz")


def cases(pattern: str, root: Path = HERE) -> list[Case]:
    """All cases whose file name matches, by name; an error where there is none."""
    found = [read(path) for path in sorted(root.glob(f"{pattern}.npz"))]
    assert found, f"no golden case {pattern!r} in {root}"
    return found
