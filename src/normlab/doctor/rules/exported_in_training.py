"""An exported graph in which norms are in training mode for good."""

from __future__ import annotations

from typing import Any

from torch import fx

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count

_OPERATORS = (
    "batch_norm",
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_functional",
)
_FLAG = 5  # position of the argument `training` in all of them


@rule(
    "NL019",
    "exported-in-training",
    kind="static",
    level="error",
    why="torch.export and ONNX write the mode of that moment into the graph: these norms go on using the batch, and "
    "eval() has no effect or raises",
    fix="torch.export.export(normlab.prepare_export(model), ...)",
    thread="pytorch/pytorch#94604",
)
def exported_in_training(case: Case) -> Evidence | None:
    """Batch norms in the graph whose flag says training."""
    nodes = [
        node
        for module in case.model.modules()
        if isinstance(module, fx.GraphModule)
        for node in module.graph.nodes
        if _trains(node)
    ]
    if not nodes:
        return None
    text = f"training mode is written into {count(len(nodes), 'batch norm')} of the exported graph"
    return Evidence(text, tuple(node.name for node in nodes), {"norms": len(nodes)})


def _trains(node: Any) -> bool:
    """`aten.batch_norm.default`, say, in training mode."""
    parts = str(node.target).split(".")
    known = len(parts) > 1 and parts[0] == "aten" and parts[1] in _OPERATORS
    return known and len(node.args) > _FLAG and node.args[_FLAG] is True
