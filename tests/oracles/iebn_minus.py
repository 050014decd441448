"""IEBN-minus (Davis and Frank 2021): the formula of RBN-minus; they differ in the gate's initial value alone."""

from __future__ import annotations

from tests.oracles import rbn_minus

EXAMPLES = [spec.replace("rbn_minus", "iebn_minus") for spec in rbn_minus.EXAMPLES]
forward = rbn_minus.forward
