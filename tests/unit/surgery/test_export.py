"""An exported graph gives what the model gives in eval mode, whatever mode that was in."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from normlab.layers import NORMS
from normlab.surgery import is_norm, prepare_export
from tests.unit.surgery.folding import FOLDED, LEFT
from tests.unit.surgery.models import assert_state, state


def network(spec: str) -> nn.Module:
    torch.manual_seed(3)
    layer = NORMS.create(spec, num_features=4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm2d(4))
    for _ in range(3):
        model(torch.randn(4, 3, 6, 6) + 1)
    return model


@pytest.mark.parametrize("spec", [*FOLDED, *LEFT])
def test_the_mode_of_the_model_is_not_baked_in(spec):
    model, x = network(spec), torch.randn(2, 3, 6, 6)
    before = state(model)
    ready = prepare_export(model, sample=x)
    program = torch.export.export(ready, (x,))
    expected = copy.deepcopy(model).eval()(x).detach()
    torch.testing.assert_close(program.module()(x), expected, rtol=0, atol=3e-5 * float(expected.abs().max()))
    assert_state(model, before)
    assert model.training
    assert not any(module.training for module in ready.modules())
    assert not any(parameter.requires_grad for parameter in ready.parameters())
    if spec in FOLDED:
        assert not any(is_norm(module) for module in ready.modules())
        counters = [name for name, _ in program.named_buffers() if "num_batches_tracked" in name]
        assert not counters


def test_a_model_without_norms_is_ready_too():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    x = torch.ones(1, 2)
    torch.testing.assert_close(prepare_export(model)(x), model.eval()(x))


def test_onnx_gives_the_same():
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, x = network("batch(formulation='a2')"), torch.randn(2, 3, 6, 6)
    ready = prepare_export(model)
    program = torch.onnx.export(ready, (x,), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), model.eval()(x), rtol=0, atol=1e-5)
    assert "BatchNormalization" not in {node.op_type for node in program.model_proto.graph.node}
