"""Inside `frozen_stats` every buffer may be written to, and after it every buffer is the one of before."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from normlab.errors import SpecError
from normlab.layers import NORMS
from normlab.surgery import frozen_stats


def held(model: nn.Module) -> list[tuple[str, int, torch.Tensor]]:
    return [(name, id(b), b.clone()) for name, b in model.named_buffers(remove_duplicate=False)]


def assert_as_before(model: nn.Module, before: list[tuple[str, int, torch.Tensor]]) -> None:
    now = list(model.named_buffers(remove_duplicate=False))
    assert [(name, id(b)) for name, b in now] == [(name, key) for name, key, _ in before]
    for (name, value), (_, _, expected) in zip(now, before, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.mark.parametrize("spec", ["batch", "switch", "batch_renorm", "sparse_switch", "equilibrium"])
def test_training_inside_leaves_the_statistics_alone(spec):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), NORMS.create(spec, num_features=4))
    before, x = held(model), torch.randn(4, 2, 6, 6)
    with frozen_stats(model):
        model(x).sum().backward()
        assert any(not torch.equal(b, old) for (_, b), (_, _, old) in zip(model.named_buffers(), before, strict=True))
    assert_as_before(model, before)
    model(x)
    assert model[1].num_batches_tracked == 1


def test_outputs_are_those_outside():
    model, x = nn.BatchNorm2d(3), torch.randn(4, 3, 2, 2)
    model(x)
    for part in (model.train(), model.eval()):
        with frozen_stats(model):
            inside = part(x)
        torch.testing.assert_close(inside, part(x), rtol=0, atol=0)


def test_graphs_of_before_stay_valid():
    model, x = nn.BatchNorm2d(3).eval(), torch.randn(4, 3, 2, 2, requires_grad=True)
    y = model(x)
    with frozen_stats(model.train()):
        model(x)
        y.sum().backward()


def test_what_is_one_tensor_under_two_names_is_so_inside():
    model = nn.Module()
    model.first, model.second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    model.second.running_mean = model.first.running_mean
    with frozen_stats(model):
        model.first(torch.randn(4, 3) + 5)
        assert model.second.running_mean is model.first.running_mean
        assert model.second.running_mean.norm() > 0.1
    assert model.second.running_mean is model.first.running_mean
    assert model.first.running_mean.norm() == 0


def test_buffers_that_are_made_replaced_or_removed_inside():
    model = nn.Module()
    model.register_buffer("made", None)
    model.register_buffer("replaced", torch.zeros(2))
    model.register_buffer("removed", torch.ones(2))
    before = held(model)
    with frozen_stats(model):
        model.made, model.replaced = torch.ones(1), torch.ones(3)
        del model.removed
        model.register_buffer("new", torch.ones(1))
    assert model.made is None
    assert not hasattr(model, "new")
    assert_as_before(model, before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_they_are_back_after_an_exception(error):
    model = nn.BatchNorm1d(3)
    before = held(model)

    def fail():
        with frozen_stats(model):
            model(torch.randn(4, 3))
            raise error

    with pytest.raises(error):
        fail()
    assert_as_before(model, before)


def test_it_may_be_nested():
    model = nn.BatchNorm1d(3)
    before = held(model)
    with frozen_stats(model):
        model(torch.randn(4, 3))
        inside = held(model)
        with frozen_stats(model):
            model(torch.randn(4, 3))
        assert_as_before(model, inside)
    assert_as_before(model, before)


def test_layout_and_dtype_are_kept():
    model = nn.Module()
    model.register_buffer("grid", torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).half())
    with frozen_stats(model):
        assert model.grid.is_contiguous(memory_format=torch.channels_last)
        assert model.grid.dtype == torch.half


def test_a_lazy_layer_is_refused_before_its_buffers_have_a_shape():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.LazyBatchNorm2d())
    with (
        pytest.raises(SpecError, match=r"buffer '1\.running_mean' has no shape yet: run one forward pass"),
        frozen_stats(model),
    ):
        pass
    model(torch.randn(4, 2, 6, 6))
    with frozen_stats(model):
        model(torch.randn(4, 2, 6, 6))
    assert model[1].num_batches_tracked == 1


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_script_module_works_too():
    model = torch.jit.script(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)))
    with frozen_stats(model):
        model(torch.randn(4, 2, 6, 6))
        assert model.state_dict()["1.num_batches_tracked"] == 1
    assert model.state_dict()["1.num_batches_tracked"] == 0
    model(torch.randn(4, 2, 6, 6))
    assert model.state_dict()["1.num_batches_tracked"] == 1


def test_a_compiled_model_does_not_recompile():
    torch.compiler.reset()
    graphs, model, x = [], nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)), torch.randn(4, 2, 6, 6)

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled, plain = torch.compile(model, backend=backend), copy.deepcopy(model)
    for _ in range(3):
        compiled(x)
        plain(x)
        for frozen in (model, compiled):
            with frozen_stats(frozen):
                compiled(x)
    assert len(graphs) == 1
    torch.testing.assert_close(model.state_dict(), plain.state_dict())
