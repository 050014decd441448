"""Instance-Level Meta Normalization: the affine part is predicted from each example's own moments."""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from normlab import functional as F
from normlab.errors import SpecError
from normlab.functional import Moments
from normlab.layers.base import NORMS, Norm, Options, among
from normlab.layers.group import check_divides

Backbone = Literal["group", "instance", "layer"]


@NORMS.register("ilm")
class ILMNorm(Norm):
    """Normalize by groups, and add to weight and bias what an auto-encoder predicts from the moments of key groups.

        g = sigmoid(D_γ relu(E σ²_key)),   b = tanh(D_β relu(E μ_key)),   y = (γ + g) x̂ + (β + b)

    E is `encoder`, D_γ is `decode_weight`, D_β is `decode_bias`, all without bias; γ starts at 1, so that the scale
    starts near 1.5. All variances are unbiased.

    Args:
        num_features: C, the number of channels.
        backbone: x̂ by "group", "instance" or "layer" moments.
        num_groups: of the "group" backbone.
        key_group_size: channels in a key group, which divides C.
        embedding: size of the code; None for key groups // reduction, and 2 where there are fewer key
            groups than `reduction`, or, but for the "group" backbone, as many.
        options: see `Options`.

    Raises:
        SpecError: groups that do not divide the channels; on a call, groups of one value.

    Source: Jia et al., CVPR 2019, arXiv:1904.03516, and their code.
    """

    def __init__(
        self,
        num_features: int,
        *,
        backbone: Backbone = "group",
        num_groups: int = 32,
        key_group_size: int = 16,
        embedding: int | None = None,
        reduction: int = 16,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(num_features, **options)
        among("backbone", backbone, ("group", "instance", "layer"))
        if key_group_size < 1 or num_features % key_group_size:
            raise SpecError(f"key_group_size={key_group_size} does not divide num_features={num_features}")
        if reduction < 1 or (embedding is not None and embedding < 1):
            raise SpecError(f"reduction={reduction}, embedding={embedding} should be 1 or more")
        self.backbone, self.key_group_size, self.reduction = backbone, key_group_size, reduction
        self.groups = {"group": num_groups, "instance": num_features, "layer": 1}[backbone]
        check_divides(self.groups, num_features)
        keys = num_features // key_group_size
        enough = keys >= reduction if backbone == "group" else keys > reduction
        code = embedding or (keys // reduction if enough else 2)
        self.encoder = nn.Linear(keys, code, bias=False, **self._factory)
        self.decode_weight = nn.Linear(code, keys, bias=False, **self._factory)
        self.decode_bias = nn.Linear(code, keys, bias=False, **self._factory)

    def affine_map(self, m: Moments) -> tuple[Tensor, Tensor]:
        """(γ + g) / σ, and β + b - μ (γ + g) / σ."""
        c = m.shape[1]
        if m.count * min(c // self.groups, self.key_group_size) == 1:
            raise SpecError(
                f"ILMNorm's groups hold one value of an input of size {m.size}, which has no unbiased variance"
            )
        members = (m.shape[0], c // self.key_group_size, self.key_group_size)
        keys = F.pool(Moments(m.mean.reshape(members), m.var.reshape(members), m.count), 2)
        gate = self._decode(self.decode_weight, F.unbiased(keys).squeeze(2)).sigmoid()
        lift = self._decode(self.decode_bias, keys.mean.squeeze(2)).tanh()
        pooled = F.pool_groups(m, self.groups)
        rstd = torch.rsqrt(F.unbiased(pooled) + self.eps)
        scale = rstd * (gate if self.weight is None else gate + self.weight.to(gate.dtype))
        shift = torch.addcmul(lift, pooled.mean, scale, value=-1)
        return scale, shift if self.bias is None else shift + self.bias.to(shift.dtype)

    def _decode(self, decoder: nn.Linear, keys: Tensor) -> Tensor:
        """Key moments [N, K] → [N, C]."""
        linear = nn.functional.linear
        code = linear(keys, self.encoder.weight.to(keys.dtype)).relu()
        decoded = linear(code, decoder.weight.to(keys.dtype))[:, :, None]
        return decoded.expand(-1, -1, self.key_group_size).flatten(1)
