"""PreciseBN: running statistics taken anew from given batches."""

from __future__ import annotations

import ast
import re
from typing import Any

import torch
from torch import nn

from normlab.surgery import recalibrate
from tests.golden.comparison import Comparison


def recalibrated(compare: Comparison) -> None:
    """A network of torch's layers, before and after it has seen the batches."""
    case = compare.case
    batches = sorted((key for key in case.arrays if re.fullmatch(r"batch\d+", key)), key=lambda key: int(key[5:]))
    params = case.under("param")
    net = network(case.meta["net"]).to(case.dtype)
    net.load_state_dict({**params, **case.under("buf0")})
    compare.used(*batches, "x_eval", *(key for key in case.arrays if key.startswith(("param.", "buf0."))))
    recalibrate(net, [case.tensor(key) for key in batches])
    state = net.state_dict()
    for name in case.under("buf1"):
        compare.close(f"buf1.{name}", state[name])
    with torch.no_grad():
        compare.close("y_eval", net.eval()(case.tensor("x_eval")))
    for name, value in params.items():
        compare.true(f"param.{name}", torch.equal(state[name], value), "was changed")


def network(text: str) -> nn.Sequential:
    """`Conv2d(3, 4, 3), BatchNorm2d(4), ReLU in nn.Sequential`, names of torch.nn with literal arguments."""
    listed = ast.parse(f"[{text.partition(' in ')[0]}]", mode="eval").body
    assert isinstance(listed, ast.List)
    return nn.Sequential(*(_layer(part) for part in listed.elts))


def _layer(part: ast.expr) -> Any:
    if not isinstance(part, ast.Call):
        return getattr(nn, ast.unparse(part).removeprefix("nn."))()
    options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in part.keywords}
    build = getattr(nn, ast.unparse(part.func).removeprefix("nn."))
    return build(*map(ast.literal_eval, part.args), **options)


CHECKS = {"update_bn_stats": recalibrated}
"""By function in the original code."""
