"""What a run was made with: versions, hardware, commit."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from normlab import __version__


@functools.cache
def environment(device: str, threads: int) -> dict[str, str]:
    """Label → value, all text; the same in every run of one process."""
    facts = {
        "normlab": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "numpy": metadata.version("numpy"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "device": device_name(device),
        "threads": str(threads),
    }
    return {label: value for label, value in facts.items() if value}


def commit() -> str:
    """The commit of normlab's own checkout, with `+` where files differ from it; "" for an installed package."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return ""
    try:
        changed = "+" if _git(root, "status", "--porcelain", "src") else ""
        return _git(root, "rev-parse", "--short=12", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def device_name(device: str) -> str:
    """`cpu`, `mps`, or the name of the GPU."""
    if not device.startswith("cuda"):
        return device
    import torch

    return torch.cuda.get_device_name(device)
