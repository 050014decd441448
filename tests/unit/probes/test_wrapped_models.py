"""Models that are compiled, wrapped, scaled, in half precision, or under torch.func."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from normlab import probes as P
from normlab.errors import SpecError
from tests.unit.probes.models import EVERY, batch, double_loss, doubled, measured, network, same, train


class Checkpointed(nn.Module):
    def __init__(self, inner, reentrant):
        super().__init__()
        self.inner, self.reentrant = inner, reentrant

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_counts_a_pass_once(reentrant):
    plain = doubled()
    wrapped = copy.deepcopy(plain)
    wrapped[3] = Checkpointed(wrapped[3], reentrant)
    with P.probe(plain, EVERY) as p:
        double_loss(plain).backward()
    with P.probe(wrapped, EVERY) as q:
        double_loss(wrapped).backward()
    same(p.last, {key.replace("3.inner", "3"): value for key, value in q.last.items()})


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_call_counts_as_much_as_another(reentrant):
    norm = nn.BatchNorm1d(4)
    x = torch.randn(6, 4, requires_grad=True)
    with P.probe(norm, ["conv_std", "gradient_norm"]) as p:
        (norm(x) + checkpoint(norm, 3 * x, use_reentrant=reentrant)).pow(3).sum().backward()
    assert math.isclose(p.last["norm/conv_std"], 2 * x.std(0).mean().item(), rel_tol=1e-6)


@pytest.mark.parametrize("how", ["autocast", "bfloat16"])
def test_half_precision_is_measured_in_float32(how):
    torch.manual_seed(0)
    model, x = network(lambda c: nn.GroupNorm(2, c)), batch()[0]
    y = {}
    inner = model[0].register_forward_hook(lambda m, a, out: y.update(conv=out.detach().float()))
    if how == "bfloat16":
        model, x = model.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"), P.probe(model, EVERY) as p:
        nn.functional.cross_entropy(model(x), batch()[1]).backward()
        assert torch.is_autocast_enabled("cpu") == (how == "autocast")
    inner.remove()
    values = y["conv"].transpose(0, 1).flatten(1)
    assert math.isclose(p.last["norm/1/conv_std"], values.std(1).mean().item(), rel_tol=1e-5)


def test_a_grad_scaler_is_taken_out_of_gradients():
    plain, scaled = doubled(), doubled()
    scaled.load_state_dict(plain.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with P.probe(plain, ["gradient_norm", "sigma"]) as p:
        double_loss(plain).backward()
    with P.probe(scaled, ["gradient_norm", "sigma"], scaler=scaler) as q:
        optimizer = torch.optim.SGD(scaled.parameters(), lr=0.1)
        scaler.scale(double_loss(scaled)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert q.steps_done == 1
    same(p.last, q.last)


def test_a_compiled_model_is_refused_or_runs_its_measured_steps_eagerly():
    model = network()
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(SpecError, match="compiled code calls no hooks"):
        P.probe(compiled, "stable_rank")
    train(compiled, 1)
    fresh = copy.deepcopy(model)
    with P.probe(compiled, ["stable_rank", "gradient_norm"], eager=True, every=2) as p:
        train(compiled, 4)
    assert [row["step"] for row in p.rows] == [0, 2]
    with P.probe(fresh, ["stable_rank", "gradient_norm"]) as q:
        train(fresh, 1)
    same(p.rows[0], q.rows[0])
    in_place = network()
    in_place.compile(backend="eager")
    with pytest.raises(SpecError, match="compiled"):
        P.probe(in_place, "stable_rank")


def test_a_compiled_step_around_the_model_is_noticed():
    model = network()
    for seen_before in (True, False):
        step = torch.compile(lambda x: model(x).sum(), backend="eager")
        expected = step(batch()[0]) if seen_before else model(batch()[0]).sum()
        told = pytest.warns(UserWarning, match="compiled functions around the model call no hooks")
        with told, P.probe(model, "stable_rank"):
            assert torch.equal(step(batch()[0]), expected)
        assert torch.equal(step(batch()[0]), expected)


@pytest.fixture
def process_group():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_wrapped_models_have_the_names_of_what_they_wrap(process_group):
    model = network()
    expected = measured(copy.deepcopy(model)).last
    same(measured(DistributedDataParallel(copy.deepcopy(model))).last, expected)
    parallel = DataParallel(copy.deepcopy(model))
    same(measured(parallel).last, expected)
    parallel.device_ids = [0, 1]
    with pytest.raises(SpecError, match="copies of the model on 2 devices, in threads"):
        P.probe(parallel, "sigma")


def test_sharded_models_are_refused(process_group):
    model = fully_shard(network(), mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(SpecError, match="cannot be probed: its parameters are shards"):
        P.probe(model, "sigma")


def test_scripted_models_are_refused():
    with pytest.raises(SpecError, match="RecursiveScriptModule, which cannot be probed"):
        P.probe(torch.jit.script(nn.Sequential(nn.BatchNorm1d(3))), "sigma")


def test_torch_func_passes_are_left_out():
    model = network(lambda c: nn.GroupNorm(2, c))
    parameters = dict(model.named_parameters())
    x, t = batch()

    def loss(values):
        return nn.functional.cross_entropy(torch.func.functional_call(model, values, x), t)

    expected = torch.func.grad(loss)(parameters)
    with pytest.warns(UserWarning, match=r"torch\.func|not a plain tensor"), P.probe(model, EVERY[:-1]) as p:
        found = torch.func.grad(loss)(parameters)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all("drift" in key for key in p.last)
