"""What a conversion did, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from normlab.errors import SpecError
from normlab.surgery.conversion import optimizers
from normlab.surgery.conversion.operation import Operation
from normlab.surgery.conversion.optimizers import Optimizer
from normlab.surgery.conversion.table import Change, Left, render


@dataclass(frozen=True, repr=False)
class ConversionRecord:
    """What `convert` did.

    Args:
        model: the model, or what stands in its place where the model itself was a norm.
        changes: layer by layer, in the order of the model.
        left: normalization layers (or convolutions) that were not chosen.
        difference: largest change of an output for the sample in eval mode; None without a sample.
        unreached: names of new layers that the sample never came to: they are not used in training, or the model holds
            the old ones in a place where modules are not looked for, such as a list.
        dry_run: nothing was changed; this is what would be.
        gone: parameters that the model has no more, by name; new: those that it did not have.
    """

    model: nn.Module
    changes: tuple[Change, ...]
    left: tuple[Left, ...]
    difference: float | None
    unreached: tuple[str, ...]
    dry_run: bool
    gone: Mapping[str, nn.Parameter]
    new: Mapping[str, nn.Parameter]
    operation: Operation

    def revert(self) -> nn.Module:
        """Put the old layers back with their tensors and hooks, and the optimizer's references.

        What was handed over is handed back as it is now, so that training in between is not lost; what was dropped is
        as it was. If nothing happened in between the model is what it was, bit for bit. Hooks that were added to the
        new layers go with them.

        Returns:
            The model of before.

        Raises:
            SpecError: a dry run; reverted already; or a layer was exchanged again since.
        """
        if self.dry_run:
            raise SpecError("a dry run changes nothing: there is nothing to revert")
        self.operation.undo()
        return self.operation.before

    def check(self, optimizer: Optimizer) -> None:
        """Refuse an optimizer that trains layers which are gone, or does not train new ones.

        Raises:
            SpecError: it does; the message names them.
        """
        reverted = self.dry_run or not self.operation.done
        gone, new = (self.new, self.gone) if reverted else (self.gone, self.new)
        optimizers.check(optimizer, gone, new)

    def table(self) -> str:
        """The changes as plain text, equal ones in one row, at most 120 columns wide."""
        footers: list[str] = []
        if self.difference is not None:
            footers += [f"largest change of an output for the sample, in eval mode: {self.difference:.3g}"]
        if self.unreached:
            footers += [f"never reached by the sample: {', '.join(self.unreached)}"]
        if (self.new or self.gone) and not self.operation.told:
            said = f"{len(self.new)} new parameters, {len(self.gone)} gone"
            advice = "an optimizer made before needs optimizer=, or to be made anew"
            footers += [f"{said}: {advice}; record.check(optimizer) finds it out"]
        return render(self.changes, self.left, footers, dry_run=self.dry_run)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse a copy: it would put layers back into the model of the original.

        Raises:
            SpecError: always.
        """
        raise SpecError("a conversion record cannot be copied or pickled: it belongs to the very model it was made for")

    def __repr__(self) -> str:
        return self.table()
