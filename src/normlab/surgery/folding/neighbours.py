"""Which layers a norm takes its input from, and whether it alone takes theirs."""
# pyright: reportPrivateUsage=false
# torch's dicts of parts and hooks have no public names.

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator

import torch
from torch import fx, nn

Leaf = Callable[[nn.Module], bool]


class _Tracer(fx.Tracer):
    def __init__(self, leaf: Leaf) -> None:
        super().__init__()
        self._leaf = leaf

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self._leaf(m) or super().is_leaf_module(m, module_qualified_name)


def feeding(model: nn.Module, before: Leaf, norm: Leaf) -> dict[nn.Module, list[nn.Module]]:
    """By norm, the layers whose outputs it gets, if it gets nothing else, and nothing else gets them.

    By the model's graph, from torch.fx. Where that cannot trace a model, as it cannot follow loops over data, by the
    graphs of the parts that it can trace, such as every nn.Sequential; it is taken for granted there that a part is
    called as a whole. Neither the model nor what it holds is touched.

    Args:
        before: is this a layer that may stand before a norm? norm: is this a norm?
    """
    found: dict[nn.Module, list[nn.Module]] = {}
    twin = _structure(model)
    if twin is None:
        return found

    def leaf(module: nn.Module) -> bool:
        return before(module) or norm(module) or type(module).__module__.startswith("normlab.")

    names = defaultdict[nn.Module, list[str]](list)
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].append(name)
    for prefix, graph in _graphs(twin, "", leaf):
        pairs = _pairs(model.get_submodule(prefix), graph, before, norm)
        for after, layers in pairs.items():
            if not prefix or all(len(names[module]) == 1 for module in (after, *layers)):
                found[after] = layers
    return found


def _structure(model: nn.Module) -> nn.Module | None:
    """A copy with the same tensors and without hooks: tracing runs the model, which may write to what it holds."""
    tensors = [*model.parameters(), *model.buffers()]
    try:
        twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    except Exception:  # of anything that a model may hold; then there is no graph, which is safe
        return None
    for module in twin.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return twin


def _graphs(module: nn.Module, name: str, leaf: Leaf) -> Iterator[tuple[str, fx.Graph]]:
    """The graph of the module, or those of its parts."""
    if leaf(module):
        return
    try:
        with torch.no_grad():
            graph = _Tracer(leaf).trace(module)
    except Exception:  # whatever the model's code makes of values that are not there
        for child_name, child in module.named_children():
            yield from _graphs(child, f"{name}.{child_name}" if name else child_name, leaf)
        return
    yield name, graph


def _pairs(root: nn.Module, graph: fx.Graph, before: Leaf, norm: Leaf) -> dict[nn.Module, list[nn.Module]]:
    calls = defaultdict[nn.Module, list[fx.Node]](list)
    read: set[int] = set()
    for node in graph.nodes:
        if node.op == "call_module":
            calls[root.get_submodule(str(node.target))].append(node)
        elif node.op == "get_attr":
            read.add(id(_attribute(root, str(node.target))))
    inside = {part for module in calls for part in module.modules() if part is not module}  # called out of sight
    layer_of = {node: module for module, nodes in calls.items() for node in nodes}
    feeds = {
        module: _only_norm(nodes, layer_of, norm)
        for module, nodes in calls.items()
        if before(module) and module not in inside and not any(id(p) in read for p in module.parameters())
    }
    pairs: dict[nn.Module, list[nn.Module]] = {}
    for module, nodes in calls.items():
        inputs = [layer_of.get(source) for node in nodes for source in node.all_input_nodes]
        layers = [layer for layer in dict.fromkeys(inputs) if layer is not None]
        if norm(module) and None not in inputs and all(feeds.get(layer) is module for layer in layers):
            pairs[module] = layers
    return pairs


def _only_norm(nodes: list[fx.Node], layer_of: dict[fx.Node, nn.Module], norm: Leaf) -> nn.Module | None:
    """The norm that takes the output of each of these calls, and takes it alone, where nobody else takes it."""
    users = [user for node in nodes for user in node.users]
    found = {layer_of.get(user) for user in users}
    only = found.pop() if len(found) == 1 else None
    alone = len(users) == len(nodes) and all(len(user.args) == 1 and not user.kwargs for user in users)
    return only if only is not None and norm(only) and alone else None


def _attribute(root: nn.Module, target: str) -> object:
    owner, _, name = target.rpartition(".")
    return getattr(root.get_submodule(owner), name, None)
