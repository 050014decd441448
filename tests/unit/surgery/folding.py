"""What tests of `fold` share."""

from __future__ import annotations

import torch
from torch import nn

from normlab.surgery import fold, norm_sites

RTOL = {torch.float64: 1e-6, torch.float32: 1e-5}


def settled(model: nn.Module, dtype=torch.float64) -> nn.Module:
    """In eval mode, with statistics and weights that are not the initial ones."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for site in norm_sites(model):
            for name, value in (*site.module.named_buffers(), *site.module.named_parameters()):
                if value.dim() == 1 and value.is_floating_point() and "fixed" not in name:
                    low = -0.25 if name.endswith(("mean", "bias")) else 0.75
                    value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + low)
    return model.to(dtype).eval()


def output(model, x):
    with torch.no_grad():
        y = model(x)
    return y["out"] if isinstance(y, dict) else y


def assert_folds(model, x, **counts) -> nn.Module:
    """Folded into a layer before, made a scale and shift, left: as many as said; and the same outputs."""
    before = output(model, x)
    record = fold(model)
    into = sum(bool(layers) for layers in record.folded.values())
    found = {"into": into, "affine": len(record.folded) - into, "left": len(record.left), "plain": len(record.plain)}
    assert found == {"into": 0, "affine": 0, "left": 0, "plain": 0} | counts, str(record)
    after = output(record.model, x)
    torch.testing.assert_close(after, before, rtol=0, atol=RTOL[x.dtype] * float(before.abs().max()))
    return record.model


FOLDED = [
    "batch",
    "batch(activation='relu')",
    "batch(affine=False)",
    "batch(bias=False, debias=True)",
    "batch(formulation='a1')",
    "batch(formulation='a2')",
    "batch_renorm",
    "bnet(kernel_size=1)",
    "evo_b0(nonlinearity=False)",
    "evo_s0(nonlinearity=False, num_groups=2)",
    "ghost",
    "iebn_minus",
    "instance(affine=True, track_running_stats=True)",
    "lp",
    "lp(p='inf', centred=True)",
    "mean_only",
    "noisy",
    "rbn_minus",
    "variance",
    "whitening",
]
LEFT = {
    "attentive": "depend on each example's own moments",
    "batch(track_running_stats=False)": "keeps no running statistics",
    "bnet": "a convolution is part of it",
    "equilibrium": "the example's own variances",
    "evo_b0": "its activation is part of its formula",
    "evo_s0(num_groups=2)": "its activation is part of its formula",
    "frn": "by the example's own moments",
    "group(num_groups=2)": "by the example's own moments",
    "iebn": "depend on each example's own moments",
    "ilm(key_group_size=2, num_groups=2)": "by the example's own moments",
    "instance": "by the example's own moments",
    "layer": "by the example's own moments",
    "meta": "by the example's own moments",
    "rbn": "depend on each example's own moments",
    "sparse_switch": "depend on each example's own moments",
    "switch": "depend on each example's own moments",
}
