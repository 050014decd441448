"""A bug of its own: what the last node told the first kept both alive, and the input with them."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

import normlab
from normlab.layers import NORMS

OPTIONS = {"group": "group(num_groups=4)", "evo_s0": "evo_s0(num_groups=4)"}
OPTIONS |= {"ilm": "ilm(num_groups=4, key_group_size=4)"}


class Probe:
    """Something that can be watched."""


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_nothing_of_a_step_stays_in_memory(name, create_graph):
    layer = NORMS.create(OPTIONS.get(name, name), num_features=8)
    x = torch.randn(4, 8, 12, 12, requires_grad=True)
    with normlab.use_backend("numba" if name not in ("equilibrium", "whitening") else "eager"):
        hidden = x * 2
        probe = Probe()
        hidden.grad_fn.metadata["probe"] = probe  # freed with the graph, if the graph is
        watched = weakref.ref(probe)
        y = layer(hidden)
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=create_graph)
    if create_graph:
        gradient.sum().backward()
    del y, hidden, gradient, x, probe
    gc.collect()
    assert watched() is None
