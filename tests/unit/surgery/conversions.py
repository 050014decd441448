"""What the tests of `convert` share: models, and all that there is of a model before and after."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from normlab.errors import SpecError
from normlab.surgery import convert


def trained(module, x):
    """With parameters that are not 1 and 0, and statistics of a batch, which are those of the layer itself."""
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    module.train()(x)
    return module


def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)),
        nn.ReLU(),
    )
    return trained(model, torch.randn(4, 3, 8, 8) + 1)


def snapshot(model, optimizer=None):
    """All that there is of a model and an optimizer, by identity and value."""
    modules = [
        (name, id(m), m.training, type(m), list(vars(m))) for name, m in model.named_modules(remove_duplicate=False)
    ]
    hooks = [{k: list(v) for k, v in vars(m).items() if k.endswith("hooks") and v} for m in model.modules()]
    tensors = [
        (n, id(t), t.clone() if not nn.parameter.is_lazy(t) else type(t))
        for n, t in (*model.named_parameters(), *model.named_buffers())
    ]
    state = None if optimizer is None else copy.deepcopy(optimizer.state_dict())
    held = None if optimizer is None else [[id(p) for p in g["params"]] for g in optimizer.param_groups]
    return modules, hooks, tensors, torch.get_rng_state(), state, held


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


def refused(model, spec, match, *, error=SpecError, **options):
    """Convert raises, and afterwards everything is as before."""
    before = snapshot(model, options.get("optimizer"))
    with pytest.raises(error, match=match):
        convert(model, spec, **options)
    assert same(snapshot(model, options.get("optimizer")), before)
