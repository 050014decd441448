"""What cannot be is refused, with what came and what would do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from normlab.errors import SpecError, UnknownName
from normlab.optim import SAM
from tests.unit.optim.problems import batch, closure_of, network, sgd


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": -0.1}, "rho=-0.1 should be a number, 0 or more"),
        ({"rho": math.nan}, "rho=nan should be"),
        ({"rho": math.inf}, "rho=inf should be"),
        ({"rho": "0.1"}, "rho='0.1' should be"),
        ({"rho": None}, "rho=None should be"),
        ({"eta": -1.0, "adaptive": "layerwise"}, "eta=-1.0 should be"),
        ({"eta": math.nan, "adaptive": "layerwise"}, "eta=nan should be"),
        ({"scope": "norms"}, "unknown scope of SAM 'norms'; did you mean 'norm'"),
        ({"scope": None}, "unknown scope of SAM 'None'.* Known: all, norm, not_norm"),
        ({"adaptive": "element"}, "unknown adaptive of SAM 'element'; did you mean 'elementwise'"),
        ({"adaptive": True}, "unknown adaptive of SAM 'True'.* Known: None, elementwise, layerwise"),
        ({"p": 1}, "unknown p of SAM '1'.* Known: 2, inf"),
        ({"p": "infinity", "adaptive": "elementwise"}, r"unknown p of SAM 'infinity'\. Known: 2, inf"),
        ({"update_stats": "never"}, "unknown update_stats of SAM 'never'.* Known: once, twice"),
        ({"eta": 0.1}, "eta=0.1 needs adaptive='elementwise' or 'layerwise'; got adaptive=None"),
        ({"normalize_bias": True}, "normalize_bias=True needs adaptive="),
    ],
    ids=str,
)
def test_arguments(options, message):
    net = network()
    with pytest.raises(SpecError, match=message):
        SAM(sgd(net), net, **options)


def test_pitfall_3_p_inf_without_a_mode_is_an_error():
    """Theirs takes T = w, which goes downhill for negative w."""
    net = network()
    with pytest.raises(SpecError, match=r"p='inf' needs adaptive='elementwise' or 'layerwise'.*downhill"):
        SAM(sgd(net), net, p="inf")


@pytest.mark.parametrize("options", [{"adaptiv": "layerwise"}, {"lr": 0.1}])
def test_unknown_keywords_are_no_options(options):
    net = network()
    with pytest.raises(TypeError, match="unexpected keyword"):
        SAM(sgd(net), net, **options)


@pytest.mark.parametrize(
    ("model", "scope", "message"),
    [
        (nn.Linear(3, 3), "norm", "scope='norm' needs normalization layers, and Linear has none .*scope='all' does"),
        (
            nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False)),
            "norm",
            "the 1 normalization layers .* no weight",
        ),
        (nn.BatchNorm1d(3), "not_norm", "scope='not_norm' leaves nothing to perturb in BatchNorm1d"),
    ],
    ids=["no-norms", "no-affine", "only-norms"],
)
def test_a_scope_without_parameters(model, scope, message):
    with pytest.raises(SpecError, match=message):
        SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, scope=scope)


def test_a_scope_whose_parameters_the_optimizer_does_not_hold():
    net = network()
    with pytest.raises(SpecError, match="scope='norm' is 4 parameters of Sequential, and the optimizer holds none"):
        SAM(torch.optim.SGD(net[0].parameters(), lr=0.1), net, scope="norm")


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda net: torch.optim.SGD, r"takes a plain optimizer, not SGD: SAM\(torch.optim.SGD\(model"),
        (lambda net: net.parameters(), "takes a plain optimizer, not generator"),
        (lambda net: SAM(sgd(net), net), "takes a plain optimizer, not SAM"),
        (lambda net: torch.optim.LBFGS(net.parameters()), "LBFGS evaluates the model itself in each step"),
    ],
    ids=["class", "parameters", "sam", "lbfgs"],
)
def test_what_cannot_be_wrapped(optimizer, message):
    net = network()
    with pytest.raises(SpecError, match=message):
        SAM(optimizer(net), net)


def test_a_model_is_needed():
    net = network()
    with pytest.raises(SpecError, match="the model whose parameters the optimizer holds, not float"):
        SAM(sgd(net), 0.05)


class FullyShardedDataParallel(nn.Sequential):
    """Called like torch's, which needs several processes."""


def test_flattened_parameters_are_refused():
    net = FullyShardedDataParallel(nn.Linear(3, 3))
    with pytest.raises(SpecError, match=r"flattens parameters.*fully_shard"):
        SAM(sgd(net), nn.Sequential(net))


def test_a_closure_for_a_scaler():
    net, (x, t) = network(), batch()
    sam, scaler = SAM(sgd(net), net), torch.amp.GradScaler("cpu")
    scaler.scale(nn.functional.cross_entropy(net(x), t)).backward()
    with pytest.raises(SpecError, match="a GradScaler takes no closure: run both passes yourself"):
        scaler.step(sam, closure_of(sam, net, x, t))


def test_step_without_a_closure_and_without_a_first_pass():
    net = network()
    with pytest.raises(SpecError, match="needs two passes: give it a closure"):
        SAM(sgd(net), net).step()


def test_second_step_without_first_step():
    net, (x, t) = network(), batch()
    sam = SAM(sgd(net), net)
    with pytest.raises(SpecError, match=r"second_step\(\) needs first_step\(\) before it"):
        sam.second_step()
    sam.step(closure_of(sam, net, x, t))
    with pytest.raises(SpecError, match=r"second_step\(\) needs first_step\(\) before it"):
        sam.second_step()


def test_first_step_before_backward():
    net = network()
    with pytest.raises(SpecError, match=r"no parameter in scope='norm' has a gradient: run backward before"):
        SAM(sgd(net), net, scope="norm").first_step()


def test_a_stale_optimizer_is_found_when_it_is_wrapped():
    net = network()
    optimizer = sgd(net)
    net[1] = nn.GroupNorm(2, 4).double()
    with pytest.raises(SpecError, match=r"2 of the optimizer's 9 parameters are none of this Sequential's.*convert\("):
        SAM(optimizer, net)


@pytest.mark.parametrize("scope", ["all", "norm", "not_norm"])
def test_a_stale_optimizer_is_found_after_later_surgery(scope):
    net, (x, t) = network(), batch()
    sam = SAM(sgd(net), net, scope=scope)
    sam.step(closure_of(sam, net, x, t))
    net[4] = nn.GroupNorm(2, 6).double()
    with pytest.raises(SpecError, match="If surgery replaced them, build the optimizer after it"):
        sam.step(closure_of(sam, net, x, t))
    assert not sam.perturbed


def test_parameters_of_a_loss_are_named_as_such():
    net, loss = nn.Linear(3, 3), nn.Linear(3, 1)
    optimizer = torch.optim.SGD([*net.parameters(), *loss.parameters()], lr=0.1)
    with pytest.raises(SpecError, match=r"another module's, a loss's say, pass both"):
        SAM(optimizer, net)
    SAM(optimizer, nn.ModuleList([net, loss]))


def test_sparse_gradients():
    net = nn.Embedding(4, 3, sparse=True)
    sam = SAM(torch.optim.SGD(net.parameters(), lr=0.1), net)
    net(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(SpecError, match="SAM needs dense gradients"):
        sam.first_step()
    assert not sam.perturbed


def test_copies_between_the_passes():
    net, (x, t) = network(), batch()
    sam = SAM(sgd(net), net)
    nn.functional.cross_entropy(net(x), t).backward()
    sam.first_step()
    with pytest.raises(SpecError, match=r"call second_step\(\) or restore\(\)"):
        sam.__getstate__()


def test_names_come_with_the_nearest():
    net = network()
    with pytest.raises(UnknownName) as error:
        SAM(sgd(net), net, scope="not-norm")
    assert "not_norm" in str(error.value)
