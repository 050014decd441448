"""The Triton loops against eager: compiled where there is a GPU; else on the CPU, in Triton's interpreter."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch

from normlab import functional as F
from normlab.errors import Unavailable
from normlab.functional.backends import Factors, Gate, eager
from tests.conftest import TOLERANCE

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # counts when triton is first imported, and never again
tl = pytest.importorskip("triton.language", reason="triton is not installed; it comes for Linux only")

from normlab.functional.backends import triton as backend  # noqa: E402
from normlab.functional.backends import triton_loops as loops  # noqa: E402

ready = torch.cuda.is_available() or (loops.INTERPRETED and type(tl.sum) is type(loops.moments))
assert ready, "triton was imported before TRITON_INTERPRET=1 was set; tests/conftest.py is where to set it"

DEVICE = "cpu" if loops.INTERPRETED else "cuda"
pytestmark = [] if loops.INTERPRETED else [pytest.mark.gpu]
SHAPES = [(2, 3, 35), (2, 5, 7, 9), (1, 3, 3, 2, 5)]
CASES = [*((shape, torch.float32) for shape in SHAPES), (SHAPES[1], torch.bfloat16), (SHAPES[1], torch.float16)]
cases = pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)
means = pytest.mark.parametrize("mean", [0.0, 100.0], ids=["centred", "far-from-zero"])


@pytest.fixture(params=["contiguous", "channels_last"])
def layout(request):
    """Lays a tensor out."""
    if request.param == "contiguous":
        return torch.Tensor.contiguous
    return lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1)


@pytest.fixture(params=["one-tile", "many-tiles"])
def tiles(request, monkeypatch):
    """As they are, or so small that a small tensor takes several programs, walks and spans."""
    if request.param == "many-tiles":
        for name, value in {"_TILE": 16, "_LINE": 4, "_WALK": 2, "_PROGRAMS": 16}.items():
            monkeypatch.setattr(backend, name, value)


def values(shape, layout, dtype, mean=0.0):
    return layout((torch.randn(shape) + mean).to(DEVICE, dtype))


def vectors(shape, count, mean=0.0):
    return tuple((torch.randn(shape[:2]) + mean).to(DEVICE) for _ in range(count))


def gate_for(shape, gated, mean):
    """One that is shut for some values near `mean`, and open for others."""
    if not gated:
        return None
    scale, near, floor = vectors(shape, 3)
    return Gate(scale, near - scale * mean, floor)


def assert_same(got, expected, dtype, mean=0.0):
    """Equal up to the dtype; `mean` is how much larger the terms are than the result."""
    tolerance = TOLERANCE[torch.float32 if dtype == torch.float32 else torch.bfloat16]
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance * (1 + mean), equal_nan=True)


@cases
@means
def test_moments(shape, dtype, mean, layout, tiles):
    x = values(shape, layout, dtype, mean)
    for got, expected in zip(backend.moments(x), eager.moments(x), strict=True):
        assert got.is_contiguous()
        assert_same(got, expected, torch.float32, mean)


@cases
@pytest.mark.parametrize("floored", [False, True], ids=["free", "floor"])
@pytest.mark.parametrize("added", [False, True], ids=["alone", "residual"])
def test_scale_shift(shape, dtype, floored, added, layout, tiles):
    x = values(shape, layout, dtype)
    scale, shift, floor = vectors(shape, 3)
    arguments = x, scale, shift, floor if floored else None, values(shape, layout, dtype) if added else None
    y = backend.scale_shift(*arguments)
    assert y.stride() == x.stride()
    assert_same(y, eager.scale_shift(*arguments), dtype)


@cases
@pytest.mark.parametrize(("gated", "mean"), [(False, 0.0), (True, 100.0)], ids=["open", "gated-far-from-zero"])
def test_gradients(shape, dtype, gated, mean, layout, tiles):
    x, g = values(shape, layout, dtype, mean), values(shape, layout, dtype)
    gate, factors = (
        gate_for(shape, gated, mean),
        Factors(*vectors(shape, 2), *vectors(shape, 1, mean), *vectors(shape, 1)),
    )
    for got, expected in zip(
        backend.grad_sums(g, x, factors.center, gate), eager.grad_sums(g, x, factors.center, gate), strict=True
    ):
        assert (got is None) == (expected is None)
        if got is not None:
            assert got.is_contiguous()
            assert_same(got, expected, torch.float32, mean)
    dx = backend.grad_input(g, x, factors, gate)
    assert dx.stride() == x.stride()
    assert_same(dx, eager.grad_input(g, x, factors, gate), dtype, mean)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, in the interpreter
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_visible(bad, layout, tiles):
    shape = SHAPES[1]
    x, g = values(shape, layout, torch.float32), values(shape, layout, torch.float32)
    x[1, 2, 3, 4] = bad
    scale, shift, floor, center = vectors(shape, 4)
    scale, gate = scale.abs(), Gate(scale.abs(), shift, floor)
    for got, expected in zip(backend.moments(x), eager.moments(x), strict=True):
        assert torch.equal(got.isfinite(), expected.isfinite())
    assert_same(
        backend.scale_shift(x, scale, shift, floor, None), eager.scale_shift(x, scale, shift, floor, None), x.dtype
    )
    for got, expected in zip(backend.grad_sums(g, x, center, gate), eager.grad_sums(g, x, center, gate), strict=True):
        assert_same(got, expected, torch.float32)


def switch(mean_logits, var_logits, weight, bias):
    """Switchable Normalization: instance, layer and batch moments, blended."""

    def affine(m):
        parts = m, F.pool_channels(m), F.pool_batch(m)
        return F.standardize(F.blend(parts, mean_logits.softmax(0), var_logits.softmax(0)), weight, bias, 1e-5)

    return affine


@cases
@means
@pytest.mark.parametrize("ending", ["plain", "relu", "relu-residual", "floor"])
def test_normalize_and_its_gradients(shape, dtype, mean, ending, layout):
    x, residual, g = (values(shape, layout, dtype, m) for m in (mean, 0.0, 0.0))
    parameters = [torch.randn(k).to(DEVICE) for k in (3, 3, shape[1], shape[1], shape[1])]
    got, expected = (run(name, ending, x, residual, g, parameters) for name in ("triton", "eager"))
    assert_same(got[0], expected[0], dtype, mean)
    for ours, theirs in zip(got[1:], expected[1:], strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert_same(ours, theirs, dtype, mean)


def run(name, ending, x, residual, g, parameters):
    """y and the gradients of everything that it depends on."""
    x, residual, *parameters = (v.detach().requires_grad_() for v in (x, residual, *parameters))
    *learned, floor = parameters
    options = {"activation": "relu"} if "relu" in ending else {"floor": floor} if ending == "floor" else {}
    if "residual" in ending:
        options["residual"] = residual
    with F.use_backend(name):
        y = F.normalize(x, switch(*learned), **options)
        assert F.backend().name == name
    leaves = (x, residual, *parameters)
    return y, *torch.autograd.grad(y, leaves, g, allow_unused=True)


def test_equal_inputs_give_equal_bits(layout, tiles):
    x = values(SHAPES[1], layout, torch.float32)
    for once, again in zip(backend.moments(x), backend.moments(x.clone()), strict=True):
        assert torch.equal(once, again)


@pytest.mark.parametrize("walks", [False, True])
@pytest.mark.parametrize(
    "shape",
    [*SHAPES, (128, 64, 112, 112), (256, 2048, 7, 7), (1, 1, 1), (4, 300, 1, 1), (1, 3, 1 << 31), (1, 1 << 22, 3)],
    ids=str,
)
def test_programs_take_every_value_once(shape, walks, layout):
    # tensors of the meta device have no values; a contiguous one stands for itself in either layout
    n, c, *space = shape
    x = torch.empty(shape, device="meta")
    if layout is not torch.Tensor.contiguous:
        x = torch.empty(n, *space, c, device="meta").movedim(-1, 1)
    plan = backend._plan(x, walks=walks)
    length, pairs, chunk, spans, blocks = plan.sizes
    long, wide = plan.constants["LONG"], plan.constants["WIDE"]
    sets = plan.programs // (spans * blocks)
    assert chunk % long == 0
    assert (spans - 1) * chunk < length <= spans * chunk
    assert long * wide <= backend._TILE
    assert walks or chunk == long
    if x.is_contiguous():
        assert (pairs, blocks) == (n * c, 1)
        assert (sets - 1) * wide < pairs <= sets * wide
    else:
        assert (pairs, sets) == (c, n)
        assert (blocks - 1) * wide < pairs <= blocks * wide
    largest = (wide * length if wide > 1 else length) if x.is_contiguous() else long * pairs
    assert largest <= 1 << 31, "the offsets within a tile are 32 bits wide"


@pytest.mark.parametrize(
    ("x", "why"),
    [
        (torch.zeros(2, 3, 4, dtype=torch.float64), "float32, bfloat16 and float16; x is torch.float64"),
        (torch.zeros(1, 1, 1).expand(1, (1 << 25) + 1, 1), "up to 33554432 channels; x has 33554433"),
    ],
    ids=["dtype", "channels"],
)
def test_refusals_say_why(x, why):
    assert why in backend.refuses(x.to(DEVICE))


def test_a_tensor_of_the_cpu_is_refused_unless_interpreted(monkeypatch):
    monkeypatch.setattr(loops, "INTERPRETED", False)
    x = torch.zeros(2, 3, 4)
    assert backend.refuses(x) == "triton runs on CUDA; x is on cpu"
    with F.use_backend("triton"), pytest.raises(Unavailable, match=r"x is on cpu.*use_backend\('eager'\) can"):
        F.normalize(x, lambda m: (m.var, m.mean))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine where triton finds no GPU")
@pytest.mark.parametrize(
    ("capability", "why"),
    [((7, 5), r"needs compute capability 8.0; Tesla T4 is older"), ((9, 0), "triton does not start: .*driver")],
    ids=["old", "no-driver"],
)
def test_a_gpu_that_cannot_run_triton_is_refused(monkeypatch, capability, why):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert re.search(why, backend._unfit.__wrapped__(torch.device("cuda", 0)))


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from normlab.functional.backends import Factors, Gate, triton as backend

class Hopper:  # what stands in for a GPU, to compile for but not to run on
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)

def compile_only(loop, plan, *tensors, **constants):
    compiled = loop.warmup(*tensors, *plan.sizes, **plan.constants, **constants, **backend._OPTIONS, grid=(1,))
    assert "ld.global.v4" in compiled.asm["ptx"], "loads of 16 bytes"

triton.runtime.driver.set_active(Hopper())
backend._launch = compile_only
for layout in (torch.contiguous_format, torch.channels_last):
    x = torch.zeros(2, 64, 64, 64, dtype=torch.bfloat16).contiguous(memory_format=layout)
    v = torch.zeros(2, 64)
    backend.moments(x)
    backend.scale_shift(x, v, v, v, x)
    backend.scale_shift(x, v, v, None, None)
    for gate in (None, Gate(v, v, v)):
        backend.grad_sums(x, x, v, gate)
        backend.grad_input(x, x, Factors(v, v, v, v), gate)
"""


def test_compiles_for_a_gpu_that_is_not_there(tmp_path):
    """The interpreter takes more than the compiler does. In a process of its own, since ours may interpret."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cpu", reason="five gigabytes, value by value: for a GPU")
def test_more_values_than_32_bits_count(layout):
    x = layout(torch.zeros(3, 2, (1 << 29) + 5, dtype=torch.float16, device=DEVICE))
    x[-1, -1, -3:] = torch.tensor([1.0, 2.0, 4.0])
    two = torch.full((3, 2), 2.0, device=DEVICE)
    y = backend.scale_shift(x, two, two, None, None)
    assert y[-1, -1, -4:].tolist() == [2.0, 4.0, 6.0, 10.0]
    total, about, _ = backend.grad_sums(x, x, torch.zeros_like(two), None)
    assert total.flatten().tolist() == [0.0] * 5 + [7.0]
    assert about.flatten().tolist() == [0.0] * 5 + [21.0]
