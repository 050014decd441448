"""Which backend runs, what it says of itself, and what happens where it cannot."""

from __future__ import annotations

import os
import threading

import pytest
import torch

import normlab
from normlab import functional as F
from normlab.errors import Unavailable, UnknownName
from normlab.functional import backends
from normlab.functional.backends import eager
from normlab.layers import SwitchNorm
from tests.conftest import TOLERANCE

LARGE = (8, 16, 64, 64)


def ran(shape: tuple[int, ...] = LARGE, **kind: torch.dtype) -> str:
    SwitchNorm(shape[1])(torch.randn(shape, **kind))
    return str(normlab.backend())


def test_large_inputs_on_the_cpu_go_to_numba_and_the_rest_to_eager():
    assert ran() == "numba: torch.float32 on cpu, 524288 values"
    assert "too few for numba" in ran((2, 16, 4, 4))
    assert "no positions" in ran((2**15, 16))
    assert "numba takes float32 and float64" in ran(dtype=torch.bfloat16)


def test_pooled_layers_say_when_torch_does_the_work():
    normlab.create("batch", num_features=4)(torch.randn(8, 4, 3, 3))
    choice = normlab.backend()
    assert choice is not None
    assert choice.name == "torch"
    assert "288 values" in choice.reason


@pytest.mark.parametrize(
    ("x", "why"),
    [
        (torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16), "numba takes float32 and float64; x is torch.bfloat16"),
        (torch.zeros(2, 3, 4, 8)[..., ::2], "neither contiguous nor channels_last"),
        (torch.zeros(2, 3, 4, 4, device="meta"), "numba runs on the CPU; x is on meta"),
    ],
)
def test_what_a_backend_asked_for_cannot_do_is_an_error(x, why):
    with F.use_backend("numba"), pytest.raises(Unavailable, match=why):
        SwitchNorm(3, device=x.device)(x)


def test_an_unknown_backend_names_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'numba'"), F.use_backend("nubma"):
        pass


def test_blocks_nest_and_end_with_an_error():
    with F.use_backend("eager"):
        with F.use_backend("numba"):
            assert "asks for it" in ran()
        assert ran().startswith("eager")
    with pytest.raises(ZeroDivisionError), F.use_backend("eager"):
        _ = 1 / 0
    assert backends.forced() is None


def test_threads_may_normalize_at_once():
    x = torch.randn(LARGE)
    expected = SwitchNorm(16)(x)
    found: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(SwitchNorm(16)(x))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(torch.equal(y, expected) for y in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_child_leaves_openmp_alone():
    assert ran().startswith("numba")  # so that there are threads to lose
    child = os.fork()
    if child == 0:
        os._exit(0 if "forked" in ran((2, 16, 32, 32)) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("shape", [(1, 5, 6, 8), (1, 5, 3, 5), (3, 40, 7, 9)])
def test_few_examples_are_cut_so_that_every_thread_has_work(shape):
    numba = pytest.importorskip("normlab.functional.backends.numba")
    torch.set_num_threads(2)
    try:
        x = (torch.randn(shape, dtype=torch.float64) + 3).to(memory_format=torch.channels_last)
        g, center = torch.randn_like(x), torch.randn(shape[:2], dtype=torch.float64)
        gate = backends.Gate(*(torch.randn(shape[:2], dtype=torch.float64) for _ in range(3)))
        found = (*numba.moments(x), *numba.grad_sums(g, x, center, gate))
    finally:
        torch.set_num_threads(1)
    for ours, reference in zip(found, (*eager.moments(x), *eager.grad_sums(g, x, center, gate)), strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=100 * TOLERANCE[torch.float64])
