"""Writes cases in the format of the stored ones, from a module that serves as the original code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


def record(path: Path, module: nn.Module, shape: tuple[int, ...], **meta: Any) -> None:
    """Untrained eval, a training step, eval, and a second training forward of the module, with random parameters."""
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.rand_like(parameter))
    x, dy, x2 = (torch.randn(shape, dtype=torch.float64) for _ in range(3))
    x_eval = torch.randn(2, *shape[1:], dtype=torch.float64)
    arrays = {"x": x.clone(), "dy": dy, "x2": x2, "x_eval": x_eval} | _state(module, "param", "buf0")
    arrays["y_eval_untrained"] = module.eval()(x_eval)
    arrays["y_train"] = module.train()(x.requires_grad_())
    arrays["y_train"].backward(dy)
    arrays["dx"] = x.grad
    arrays |= {f"grad.{name}": p.grad for name, p in module.named_parameters() if p.requires_grad}
    arrays |= {key: value for key, value in _state(module, "", "buf1").items() if key.startswith("buf1")}
    arrays["y_eval"] = module.eval()(x_eval)
    module.train()(x2)
    arrays |= {key: value for key, value in _state(module, "", "buf2").items() if key.startswith("buf2")}
    frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
    write(path, {"frozen_params": frozen, "origin": {"kind": "library", "cls": type(module).__name__}} | meta, arrays)


def write(path: Path, meta: dict[str, Any], arrays: dict[str, Any]) -> None:
    common = {"expect": "ok", "dtype": "float64", "tol": {"atol": 1e-10, "rtol": 1e-9}, "roles": {}, "ctor": {}}
    stored = {key: torch.as_tensor(value).detach().numpy() for key, value in arrays.items()}
    np.savez(path, meta=np.array(json.dumps(common | meta)), **stored)


def _state(module: nn.Module, parameters: str, buffers: str) -> dict[str, Any]:
    found = {f"{parameters}.{name}": p.detach().clone() for name, p in module.named_parameters()}
    return found | {f"{buffers}.{name}": b.clone() for name, b in module.named_buffers()}
