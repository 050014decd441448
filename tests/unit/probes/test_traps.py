"""What goes wrong with hooks in real training loops: a test for each, named for it."""

from __future__ import annotations

import copy
import io
import math
import weakref

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from normlab import probes as P
from normlab.errors import SpecError
from normlab.optim import SAM
from tests.unit.probes.models import Block, batch, network, train

EVERY = list(P.PROBES)


def loss_of(model, x=None, t=None):
    x, t = batch() if x is None else (x, t)
    return nn.functional.cross_entropy(model(x), t)


def measured(model, probes=EVERY, **options):
    with P.probe(model, probes, **options) as p:
        loss_of(model).backward()
    return p


def same(a, b, tolerance=1e-12):
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert math.isclose(value, b[key], rel_tol=tolerance, abs_tol=tolerance), key


def doubled():
    return network().double()


def double_loss(model):
    x, t = batch()
    return nn.functional.cross_entropy(model(x.double()), t)


def test_relu_in_place_after_the_norm_overwrites_nothing_that_is_measured():
    plain, in_place = network(), network()
    in_place.load_state_dict(plain.state_dict())
    plain[2], plain[3].relu = nn.ReLU(), nn.ReLU()
    same(measured(plain).last, measured(in_place).last)


def test_a_sum_in_place_before_the_activation_is_not_the_output_of_the_layer():
    """torchvision's `out += identity` returns the very tensor that the norm gave."""
    p = measured(network())
    assert p.places == {"1": "2", "3.bn1": "3.relu"}


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


def test_a_layer_that_is_called_twice_is_measured_over_both_calls():
    norm = nn.BatchNorm1d(4, affine=False).double()
    model = nn.Sequential(nn.Linear(4, 4).double(), norm, nn.Linear(4, 4).double(), norm)
    x = torch.randn(6, 4, dtype=torch.float64)
    seen = []

    def keep(module, args):
        args[0].retain_grad()
        seen.append(args[0])

    hook = norm.register_forward_pre_hook(keep)
    with P.probe(model, ["conv_std", "gradient_norm", "stable_rank"]) as p:
        model(x).pow(3).sum().backward()
    hook.remove()
    std = sum(y.detach().std(0).mean().item() for y in seen) / 2
    norm_of_both = math.sqrt(sum(y.grad.square().sum().item() for y in seen))
    assert math.isclose(p.last["norm/1/conv_std"], std, rel_tol=1e-12)
    assert math.isclose(p.last["norm/1/gradient_norm"], norm_of_both, rel_tol=1e-9, abs_tol=1e-12)


def test_micro_batches_make_one_step():
    model = network(lambda c: nn.GroupNorm(2, c)).double()
    x, t = batch()
    with P.probe(model, EVERY) as whole:
        nn.functional.cross_entropy(model(x.double()), t).backward()
    with P.probe(model, EVERY) as parts:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for part in range(2):
            half = slice(4 * part, 4 * part + 4)
            (nn.functional.cross_entropy(model(x[half].double()), t[half]) / 2).backward()
        optimizer.step()
    assert len(parts.rows) == 1
    for probe in ("gradient_norm", "gradient_factor", "sigma", "large_values"):  # of each example by itself
        for name in ("1", "3.bn1", "3.bn2"):
            key = f"norm/{name}/{probe}"
            assert math.isclose(parts.last[key], whole.last[key], rel_tol=1e-9, abs_tol=1e-15), key


def test_sam_has_one_row_a_step():
    model = network()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=0.1)

    def closure():
        sam.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    with P.probe(model, EVERY) as p:
        for _ in range(2):
            sam.step(closure)
    assert [row["step"] for row in p.rows] == [0, 1]
    assert p.rows[0]["norm/1/weight_drift/max"] == 0  # of the weights themselves, not of the perturbed ones


def test_evaluation_inside_the_loop_is_not_mixed_in():
    model = doubled()
    with P.probe(model, EVERY) as p:
        double_loss(model).backward()
        with torch.no_grad():
            model.eval()(100 * batch()[0].double())
        model.train()
    fresh = doubled()
    fresh.load_state_dict(model.state_dict())
    with P.probe(fresh, EVERY) as q:
        double_loss(fresh).backward()
    same(p.last, q.last, 1e-9)


def test_eval_mode_measures_by_running_statistics():
    model = network().eval()
    with torch.no_grad():
        model[1].running_mean.fill_(0.5), model[1].running_var.fill_(4.0)
    with P.probe(model, ["sigma", "large_values(threshold=0.1)"], mode="eval") as p, torch.inference_mode():
        x = batch()[0]
        convolved = model[0](x)
        model(x)
    assert math.isclose(p.last["norm/1/sigma"], 2.0, rel_tol=1e-6)
    share = (((convolved - 0.5) / 2).abs() > 0.1).double().mean().item()
    assert math.isclose(p.last["norm/1/large_values"], share, abs_tol=1e-3)


def test_nothing_measured_is_said():
    model = network()
    with pytest.warns(UserWarning, match="all passes were in eval mode, and mode='train'"), P.probe(model, "sigma"):
        model.eval()(batch()[0])
    model.train()
    told = pytest.warns(UserWarning, match="1 steps were made, and the first chosen one is step 7")
    with told, P.probe(model, "sigma", steps=[7]):
        train(model, 1)
    with pytest.warns(UserWarning, match="no pass reached a layer"), P.probe(model, "sigma"):
        pass


def test_a_frozen_model_has_no_gradients_and_says_so():
    model = network().requires_grad_(False)
    told = pytest.warns(UserWarning, match="gradient_norm was measured at no layer: nothing before it is trained")
    with told, P.probe(model, ["gradient_norm", "stable_rank"]) as p:
        loss_of(model)
    assert set(p.missing) == {f"norm/{name}/gradient_norm" for name in ("1", "3.bn1", "3.bn2")}
    assert len(p.last) == 3
    with pytest.raises(SpecError, match="weight_drift can be measured at none"):
        P.probe(nn.BatchNorm2d(3, affine=False), "weight_drift")


def test_a_layer_that_no_gradient_reaches_is_named():
    model = nn.Sequential(nn.BatchNorm2d(3), *network())
    with P.probe(model, ["gradient_norm", "gradient_factor"]) as p:
        loss_of(model).backward()
    assert p.missing == {"norm/0/gradient_norm": "nothing before it is trained, so no gradient is computed here"}
    model = network()
    with pytest.warns(UserWarning, match="no gradient came back to it"), P.probe(model, "gradient_norm") as p:
        loss_of(model)


def test_layers_that_a_probe_does_not_fit_are_named():
    from normlab.layers import EvoNormS0

    model = network()
    model[1] = EvoNormS0(6, num_groups=2)
    p = measured(model, ["gradient_factor", "stable_rank"])
    assert list(p.missing) == ["norm/1/gradient_factor"]
    assert "norm/1/stable_rank" in p.last


def test_a_batch_with_nan_is_reported_and_does_not_crash():
    model = network()
    x, t = batch()
    x[3, 1, 2, 2] = math.nan
    with P.probe(model, EVERY) as p:
        loss_of(model).backward()
        p.step()
        loss_of(model, x, t).backward()
        p.step()
    assert math.isnan(p.rows[1]["norm/1/stable_rank"])
    assert p.nonfinite["norm/1/stable_rank"] == 1
    assert {key.split("/")[-1] for key in p.nonfinite} >= {name for name in EVERY if not name.endswith("drift")}
    assert not any("drift" in key for key in p.nonfinite)


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


def test_hooks_go_when_the_loop_raises():
    model = network()

    def stops(steps):
        train(model, steps)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), P.probe(model, EVERY) as p:
        stops(2)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert [row["step"] for row in p.rows] == [0, 1]
    train(model, 1)
    assert p.steps_done == 2


def test_hooks_go_when_a_logger_raises():
    class Full:
        def log(self, values, step):
            raise OSError("disk full")

    model = network()
    with pytest.raises(OSError, match="disk full"), P.probe(model, EVERY, log=Full()):
        train(model, 2)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_copies_made_inside_are_free_of_probes():
    model = network()
    with P.probe(model, EVERY) as p:
        copied = copy.deepcopy(model)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        train(model, 1)
    rows = len(p.rows)
    for twin in (copied, loaded):
        train(twin, 1)
    assert len(p.rows) == rows


def test_two_at_once_do_not_see_each_other():
    model = network()
    with P.probe(model, "sigma") as p, P.probe(model, EVERY, every=2) as q:
        train(model, 3)
    assert (len(p.rows), len(q.rows)) == (3, 2)
    assert p.rows[0]["norm/1/sigma"] == q.rows[0]["norm/1/sigma"]


def test_no_activation_is_kept_beyond_its_layer():
    model = nn.Sequential(*(part for _ in range(4) for part in (nn.Linear(5, 5), nn.BatchNorm1d(5), nn.ReLU())))
    outputs = []

    def note(module, args, y):
        outputs.append(weakref.ref(y))
        assert all(older() is None for older in outputs[:-2]), "an activation outlives the layer that takes it"

    for part in model:
        part.register_forward_hook(note)
    with torch.no_grad(), P.probe(model, [name for name in EVERY if name != "gradient_norm"]):
        model(torch.randn(6, 5))
    assert len(outputs) == 12


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


def test_memory_formats_stay():
    model = network().to(memory_format=torch.channels_last)
    formats = []
    hook = model[4].register_forward_pre_hook(
        lambda m, a: formats.append(a[0].is_contiguous(memory_format=torch.channels_last))
    )
    x = batch()[0].contiguous(memory_format=torch.channels_last)
    with P.probe(model, EVERY):
        model(x).sum().backward()
    hook.remove()
    assert formats == [True]


def test_outputs_that_are_tuples_and_inputs_by_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.block = nn.LayerNorm(4), Block(4)

        def forward(self, x):
            return {"y": (self.norm(input=x), None)}

    model = Two()
    with P.probe(model, ["stable_rank", "sigma"], where=["norm", ""]) as p:
        model(torch.randn(3, 5, 4, requires_grad=True))["y"][0].sum().backward()
    assert set(p.last) == {"norm/norm/stable_rank", "norm/stable_rank", "norm/norm/sigma"}
    assert p.missing == {"norm/sigma": "it is no normalization layer"}


def test_inputs_that_are_no_batches_are_named():
    layer = nn.LayerNorm(4)
    with pytest.warns(UserWarning, match=r"its input \[4\] is no batch"), P.probe(layer, "sigma") as p:
        layer(torch.randn(4))
    assert not p.rows
