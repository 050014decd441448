"""`normalize`: moments as asked for, scale·x + shift, a floor, a residual; on every backend."""

from __future__ import annotations

import pytest
import torch

from normlab import functional as F
from normlab.errors import SpecError, UnknownName
from normlab.functional import backends
from tests.conformance.registry import on
from tests.conftest import TOLERANCE

BACKENDS = pytest.mark.parametrize("backend", ["eager", "numba", None])
SHAPES = {2: (4, 6), 3: (4, 6, 7), 4: (4, 6, 3, 5), 5: (4, 6, 3, 2, 5), 6: (4, 6, 1, 3, 2, 2)}


def near(actual, expected, dtype=torch.float64):
    size = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=TOLERANCE[dtype] * size)


def wide(v, x):
    return v.reshape(*v.shape, *[1] * (x.dim() - v.dim()))


@BACKENDS
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rank", SHAPES)
def test_moments_are_those_of_each_map(rank, dtype, backend):
    if backend == "numba" and dtype == torch.bfloat16:
        return
    x, seen = (torch.randn(SHAPES[rank]) * 3 + 2).to(dtype), []
    with on(backend):
        F.normalize(x, lambda m: seen.append((m.mean, m.var, m.count, m.size, m.shape)) or (m.var, m.mean))
    mean, var, count, size, shape = seen[0]
    flat = x.double().reshape(4, 6, -1)
    assert mean.dtype == var.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    near(mean, flat.mean(2), torch.promote_types(dtype, torch.float32))
    near(var, flat.var(2, correction=0), torch.promote_types(dtype, torch.float32))
    assert (count, size, shape) == (flat.shape[2], x.shape, (4, 6))


@BACKENDS
@pytest.mark.parametrize("size", [1, 2, 1023, (1 << 14) - 1, (1 << 14) + 1, 70_001])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_moments_of_long_maps_far_from_zero(layout, size, backend):
    x = (torch.randn(2, 3, size) if layout == "rows" else torch.randn(2, size, 3).movedim(2, 1)) + 1000
    x, seen = x + torch.linspace(-20, 20, size), []
    with on(backend):
        F.normalize(x, lambda m: seen.append((m.mean, m.var)) or (m.var, m.mean))
    wide = x.double()
    torch.testing.assert_close(seen[0][0].double(), wide.mean(2), rtol=1e-6, atol=0)
    torch.testing.assert_close(seen[0][1].double(), wide.var(2, correction=0), rtol=2e-5, atol=1e-6)


@BACKENDS
@pytest.mark.parametrize("shapes", [((4, 6), (4, 6)), ((1, 6), (4, 1)), ((1, 1), (6,)), ((4, 1), (1, 6))], ids=str)
def test_scale_and_shift_broadcast_and_have_gradients_of_their_shape(shapes, backend):
    x = torch.randn(4, 6, 3, 5).double().requires_grad_()
    scale, shift = (torch.randn(shape).double().requires_grad_() for shape in shapes)
    g = torch.randn(x.shape).double()
    with on(backend):
        y = F.normalize(x, lambda m: (scale, shift))
        found = torch.autograd.grad(y, (x, scale, shift), g)
    expected = wide(scale.expand(4, 6), x) * x + wide(shift.expand(4, 6), x)
    near(y, expected)
    for a, e in zip(found, torch.autograd.grad(expected, (x, scale, shift), g), strict=True):
        assert a.shape == e.shape
        near(a, e)


@BACKENDS
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("floor", ["relu", "channel", "grid"])
def test_floor_and_residual(floor, residual, backend):
    x, r, g = (torch.randn(4, 6, 3, 5).double() for _ in range(3))
    low = (
        {"relu": torch.zeros(1, 1), "channel": torch.randn(6), "grid": torch.randn(4, 6)}[floor]
        .double()
        .requires_grad_()
    )
    x, r, w = x.requires_grad_(), r.requires_grad_(), torch.randn(4, 6).double().requires_grad_()
    of = [x, w, *([r] if residual else []), *([low] if floor != "relu" else [])]
    given = {"activation": "relu"} if floor == "relu" else {"floor": low}
    with on(backend):
        y = F.normalize(x, lambda m: (w + m.var, m.mean), residual=r if residual else None, **given)
        found = torch.autograd.grad(y, of, g)
    mean, var = x.mean((2, 3)), x.var((2, 3), correction=0)
    z = wide(w + var, x) * x + wide(mean, x) + (r if residual else 0)
    expected = torch.where(z > wide(low.expand(4, 6), x), z, wide(low.expand(4, 6), x))
    near(y, expected)
    for a, e in zip(found, torch.autograd.grad(expected, of, g), strict=True):
        near(a, e)


@BACKENDS
def test_where_the_value_is_the_floor_the_floor_has_the_gradient(backend):
    x = torch.zeros(2, 3, 4).double().requires_grad_()
    low = torch.zeros(3).double().requires_grad_()
    with on(backend):
        F.normalize(x, lambda m: (torch.ones(1, 1).double(), torch.zeros(1, 1).double()), floor=low).sum().backward()
    assert x.grad.eq(0).all()
    assert low.grad.eq(8).all()


@BACKENDS
def test_gradients_of_some_inputs_alone(backend):
    w = torch.randn(4, 6).double().requires_grad_()
    x = torch.randn(4, 6, 3, 5).double()
    with on(backend):
        F.normalize(x, lambda m: (w, m.mean)).sum().backward()
        near(w.grad, x.sum((2, 3)))
        x.requires_grad_()
        F.normalize(x, lambda m: (m.var.detach(), m.mean.detach())).sum().backward()
        near(x.grad, wide(x.detach().var((2, 3), correction=0), x).expand_as(x))


@BACKENDS
def test_moments_may_be_used_without_what_is_normalized(backend):
    x, kept = torch.randn(4, 6, 3, 5).double().requires_grad_(), []
    with on(backend):
        F.normalize(x, lambda m: kept.append(m.var) or (m.mean, m.var))
        kept[0].sum().backward()
    near(x.grad, 2 * (x.detach() - x.detach().mean((2, 3), keepdim=True)) / 15)


def test_moments_that_nobody_asks_for_are_not_computed(monkeypatch):
    def moments(x):
        raise AssertionError("read for nothing")

    monkeypatch.setattr(backends.eager, "moments", moments)
    with F.use_backend("eager"):
        y = F.normalize(torch.ones(2, 3, 4), lambda m: (torch.ones(1, 3), torch.zeros(1, 3)))
    assert y.eq(1).all()


@pytest.mark.parametrize(
    ("x", "given", "error", "message"),
    [
        (torch.ones(2, 3, dtype=torch.int32), {}, SpecError, r"floating point.*got torch.int32.*x.float\(\)"),
        (torch.ones(0, 3, 4), {}, SpecError, r"nothing to normalize in an input \[0, 3, 4\]"),
        (torch.ones(3), {}, SpecError, r"got \[3\]. One example needs a batch: x\[None\]"),
        (torch.ones(2, 3, 4), {"activation": "gelu"}, UnknownName, "unknown activation 'gelu'"),
        (torch.ones(2, 3, 4), {"activation": "relu", "floor": torch.zeros(3)}, SpecError, "one or the other"),
        (torch.ones(2, 3, 4), {"residual": torch.ones(2, 3, 1)}, SpecError, "residual should be as x"),
        (torch.ones(2, 3, 4), {"residual": torch.ones(2, 3, 4).double()}, SpecError, "of torch.float64"),
    ],
)
def test_what_cannot_be_normalized(x, given, error, message):
    with pytest.raises(error, match=message):
        F.normalize(x, lambda m: (m.var, m.mean), **given)
