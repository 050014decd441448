"""What all tests share: one table of tolerances, and memory that is NaN until somebody writes to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # kernels for GPUs run on the CPU; read when triton is first imported, which torch's compiler does
    os.environ.setdefault("TRITON_INTERPRET", "1")

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 4e-2}
"""Largest absolute error of a value of size 1, by dtype; the same in every test."""


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small tensors on many threads are slower, by far where other programs share the cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def nan_in_fresh_memory() -> Iterator[None]:
    """`torch.empty` gives NaN, so that what is never written cannot pass by luck."""
    was = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was[0])
        torch.utils.deterministic.fill_uninitialized_memory = was[1]


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """torch's default generator starts anew in every test."""
    torch.manual_seed(0)


IMAGE_DATA = Path(os.environ.get("NORMLAB_DATA_DIR") or Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture
def image_data(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with local copies of CIFAR-10 and Fashion-MNIST; all tests share what is decoded of them."""
    folder = IMAGE_DATA
    if not (folder / "cifar10").is_dir():
        pytest.skip(
            f"no local copies of CIFAR-10 and Fashion-MNIST in {folder}; NORMLAB_DATA_DIR can name another place"
        )
    pytest.importorskip("datasets")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    monkeypatch.setenv("NORMLAB_DATA_DIR", str(folder))
    monkeypatch.setenv("NORMLAB_CACHE_DIR", str(shared / "image-cache"))
    return folder
