"""The eval graph exports for any batch, with torch.export and to ONNX, and computes what the layer computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.conformance.torch_cases import LAYERS

STRICT = [case for case in LAYERS if str(case) in ("batch", "conv_norm", "switch")]


def settled(case):
    """A layer in eval mode whose running statistics are not the initial ones."""
    layer = case.layer()
    layer(case.input())
    return layer.eval()


def exported(layer, x, *, strict: bool = False):
    return torch.export.export(layer, (x,), dynamic_shapes=({0: Dim("n")},), strict=strict)


@pytest.mark.parametrize(("case", "strict"), [*((c, False) for c in LAYERS), *((c, True) for c in STRICT)], ids=str)
def test_exports_for_any_batch(case, strict):
    layer = settled(case)
    program = exported(layer, case.input(), strict=strict)
    mutated = program.graph_signature.buffers_to_mutate
    assert not mutated, f"the eval graph writes to {mutated}"
    for n in (4, 7):
        x = case.input(n)
        torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-5, atol=5e-6)


class Side(nn.Module):
    """Layers side by side, each with an input of its own."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs):
        return tuple(layer(x) for layer, x in zip(self.layers, inputs, strict=True))


def run_onnx(cases, n: int):
    """The layers' outputs by torch and by onnxruntime, for a batch of n that they were not exported with."""
    import onnxruntime

    net = Side([settled(case) for case in cases])
    shapes = {"inputs": tuple({0: Dim("n")} for _ in cases)}
    program = torch.export.export(net, tuple(case.input(4) for case in cases), dynamic_shapes=shapes)
    model = torch.onnx.export(program, dynamo=True, verbose=False).model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs = [case.input(n) for case in cases]
    names = [argument.name for argument in session.get_inputs()]
    outputs = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    return dict(zip(map(str, cases), zip(net(*inputs), map(torch.from_numpy, outputs), strict=True), strict=True))


@pytest.fixture(scope="module")
def outputs():
    """All at once: a call of torch.onnx.export costs half a second whatever it exports."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"export to ONNX needs the package {package}")
    return run_onnx(LAYERS, 7)


@pytest.mark.parametrize("name", [str(case) for case in LAYERS])
def test_onnxruntime_computes_the_same(outputs, name):
    expected, found = outputs[name]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
