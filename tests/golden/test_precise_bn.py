"""PreciseBN cases of other networks, momenta and batches replay, and one that is off fails."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.golden.__main__ import main
from tests.golden.claims.recalibration import network
from tests.golden.record import write

NETS = [
    "BatchNorm1d(3, momentum=None), Linear(3,5), BatchNorm1d(5) in nn.Sequential",
    "Conv1d(3,4,3,padding='same'), BatchNorm1d(4, momentum=0.7), Tanh() in nn.Sequential",
    "Conv2d(3,4,3,stride=2), BatchNorm2d(4, affine=False), ReLU, Conv2d(4,2,1), BatchNorm2d(2) in nn.Sequential",
]


def precise(net: nn.Sequential, batches) -> None:
    """As fvcore does it: momentum 1, the variance's Bessel factor undone, means of first and second moments."""
    norms = [module for module in net if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    was, sizes, sums = [norm.momentum for norm in norms], {}, {norm: [0.0, 0.0, 0.0] for norm in norms}
    for norm in norms:
        norm.momentum = 1.0
        norm.register_forward_pre_hook(lambda module, args: sizes.update({module: args[0].numel() / args[0].shape[1]}))
    for batch in batches:
        net.train()(batch)
        for norm in norms:
            n, mean = sizes[norm], norm.running_mean.clone()
            second = mean**2 + norm.running_var * (n - 1) / n
            sums[norm] = [a + b for a, b in zip(sums[norm], (n, n * mean, n * second), strict=True)]
    for norm, momentum in zip(norms, was, strict=True):
        n, mean, second = sums[norm]
        norm.momentum = momentum
        norm.running_mean.copy_(mean / n)
        norm.running_var.copy_(second / n - (mean / n) ** 2)


@pytest.mark.parametrize("off", [0.0, 1e-6], ids=["same", "off"])
@pytest.mark.parametrize("text", NETS)
def test_other_networks_replay(text, off, tmp_path, capsys):
    net = network(text).double()
    shape = {"B": (), "Conv1d": (6,), "Conv2d": (7, 5)}[text.partition("(")[0].removesuffix("atchNorm1d")]
    batches = [torch.randn(n, 3, *shape, dtype=torch.float64) + n for n in (5, 2, 7)]
    arrays = {f"batch{i}": batch for i, batch in enumerate(batches)} | {"x_eval": torch.randn_like(batches[0])}
    arrays |= {f"param.{name}": value.detach().clone() for name, value in net.named_parameters()}
    arrays |= {f"buf0.{name}": value.clone() for name, value in net.named_buffers()}
    with torch.no_grad():
        precise(net, batches)
        arrays["y_eval"] = net.eval()(arrays["x_eval"])
    arrays |= {f"buf1.{name}": value + off * name.endswith("var") for name, value in net.named_buffers()}
    origin = {"cls": "update_bn_stats", "kind": "authors"}
    write(tmp_path / "any.npz", {"origin": origin, "net": text}, arrays)
    assert main([str(tmp_path)]) == (1 if off else 0), capsys.readouterr().out
