"""Whatever happens in between, the parameters are w again, bit for bit, and nothing else is left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from normlab.errors import SpecError
from normlab.optim import SAM
from tests.unit.optim.problems import batch, closure_of, network, sgd, state


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize(("first", "second"), [(1.0, torch.inf), (torch.inf, torch.inf), (torch.inf, 1.0)], ids=str)
def test_a_step_that_the_scaler_skips_restores_the_weights(first, second, unscale):
    net, (x, t) = network(), batch()
    sam = SAM(sgd(net), net, 0.3)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    sam.step(closure_of(sam, net, x, t))
    before, momentum = state(net), copy.deepcopy(sam.state_dict())
    sam.zero_grad()
    (scaler.scale(nn.functional.cross_entropy(net(x), t)) * first).backward()
    sam.first_step()
    (scaler.scale(nn.functional.cross_entropy(net(x), t)) * second).backward()
    if unscale:
        scaler.unscale_(sam)
    scaler.step(sam)
    scaler.update()
    assert scaler.get_scale() == 2.0
    assert not sam.perturbed
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    torch.testing.assert_close(sam.state_dict(), momentum, rtol=0, atol=0)
    assert net[1].num_batches_tracked == 2
    assert net[1].running_mean.isfinite().all()
    sam.step(closure_of(sam, net, x, t))  # and training goes on
    assert not torch.equal(net[0].weight, before["0.weight"])


class Fails(Exception):
    pass


@pytest.mark.parametrize("call", [1, 2])
def test_a_pass_that_raises_leaves_the_weights_as_they_were(call):
    net, (x, t) = network(), batch()
    sam = SAM(sgd(net), net, 0.3)
    inner, calls, before = closure_of(sam, net, x, t), [], state(net)
    buffers = [id(b) for b in net.buffers()]

    def closure():
        calls.append(None)
        loss = inner()
        if len(calls) == call:
            raise Fails
        return loss

    with pytest.raises(Fails):
        sam.step(closure)
    assert not sam.perturbed
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert [id(b) for b in net.buffers()] == buffers
    assert net[1].num_batches_tracked == 1
    sam.step(inner)


def test_a_second_pass_of_ones_own_that_raises_is_undone_by_restore():
    net, (x, t) = network(), batch()
    sam, before = SAM(sgd(net), net, 0.3), state(net)
    nn.functional.cross_entropy(net(x), t).backward()
    sam.first_step()
    try:
        net(x[:, :1])
    except RuntimeError:
        sam.restore()
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    sam.restore()  # does nothing


def test_a_second_pass_that_was_given_up_is_found_at_the_next_first_step():
    net, (x, t) = network(), batch()
    sam, before = SAM(sgd(net), net, 0.3), state(net)
    nn.functional.cross_entropy(net(x), t).backward()
    sam.first_step()
    nn.functional.cross_entropy(net(x), t).backward()  # of the next batch, after an exception
    with pytest.raises(SpecError, match=r"first_step\(\) came twice .* repeat this batch"):
        sam.first_step()
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    sam.step(closure_of(sam, net, x, t))


class Halves(nn.Module):
    """The second head has no gradient in a call with `both=False`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x, *, both: bool):
        return self.first(x) + self.second(x) if both else self.first(x)


@pytest.mark.parametrize("both", [(True, False), (False, True), (True, True)], ids=str)
def test_pitfall_4_parameters_without_a_gradient_in_either_pass_are_restored(both):
    net, x = Halves().double(), torch.randn(4, 3, dtype=torch.float64)
    sam, before = SAM(torch.optim.SGD(net.parameters(), lr=0.1), net, 0.5), state(net)
    net(x, both=both[0]).square().sum().backward()
    sam.first_step()
    assert torch.equal(net.second.weight, before["second.weight"]) != both[0]
    net(x, both=both[1]).square().sum().backward()
    sam.second_step()
    assert torch.equal(net.second.weight, before["second.weight"]) != both[1]
    assert torch.equal(net.unused.weight, before["unused.weight"])


def test_pitfall_5_parameters_are_restored_bit_for_bit_and_do_not_drift():
    net, (x, t) = network(), batch()
    net.float()
    sam, before = SAM(torch.optim.SGD(net.parameters(), lr=0.0), net, 3.0, adaptive="elementwise"), state(net)
    for _ in range(20):
        sam.step(closure_of(sam, net, x.float(), t))
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


@pytest.mark.parametrize(
    "options",
    [{}, {"adaptive": "elementwise"}, {"adaptive": "layerwise"}, {"adaptive": "elementwise", "p": "inf"}],
    ids=str,
)
def test_pitfall_6_gradients_are_only_read(options):
    net, (x, t) = network(), batch()
    sam = SAM(sgd(net), net, 0.3, **options)
    nn.functional.cross_entropy(net(x), t).backward()
    before = [p.grad.clone() for p in net.parameters()]
    sam.first_step(zero_grad=False)
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), before, strict=True))
    sam.second_step(zero_grad=True)
    assert all(p.grad is None for p in net.parameters())


def test_first_step_clears_the_gradients_so_that_the_passes_do_not_add_up():
    net, (x, t) = network(), batch()
    sam = SAM(sgd(net), net)
    nn.functional.cross_entropy(net(x), t).backward()
    sam.first_step()
    assert all(p.grad is None for p in net.parameters())


def test_no_gradient_is_no_perturbation():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    sam, before = SAM(torch.optim.SGD(net.parameters(), lr=0.1), net, 5.0, adaptive="elementwise"), state(net)
    (0 * net(torch.randn(4, 3))).sum().backward()
    sam.first_step()
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    sam.restore()


def test_what_the_optimizer_does_not_hold_is_not_perturbed():
    net, (x, t) = network(), batch()
    sam, before = SAM(torch.optim.SGD(net[7].parameters(), lr=0.1), net, 0.5), state(net)
    nn.functional.cross_entropy(net(x), t).backward()
    sam.first_step()
    assert [name for name, p in net.named_parameters() if not torch.equal(p, before[name])] == ["7.weight", "7.bias"]
    sam.restore()


def test_scope_norm_copies_the_perturbed_parameters_only():
    net, (x, t) = network(), batch()
    sam = SAM(sgd(net), net, scope="norm")
    nn.functional.cross_entropy(net(x), t).backward()
    sam.first_step()
    assert sum(copied.numel() for _, copied in sam._copies) == 2 * (4 + 6)
    sam.second_step()
    assert not sam._copies
