"""What surgery on statistics needs of torch.distributed."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from normlab.functional.collective import gather_rows


def group_of(process_group: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """The processes to pool over; None where there is no other."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    group = process_group or dist.group.WORLD
    return None if dist.get_world_size(group) == 1 else group


def rows_of(row: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """[k] of each process → [processes, k] in all of them; one collective."""
    return row[None] if group is None else gather_rows(row[None], group)
