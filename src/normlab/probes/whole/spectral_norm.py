"""The spectral norm of each layer: by how much it can stretch its input."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]

from normlab.errors import SpecError, came
from normlab.layers import ConvNorm
from normlab.probes.whole.calls import input_shapes, require_values
from normlab.surgery import frozen_stats
from normlab.surgery.statistics.borrow import gpus_of, uncompiled

DENSE = 64


def spectral_norm(layer: nn.Module, shape: tuple[int, ...]) -> float:
    """The largest singular value of a linear layer, on inputs of this shape, without its bias.

    It is that of the map as it is applied, with its padding, stride and groups, and for a normalized convolution by the
    kernel that is used; a ConvNorm without its batch norm. The layer is not touched: a copy runs, in float64.

    Args:
        layer: nn.Linear, a convolution of torch's or normlab's, or any module that is linear but for a bias.
        shape: of one example, [C, *S].

    Raises:
        SpecError: the layer is not linear, has no values yet or some that are not finite, or takes no such shape.

    Source: the layerwise quantity of Liu et al., arXiv:2103.00673, sec. 3; computed by Lanczos' method (ARPACK).
    """
    require_values(layer)
    if not isinstance(shape, tuple | list) or not all(isinstance(n, int) and n > 0 for n in shape):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpecError(f"shape={came(shape)} should be the sizes of one example, (3, 32, 32) say")
    apply, transposed, size_in, size_out = _operator(layer, tuple(shape))
    if min(size_in, size_out) <= DENSE:
        columns = [apply(column) for column in np.eye(size_in)] if size_in <= size_out else None
        rows = [transposed(row) for row in np.eye(size_out)] if columns is None else columns
        return float(np.linalg.norm(np.stack(rows), 2))
    from scipy.sparse.linalg import LinearOperator, svds

    made: Any = LinearOperator  # whose type does not know the functions that it is made of
    operator = made((size_out, size_in), matvec=apply, rmatvec=transposed, dtype=np.float64)
    first = np.random.default_rng(0).standard_normal(min(size_in, size_out))
    values: Any = svds(operator, k=1, v0=first, return_singular_vectors=False)
    return float(values[0])


def layerwise_spectral_norms(model: nn.Module, run: Callable[[], Any]) -> dict[str, float]:
    """`spectral_norm` of every linear layer and convolution that a run calls, on inputs of the size it sees there.

    Args:
        run: runs the model once, on anything of the right size.

    Raises:
        SpecError: the model has no values yet; the run calls no such layer.
    """
    require_values(model)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Linear, _ConvNd))}
    with torch.no_grad(), torch.random.fork_rng(gpus_of(model)), frozen_stats(model), uncompiled():
        shapes = input_shapes(layers, run)
    if not shapes:
        raise SpecError(f"the run calls no linear layer and no convolution of {type(model).__name__}")
    return {name: spectral_norm(layer, tuple(shapes[name])) for name, layer in layers.items() if name in shapes}


Vector = np.ndarray[Any, np.dtype[np.float64]]
Map = Callable[[Vector], Vector]


def _operator(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Map, Map, int, int]:
    """x → A x and y → Aᵀ y on flat arrays, with their sizes."""
    twin = copy.deepcopy(layer).double().eval()
    if isinstance(twin, ConvNorm):
        twin.batch_norm = None
    weight = next(twin.parameters(), None)
    device = "cpu" if weight is None else weight.device
    zero = torch.zeros(1, *shape, dtype=torch.float64, device=device)
    offset = _at_zero(layer, twin, zero)
    sample = torch.linspace(-1, 1, zero.numel(), dtype=torch.float64, device=device).reshape(zero.shape)
    leaf = zero.clone().requires_grad_()
    with torch.enable_grad():
        graph = twin(leaf)

    def apply(x: Vector) -> Vector:
        with torch.no_grad():
            image = twin(torch.from_numpy(np.ascontiguousarray(x).reshape(zero.shape)).to(device)) - offset
        return image.cpu().numpy().ravel()

    def transposed(y: Vector) -> Vector:
        seed = torch.from_numpy(np.ascontiguousarray(y).reshape(offset.shape)).to(device)
        (found,) = torch.autograd.grad(graph, leaf, seed, retain_graph=True)
        return found.cpu().numpy().ravel()

    _check_linear(layer, twin, sample, offset)
    return apply, transposed, zero.numel(), offset.numel()


def _at_zero(layer: nn.Module, twin: nn.Module, zero: Tensor) -> Tensor:
    """What the layer adds to everything, its bias, where it takes this shape and gives finite numbers."""
    try:
        with torch.no_grad():
            offset: Any = twin(zero)
    except Exception as error:  # whatever a layer says of a shape that it does not take
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise SpecError(f"{type(layer).__name__} takes no example of shape {list(zero.shape[1:])}: {text}") from error
    if not isinstance(offset, Tensor):
        raise SpecError(f"{type(layer).__name__} gives no tensor; got {came(offset)}")
    if not offset.isfinite().all():
        raise SpecError(f"{type(layer).__name__} gives NaN or infinity: a weight of it is no finite number")
    return offset


def _check_linear(layer: nn.Module, twin: nn.Module, sample: Tensor, offset: Tensor) -> None:
    with torch.no_grad():
        once, thrice = twin(sample) - offset, twin(-3 * sample) - offset
    if not torch.allclose(thrice, -3 * once, rtol=1e-6, atol=1e-6 * float(once.abs().amax())):
        raise SpecError(f"{type(layer).__name__} is not linear but for a bias, so it has no spectral norm")
