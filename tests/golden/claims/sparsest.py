"""sparsemax and SparsestMax on stored inputs, row by row, with their Jacobians."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from normlab.functional.sparsest import sparsemax, sparsestmax
from tests.golden.comparison import Comparison


def replay(compare: Comparison) -> None:
    """Every array by its name: `z4`, `r4`, `sparsemax4`, …; without a number, K is the size of z."""
    arrays = compare.case.arrays
    for z in [key for key in arrays if key.startswith("z")]:
        _rows(compare, z.removeprefix("z"))


def _rows(compare: Comparison, k: str) -> None:
    case = compare.case
    z, present = case.tensor(f"z{k}"), case.arrays.keys()
    compare.used(f"z{k}", f"r{k}")
    if f"sparsemax{k}" in present:
        compare.close(f"sparsemax{k}", sparsemax(z))
    if f"jac_sparsemax{k}" in present:
        compare.close(f"jac_sparsemax{k}", _jacobians(sparsemax, z))
    if "support_sparsemax" in present:
        compare.close("support_sparsemax", (sparsemax(z) > 1e-12).sum(-1))
    for code in (f"sparsestmax{k}", "p_code"):
        if code in present:
            _edge(compare, z, case.tensor(f"r{k}"), code)
    if "p_def" in present:
        _definition(compare, z, case.tensor(f"r{k}"))


def _edge(compare: Comparison, z: Tensor, r: Tensor, code: str) -> None:
    """The authors' numbers where they are finite and add up to 1, as they do but for rounding and ties."""
    theirs = compare.case.tensor(code)
    ok = theirs.isfinite().all(-1) & ((theirs.sum(-1) - 1).abs() < 1e-6)
    if "code_ok" in compare.case.arrays:
        ok &= compare.case.tensor("code_ok").bool()
    if compare.case.expect == "nan":
        ok[:] = False  # ties, where what they give is no more than chance
    if not ok.all():
        compare.note("ties" if compare.case.expect == "nan" else "lost_mass")
    compare.used(code, "code_ok", "code_equals_def")
    ours = sparsestmax(z, r[:, None])
    compare.against(code, ours[ok], theirs[ok])
    _far(compare, ours, r, code)
    if "jac_code" in compare.case.arrays:
        jacobian = [
            _jacobians(lambda row, at=at: sparsestmax(row, at), row[None])[0] for row, at in zip(z, r, strict=True)
        ]
        compare.used("jac_code")
        compare.against("jac_code", torch.stack(jacobian)[ok], compare.case.tensor("jac_code")[ok])


def _definition(compare: Comparison, z: Tensor, r: Tensor) -> None:
    ours, theirs = sparsestmax(z, r[:, None], centre="simplex"), compare.case.tensor("p_def")
    compare.used("p_def", "has_unique_answer")
    sure = theirs.isfinite().all(-1)  # they say so where there is one nearest point only
    compare.against("p_def", ours[sure], theirs[sure])
    _far(compare, ours, r, "p_def")


def _far(compare: Comparison, p: Tensor, r: Tensor, array: str) -> None:
    """On the simplex, and at least r from its centre, as far as that can be."""
    k = p.shape[-1]
    compare.true(array, (p >= 0).all() and ((p.sum(-1) - 1).abs() < 1e-9).all(), "is not on the simplex")
    farthest = (1 - 1 / k) ** 0.5  # that of a corner
    compare.true(array, ((p - 1 / k).norm(dim=-1) >= r.clamp(max=farthest) - 1e-9).all(), "is too near the centre")


def _jacobians(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """dp_i/dz_j of each row, [rows, K, K]."""
    return torch.stack([torch.autograd.functional.jacobian(function, row) for row in z])


CHECKS = {"sparsemax": replay, "sparsestmax": replay}
"""By function in the original code."""
