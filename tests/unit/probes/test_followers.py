"""Which activation follows a layer, so that its output is measured behind it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normlab import probes as P
from tests.unit.probes.models import measured, network, same


@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_full_backward_hooks_change_nothing_that_is_measured(kind):
    """Where they are, torch hands on another tensor than the one that forward hooks are given."""
    model = network()
    plain = measured(model)
    getattr(model[1], kind)(lambda *_: None)
    model[2] = nn.ReLU()  # what is changed in place must not have such hooks
    getattr(model[2], kind)(lambda *_: None)
    hooked = measured(model)
    assert hooked.places == plain.places == {"1": "2", "3.bn1": "3.relu"}
    same(plain.last, hooked.last)


def test_functional_activations_are_not_seen_and_places_tells_so():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x):
            return nn.functional.relu(self.norm(x))

    x = torch.randn(64, 4)
    for model, places in ((Functional(), {}), (nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()), {"0": "1"})):
        with P.probe(model, "activation_variance") as p:
            model(x)
        assert p.places == places
        (variance,) = p.last.values()
        assert (variance > 0.9) == (not places)  # a Gaussian's; behind the ReLU it is 0.34
