"""Sparsemax and SparsestMax are the nearest points that their definitions allow."""

from __future__ import annotations

import math

import pytest
import torch

from normlab.functional.sparsest import sparsemax, sparsestmax
from tests.conftest import TOLERANCE

CENTRES = pytest.mark.parametrize("centre", ["edge", "simplex"])
VERTICES = torch.eye(3).double()


def near(actual, expected, atol=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def draws(count, size=3):
    return (
        torch.randn(count, size).double()
        * torch.tensor([0.1, 0.5, 1.0, 3.0]).double().repeat_interleave(count // 4)[:, None]
    )


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_sparsemax_is_the_nearest_point_of_the_simplex(size):
    z = draws(400, size)
    p = sparsemax(z)
    near(p.sum(1), torch.ones(400).double())
    assert p.ge(0).all()
    # of a convex set: p is nearest if no vertex lies on z's side of it, (z - p)·(v - p) <= 0
    assert ((z - p) - ((z - p) * p).sum(1, keepdim=True)).max() < 1e-12


@pytest.mark.parametrize("radius", [0.0, 0.2, 0.45, 0.6, 0.75, 0.81])
def test_from_the_centre_of_the_simplex_it_is_the_nearest_point_outside_the_circle(radius):
    z = draws(200)
    p = sparsestmax(z, radius, centre="simplex")
    near(p.sum(1), torch.ones(200).double())
    assert p.ge(0).all()
    assert (p - 1 / 3).norm(dim=1).min() > radius - 1e-9
    best = candidates(radius)  # [M, 3]
    found = (z - p).norm(dim=1)
    nearest = torch.cdist(z, best).min(1).values
    assert (found - nearest).max() < 1e-9


def candidates(radius):
    """A fine grid of the simplex without the circle around its centre, and of the circle's arcs in it."""
    a, b = torch.meshgrid(*[torch.linspace(0, 1, 201).double()] * 2, indexing="ij")
    grid = torch.stack([a, b, 1 - a - b], -1).reshape(-1, 3)
    angle = torch.linspace(0, 2 * math.pi, 20001).double()[:, None]
    e1, e2 = torch.tensor([1.0, -1, 0]).double() / 2**0.5, torch.tensor([1.0, 1, -2]).double() / 6**0.5
    circle = 1 / 3 + radius * (angle.cos() * e1 + angle.sin() * e2)
    points = torch.cat([grid, circle])
    return points[(points.min(1).values >= -1e-15) & ((points - 1 / 3).norm(dim=1) >= radius - 1e-12)]


@CENTRES
def test_radius_zero_is_sparsemax(centre):
    z = draws(400)
    near(sparsestmax(z, 0.0, centre=centre), sparsemax(z))


@CENTRES
@pytest.mark.parametrize("radius", [0.8165, 0.9, 1.0])
def test_beyond_the_circumcircle_it_is_one_hot(radius, centre):
    z = draws(400)
    p = sparsestmax(z, radius, centre=centre)
    assert torch.equal(p, VERTICES[p.argmax(1)])
    assert torch.equal(p.argmax(1), z.argmax(1))


def test_from_the_middle_of_an_edge_it_is_one_hot_earlier():
    z = torch.tensor([[0.7, 0.4, -2.0], [0.2, 3.0, 2.9]]).double()  # sparsemax on an edge
    assert (sparsemax(z) == 0).sum(1).eq(1).all()
    assert torch.equal(sparsestmax(z, 0.7072), VERTICES[[0, 1]])
    assert not torch.equal(sparsestmax(z, 0.7072, centre="simplex"), VERTICES[[0, 1]])
    for radius in (0.3, 0.6):  # the middle is (1/2, 1/2): its distance is the radius
        p = sparsestmax(z, radius)
        middle = (p > 0).double() / 2
        near((p - middle).norm(dim=1), torch.full((2,), radius, dtype=torch.float64))


def test_where_all_entries_are_in_support_both_centres_agree():
    z = 0.05 * torch.randn(400, 3).double()
    for radius in (0.1, 0.3, 0.5, 0.7):
        near(sparsestmax(z, radius), sparsestmax(z, radius, centre="simplex"), 1e-10)


@CENTRES
@pytest.mark.parametrize("radius", [0.0, 1e-9, 0.3, 0.41, 0.5, 0.71, 0.82, 1.0])
def test_ties_and_near_vertices_are_points_of_the_simplex(radius, centre):
    hard = [
        [1.0, 1, 1],
        [2, 2, 0],
        [0, 5, 5],
        [1, 0, 0],
        [1 - 1e-16, 1e-16, 0],
        [1e-9, 0, 0],
        [30, 0, -30],
        [-1, -1, -1],
    ]
    z = torch.tensor(hard).double().requires_grad_()
    p = sparsestmax(z, radius, centre=centre)
    near(p.sum(1).detach(), torch.ones(len(hard)).double())
    assert p.ge(0).all()
    (p * torch.randn_like(p)).sum().backward()
    assert z.grad.isfinite().all()


@CENTRES
def test_equal_entries_prefer_the_first(centre):
    for z in (torch.ones(3).double(), torch.tensor([1.0, 1.0, -5.0]).double()):
        assert sparsestmax(z, 1.0, centre=centre).tolist() == [1, 0, 0]
        assert sparsestmax(z, 0.3, centre=centre).argmax() == 0


@CENTRES
@pytest.mark.parametrize("radius", [0.0, 0.25, 0.45, 0.6, 0.78])
def test_gradient_is_that_of_finite_differences(radius, centre):
    for z in draws(24):
        assert torch.autograd.gradcheck(lambda z: sparsestmax(z, radius, centre=centre), z.requires_grad_())


@CENTRES
def test_dimensions_before_the_last_are_a_batch(centre):
    z = draws(24).reshape(4, 6, 3)
    together = sparsestmax(z, 0.45, centre=centre)
    for i in range(4):
        for j in range(6):
            near(together[i, j], sparsestmax(z[i, j], 0.45, centre=centre))


def test_radius_may_be_a_tensor_that_grows():
    z, last = draws(40), torch.full((40,), -1.0).double()
    for radius in torch.linspace(0, 1, 21):
        p = sparsestmax(z, radius.reshape(1), centre="simplex")
        distance = (p - 1 / 3).norm(dim=1)
        assert (distance >= last - 1e-9).all()
        last = distance


@CENTRES
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-4, 1e-5, 4e-6])
def test_no_mass_is_lost_in_float32_where_training_starts_with_equal_entries(spread, centre):
    z = 1 + spread * torch.randn(200, 3)
    for radius in (0.05, 0.3, 0.6):
        p = sparsestmax(z, radius, centre=centre)
        assert p.dtype == torch.float32
        torch.testing.assert_close(p.sum(1), torch.ones(200), rtol=0, atol=TOLERANCE[torch.float32])
        assert p.min() >= 0
