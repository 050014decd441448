"""A split on the device: uint8 images that stay there, gathered batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from normlab.study.data.base import Split


@dataclass(frozen=True)
class Examples:
    """One split.

    Attributes:
        pool: [N, C, H, W] uint8.
        rows: [n] int64, which images of the pool.
        labels: [n] int64.
    """

    pool: Tensor
    rows: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images [b, C, H, W] uint8 and labels [b] of the examples with these numbers in the split."""
        return self.pool.index_select(0, self.rows[indices]), self.labels[indices]


def examples(split: Split, device: str | torch.device) -> Examples:
    """The split on a device. On a CPU no image is copied; elsewhere those of the split are."""
    rows, labels = torch.from_numpy(split.rows), torch.from_numpy(split.labels).to(device)
    if torch.device(device).type == "cpu":
        return Examples(torch.from_numpy(split.pool), rows, labels)
    return Examples(torch.from_numpy(split.images).to(device), torch.arange(len(rows), device=device), labels)
