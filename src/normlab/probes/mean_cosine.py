"""Mean pairwise cosine: near 1 where a layer no longer tells the examples apart."""

from __future__ import annotations

from torch import Tensor

from normlab.probes.base import PROBES, Probe, undefined
from normlab.probes.cosine_matrix import cosine_matrix


def mean_cosine(x: Tensor) -> Tensor:
    """The mean cosine of the angle between two different examples of the batch.

    An example that is 0 everywhere has cosine 0 with the others.

    Args:
        x: activations [N, ...], after the nonlinearity where it is to count.

    Returns:
        [], from -1 / (N - 1) to 1; NaN for one example.

    Source: Lubana et al., arXiv:2106.05956, and their code.
    """
    return _off_diagonal(cosine_matrix(x))


def _off_diagonal(cosines: Tensor) -> Tensor:
    n = len(cosines)
    return (cosines.sum() - cosines.trace()) / (n * (n - 1)) if n > 1 else undefined(cosines)


@PROBES.register("mean_cosine")
def mean_cosine_probe() -> Probe:
    """`mean_cosine` of what leaves the layer."""
    return Probe("mean_cosine", "cosines", lambda _, cosines: _off_diagonal(cosines))
