"""`python -m tests.golden DIR`: replay all cases of a directory and print a line for each.

Exit status: 0 if all match, 1 if one fails or nothing claims it, 2 if there is no case.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import torch

from tests.golden.replay import Status, replay_file


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m tests.golden DIR", file=sys.stderr)
        return 2
    paths = sorted(Path(arguments[0]).glob("*.npz"))
    if not paths:
        print(f"no cases (*.npz) in {arguments[0]}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    for path in paths:
        result = replay_file(path)
        counts[result.status] += 1
        print(result)
    told = ", ".join(f"{counts[status]} {status}" for status in get_args(Status))
    print(f"{told} of {len(paths)} cases")
    return 0 if counts["matched"] == len(paths) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
