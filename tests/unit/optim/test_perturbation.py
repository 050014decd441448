"""ε by its formulas."""

from __future__ import annotations

import pytest
import torch

from normlab.optim.inplace import add_
from normlab.optim.perturbation import perturbation

W = torch.tensor([[1.0, -2.0], [0.0, 2.0]])
G = [torch.tensor([[3.0, 1.0], [-2.0, 0.0]]), torch.tensor([-1.0])]  # of W and of a bias


def of(gradients=G, *, rho=0.5, adaptive=None, p=2, eta=0.0):
    weights = [W] if adaptive else []
    epsilons = [torch.zeros_like(g) for g in gradients]
    add_(epsilons, *perturbation(gradients, weights, rho=rho, adaptive=adaptive, p=p, eta=eta))
    return epsilons


FACTORS = {None: torch.ones(2, 2), "elementwise": W.abs() + 0.5, "layerwise": torch.full((2, 2), 3.0 * 1.5)}


@pytest.mark.parametrize("adaptive", FACTORS)
def test_p_2_is_rho_t2_g_over_the_joint_norm(adaptive):
    t = FACTORS[adaptive]
    size = ((t * G[0]).square().sum() + 1.0).sqrt()
    ours = of(adaptive=adaptive, eta=0.5)
    torch.testing.assert_close(ours, [0.5 * t**2 * G[0] / size, 0.5 * G[1] / size])


@pytest.mark.parametrize("adaptive", ["elementwise", "layerwise"])
def test_p_inf_is_rho_t_sign_of_g(adaptive):
    ours = of(adaptive=adaptive, p="inf", eta=0.5)
    torch.testing.assert_close(ours, [0.5 * FACTORS[adaptive] * G[0].sign(), 0.5 * G[1].sign()])


def test_eta_is_a_factor_of_the_layerwise_size():
    with_eta = of(adaptive="layerwise", p="inf", eta=0.1)
    torch.testing.assert_close(with_eta[0], of(adaptive="layerwise", p="inf")[0] * 1.1)


@pytest.mark.parametrize("p", [2, "inf"])
@pytest.mark.parametrize("adaptive", ["elementwise", "layerwise"])
def test_the_scale_of_the_gradients_does_not_matter(adaptive, p):
    scaled = of([65536 * g for g in G], adaptive=adaptive, p=p)
    torch.testing.assert_close(scaled, of(adaptive=adaptive, p=p))


@pytest.mark.parametrize("p", [2, "inf"])
def test_ascent_also_where_weights_are_negative(p):
    step, _ = of(adaptive="elementwise", p=p)
    assert (step * G[0] >= 0).all()


def test_no_gradient_is_no_step():
    assert not any(e.any() for e in of([0 * g for g in G]))


def test_of_tensors_of_several_dtypes_the_norm_is_taken_in_the_widest():
    mixed = [G[0].half() * 2e4, G[1].double()]  # a norm beyond the half numbers
    ours = of(mixed)
    assert [e.dtype for e in ours] == [torch.half, torch.double]
    assert all(e.isfinite().all() for e in ours)
    torch.testing.assert_close(torch.stack([e.double().norm() for e in ours]).norm().item(), 0.5, rtol=1e-3, atol=0)


@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("adaptive", "p"), [(None, 2), ("elementwise", 2), ("layerwise", 2), ("layerwise", "inf")])
def test_an_accelerator_does_the_same(device, adaptive, p):
    gradients = [g.to(device) for g in G]
    epsilons = [torch.zeros_like(g) for g in gradients]
    weights = [W.to(device)] if adaptive else []
    add_(epsilons, *perturbation(gradients, weights, rho=0.5, adaptive=adaptive, p=p, eta=0.1))
    expected = of(adaptive=adaptive, p=p, eta=0.1)
    assert [(e.device.type, e.shape) for e in epsilons] == [(device, e.shape) for e in expected]
    if device == "cuda":
        torch.testing.assert_close([e.cpu() for e in epsilons], expected)
