"""Replays a case: finds what claims it, runs it through the steps of the format, and says what came of it."""

from __future__ import annotations

import copy
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from normlab.errors import SpecError
from tests.golden import Case, read
from tests.golden.claim import Claim
from tests.golden.claims import find
from tests.golden.comparison import Comparison

Status = Literal["matched", "failed", "unclaimed"]


@dataclass(frozen=True)
class Result:
    """What came of a case; its text is the line that is printed."""

    name: str
    status: Status
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.status:<9} {self.name}" + (f" ({self.detail})" if self.detail else "")


def replay_file(path: Path) -> Result:
    """The result of one file; one that cannot be read has failed."""
    try:
        case = read(path)
    except Exception as error:
        return Result(path.stem, "failed", f"cannot be read: {error!r}")
    return replay(case)


def replay(case: Case) -> Result:
    """The result of one case; an exception in it is a failure of this case, and of no other."""
    compare = Comparison(case)
    try:
        found = find(case)
        if found is None:
            told = {key: value for key, value in (("kind", case.kind), ("class", case.cls)) if value}
            return Result(case.name, "unclaimed", ", ".join(f"{key} {value!r}" for key, value in told.items()))
        if isinstance(found, Claim):
            replay_layer(found, compare)
        else:
            found(compare)
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {error} [{Path(at.filename).name}:{at.lineno}]"
        return Result(case.name, "failed", " ".join(told.split()))
    return _result(compare)


def _result(compare: Comparison) -> Result:
    name = compare.case.name
    if compare.failures:
        _, worst = max(compare.failures, key=lambda failure: failure[0])
        others = len(compare.failures) - 1
        return Result(name, "failed", worst + (f"; {others} more differ" if others else ""))
    left = compare.left()
    return Result(name, "matched", "; ".join([*compare.notes, *([f"not compared: {', '.join(left)}"] if left else [])]))


def replay_layer(claim: Claim, compare: Comparison) -> None:
    """Untrained eval, training step, eval, second training forward, as far as the case has them."""
    layer, case = claim.layer, compare.case
    compare.instead = claim.instead
    compare.used(*claim.apart, *(key for key in case.arrays if key.startswith(("param.", "buf0."))))
    if claim.note:
        compare.note(claim.note)
    for array, value in claim.further.items():
        compare.close(array, value)
    if "effective_weight" in case.arrays:
        compare.close("effective_weight", layer.effective_weight())
    if case.expect == "nan" and _refuses(layer, case):
        compare.notes.clear()
        compare.note("refused")
        compare.used(*case.arrays)
        return
    _eval(claim, compare, "y_eval_untrained")
    _train(claim, compare)
    _eval(claim, compare, "y_eval")
    if "x2" in case.arrays:
        compare.used("x2")
        with torch.no_grad():
            layer.train()(case.tensor("x2"))
        _state(claim, compare, "buf2", dict(layer.named_buffers()))


def _refuses(layer: torch.nn.Module, case: Case) -> bool:
    try:
        copy.deepcopy(layer)(case.tensor("x"))
    except SpecError:
        return True
    return False


def _eval(claim: Claim, compare: Comparison, array: str) -> None:
    compare.used("x_eval")
    if array in compare.case.arrays and array not in claim.apart:
        with torch.no_grad():
            compare.close(array, claim.layer.eval()(compare.case.tensor("x_eval")))


def _train(claim: Claim, compare: Comparison) -> None:
    layer, case = claim.layer.train(), compare.case
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    leaf = case.tensor("x").requires_grad_()
    x = leaf.clone()  # which a layer could write to, where it could not write to a leaf
    y = layer(x)
    compare.used("x", "dy")
    compare.close("y_train", y)
    compare.true("x", torch.equal(x, leaf), "was written to")
    y.backward(case.tensor("dy"))
    compare.close("dx", leaf.grad)
    _gradients(claim, compare)
    _state(claim, compare, "buf1", dict(layer.named_buffers()))
    after = dict(layer.named_parameters())
    _state(claim, compare, "param1", after)
    for name, ours in claim.names.items():
        if ours in before and f"param1.{name}" not in case.arrays:
            compare.true(f"param.{name}", torch.equal(after[ours], before[ours]), "was changed by the forward")


def _gradients(claim: Claim, compare: Comparison) -> None:
    """Of every parameter; where the original code gives none, ours is none or 0."""
    parameters = dict(claim.layer.named_parameters())
    for name in compare.case.under("param"):
        ours, array = claim.names[name], f"grad.{name}"
        gradient = None if ours is None else parameters[ours].grad
        if array in compare.case.arrays and gradient is not None:
            compare.close(array, gradient)
        elif array in compare.case.arrays:
            compare.fail(array, "is missing")
        else:
            compare.true(array, gradient is None or not gradient.any(), "is not 0, and theirs is none")


def _state(claim: Claim, compare: Comparison, prefix: str, ours: dict[str, Tensor]) -> None:
    for name in compare.case.under(prefix):
        if claim.names[name] is None:
            compare.used(f"{prefix}.{name}")
        else:
            compare.close(f"{prefix}.{name}", ours[claim.names[name]])
