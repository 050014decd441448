"""The algebra on instance moments: pooling is taking the values together."""

from __future__ import annotations

import pytest
import torch

from normlab import functional as F
from normlab.functional import Moments
from tests.conftest import TOLERANCE

N, C = 4, 6
FAR = pytest.mark.parametrize("offset", [0.0, 1e6], ids=["centred", "far-from-zero"])


def near(actual, expected, offset=0.0):
    size = 1 + 10 * offset  # of the values, whose last digits the variance is made of
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE[torch.float64] * size**0.5)


def values(offset=0.0):
    return torch.randn(N, C, 5).double() * torch.arange(1, C + 1).view(C, 1) + offset


def moments(x):
    return Moments(x.mean(2), x.var(2, correction=0), x.shape[2])


@FAR
@pytest.mark.parametrize(
    ("pooling", "dims", "shape"),
    [
        (F.pool_batch, (0, 2), (1, C)),
        (F.pool_channels, (1, 2), (N, 1)),
        (lambda m: F.pool(F.pool(m, 0), 1), (0, 1, 2), (1, 1)),
        (lambda m: F.pool(F.pool(m, 1), 0), (0, 1, 2), (1, 1)),
    ],
    ids=["batch", "channels", "both", "both, the other way round"],
)
def test_pooled_moments_are_those_of_the_values_together(pooling, dims, shape, offset):
    x = values(offset)
    m = pooling(moments(x))
    assert m.shape == shape
    near(m.mean, x.mean(dims).reshape(shape), offset)
    near(m.var, x.var(dims, correction=0).reshape(shape), offset)
    assert m.count == x.numel() // (shape[0] * shape[1])


@FAR
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_groups_are_neighbouring_channels(groups, offset):
    x = values(offset)
    m, wide = F.pool_groups(moments(x), groups), x.reshape(N, groups, -1)
    near(m.mean, wide.mean(2).repeat_interleave(C // groups, 1), offset)
    near(m.var, wide.var(2, correction=0).repeat_interleave(C // groups, 1), offset)
    assert m.count == wide.shape[2]


@FAR
@pytest.mark.parametrize("with_columns", [True, False])
@pytest.mark.parametrize("with_rows", [True, False])
def test_sets_may_be_any(with_rows, with_columns, offset):
    x = values(offset)
    rows, columns = (torch.rand(size, size).gt(0.5).double().fill_diagonal_(1) for size in (N, C))
    m = F.pool_by(moments(x), rows if with_rows else None, columns if with_columns else None)
    rows, columns = rows if with_rows else torch.eye(N), columns if with_columns else torch.eye(C)
    for n in range(N):
        for c in range(C):
            together = x[rows[n] == 1][:, columns[:, c] == 1]
            near(m.mean[n, c], together.mean(), offset)
            near(m.var[n, c], together.var(correction=0), offset)
            count = m.count if isinstance(m.count, int) else torch.as_tensor(m.count).expand(N, C)[n, c]
            assert count == together.numel()


def test_unbiased_divides_by_one_less():
    x = values()
    m = moments(x)
    near(F.unbiased(m), x.var(2))
    near(F.unbiased(m, 0), m.var)
    near(F.unbiased(F.pool_batch(m)), x.var((0, 2))[None])


def test_blend_weighs_means_and_variances_apart():
    m = moments(values())
    parts = m, F.pool_channels(m), F.pool_batch(m)
    p, q = torch.tensor([0.2, 0.3, 0.5]).double(), torch.tensor([0.6, 0.0, 0.4]).double()
    blended = F.blend(parts, p, q)
    near(blended.mean, p[0] * m.mean + p[1] * parts[1].mean + p[2] * parts[2].mean)
    near(blended.var, q[0] * m.var + q[2] * parts[2].var)
    with pytest.raises(ValueError, match="zip"):
        F.blend(parts, p[:2], q)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("with_weight", [True, False])
def test_standardize_gives_mean_bias_and_deviation_weight(with_weight, with_bias):
    x = values()
    weight, bias = torch.rand(C).double() + 0.5, torch.randn(C).double()
    m = F.pool_batch(moments(x))
    scale, shift = F.standardize(m, weight if with_weight else None, bias if with_bias else None, 0.0)
    y = scale[..., None] * x + shift[..., None]
    near(y.mean((0, 2)), bias if with_bias else torch.zeros(C).double())
    near(y.std((0, 2), correction=0), weight if with_weight else torch.ones(C).double())


def test_detached_moments_are_the_same_without_a_graph():
    m = moments(values().requires_grad_())
    again = m.detach()
    assert m.mean.requires_grad
    assert not again.mean.requires_grad
    assert not again.var.requires_grad
    assert torch.equal(again.mean, m.mean)
    assert again.count == m.count


def test_parameters_of_less_precision_are_widened():
    m = Moments(torch.zeros(1, C), torch.ones(1, C), 2)
    scale, shift = F.standardize(m, torch.ones(C).bfloat16(), torch.ones(C).bfloat16(), 1e-5)
    assert scale.dtype == shift.dtype == torch.float32
