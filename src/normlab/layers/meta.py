"""Meta Normalization: moments over any sets of examples and channels."""

from __future__ import annotations

from functools import partial
from typing import Literal, Unpack

import torch
from torch import Tensor

from normlab import functional as F
from normlab.errors import SpecError
from normlab.functional import Moments
from normlab.layers.base import NORMS, MixNorm, Options, among
from normlab.layers.group import OneValue

Sets = Literal["identity", "ones"] | list[list[int]] | Tensor


@NORMS.register("meta")
class MetaNorm(MixNorm):
    """Normalize each example and channel by the moments of a set of examples and channels.

        μ = A_U μ_IN A_V,   σ² = A_U (σ²_IN + μ_IN²) A_V - μ²,   y = γ (x - μ) / √(σ² + eps) + β

    U and V are binary; row n of U [N, N] has ones for the examples in the set of example n, column c of V [C, C] for
    the channels in the set of channel c; A_U and A_V have rows and columns that sum to 1. U and V the identities give
    instance norm; U of ones batch norm, V of ones layer norm, V of blocks group norm. There are no running statistics:
    eval mode is training mode.

    Args:
        num_features: C, the number of channels.
        U: "identity", "ones", or a matrix, which fixes the batch size.
        V: the same for the channels.
        one_value: sets of one value, whose variance is 0, are an "error", or give the "bias".

    Raises:
        SpecError: a matrix that is not square, not binary, of the wrong size, or with an empty set.

    Source: slides of W. Shao. Their variance, A_U σ²_IN A_V, leaves out the variance of the means.
    """

    U: Tensor | None
    V: Tensor | None

    def __init__(
        self,
        num_features: int,
        *,
        U: Sets = "identity",
        V: Sets = "identity",
        one_value: OneValue = "error",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(num_features, **options)
        among("one_value", one_value, ("error", "bias"))
        self.one_value: OneValue = one_value
        self._sets = {"U": U if isinstance(U, str) else "matrix", "V": V if isinstance(V, str) else "matrix"}
        self._fewest = 1
        for name, given, dim in (("U", U, 1), ("V", V, 0)):
            if isinstance(given, str):
                among(name, given, ("identity", "ones"))
                self.register_buffer(name, None)
                continue
            matrix = _matrix(name, given, dim)
            self._fewest *= int(matrix.sum(dim).min())
            self.add_buffer(name, tuple(matrix.shape), partial(_copy, matrix))
        if self.V is not None and len(self.V) != num_features:
            raise SpecError(f"V is {list(self.V.shape)}; for {num_features} channels it should be {[num_features] * 2}")

    def mix(self, m: Moments) -> Moments:
        """The moments of each example's and channel's set."""
        n = m.shape[0]
        if self.U is not None and len(self.U) != n:
            raise SpecError(
                f"U is {list(self.U.shape)}, so a batch has {len(self.U)} examples; got {n}, input {m.size}"
            )
        self._check_sizes(m)
        for name, together in (("U", F.pool_batch), ("V", F.pool_channels)):
            if self._sets[name] == "ones":
                m = together(m)
            elif self._sets[name] == "matrix":
                m = F.pool_by(m, self.U if name == "U" else None, self.V if name == "V" else None)
        return m

    def _check_sizes(self, m: Moments) -> None:
        joined = (self._sets["U"] == "ones" and m.shape[0] > 1) or (self._sets["V"] == "ones" and m.shape[1] > 1)
        if self._fewest == 1 and m.count == 1 and not joined and self.one_value == "error":
            raise SpecError(
                f"a set of U and V holds one value of an input of size {m.size}: its variance is 0, and all that is "
                "left of x is the bias. Use larger sets, or one_value='bias' if that is meant."
            )


def _matrix(name: str, given: list[list[int]] | Tensor, dim: int) -> Tensor:
    try:
        matrix = torch.as_tensor(given, dtype=torch.float32, device="cpu")
    except (ValueError, TypeError) as error:
        raise SpecError(f"{name} should be 'identity', 'ones' or a square matrix of 0 and 1: {error}") from None
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise SpecError(f"{name} should be a square matrix; got shape {list(matrix.shape)}")
    if not ((matrix == 0) | (matrix == 1)).all():
        raise SpecError(f"{name} should hold 0 and 1 only; it has {matrix[(matrix != 0) & (matrix != 1)][0]:g}")
    if (matrix.sum(dim) == 0).any():
        empty = int((matrix.sum(dim) == 0).nonzero()[0])
        raise SpecError(f"{'row' if dim else 'column'} {empty} of {name} is all 0: its set is empty")
    return matrix


def _copy(matrix: Tensor, into: Tensor) -> None:
    into.copy_(matrix)
