"""Models and batches as they come, and those that cannot be looked at."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from normlab.errors import SpecError
from normlab.inspect import inspect
from tests.unit.inspect.nets import Pair, images, small


class Raises(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.error = error

    def forward(self, x):
        self.norm(x)
        raise self.error


class Tuples(nn.Module):
    """Takes a dict, gives a tuple with a dict in it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def forward(self, image):
        return 3, {"scores": self.net(image)}


GOOD = {
    "tensor": lambda: (small(), images()),
    "tuple with labels": lambda: (small(), (images(), torch.zeros(8))),
    "shape as text": lambda: (small(), "8x3x12x12"),
    "shape as tuple": lambda: (small(), (8, 3, 12, 12)),
    "several inputs, outputs in a dict": lambda: (Pair(), (images(), images())),
    "inputs by name, outputs in a tuple": lambda: (Tuples(), {"image": images()}),
    "frozen": lambda: (small().requires_grad_(False), images()),
    "in eval mode": lambda: (small().eval(), images()),
    "compiled": lambda: (torch.compile(small()), images()),
    "data parallel": lambda: (nn.DataParallel(small()), images()),
    "synchronized": lambda: (nn.SyncBatchNorm.convert_sync_batchnorm(small()), images()),
    "bfloat16": lambda: (small().bfloat16(), images().bfloat16()),
    "channels last": lambda: (small(), images().to(memory_format=torch.channels_last)),
    "built in inference mode": lambda: (torch.inference_mode()(small)(), images()),
    "sparse": lambda: (nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), torch.randn(8, 8).to_sparse()),
    "a norm alone": lambda: (nn.BatchNorm2d(3), images()),
}


@pytest.mark.parametrize("case", GOOD)
def test_models_and_batches_that_people_have(case):
    model, batch = GOOD[case]()
    report = inspect(model, batch)
    assert report.healthy
    assert report.rows[0].sigma > 0


def test_a_model_compiled_in_part():
    model = small()
    model[0].compile()
    assert inspect(model, images()).rows[0].gradient_norm > 0


def test_forward_runs_the_model_where_the_batch_does_not_fit():
    report = inspect(Pair(), images(), forward=lambda model, x: model(x, 2 * x)["scores"])
    assert report.rows[0].calls == 2


def test_the_module_is_the_function():
    import normlab.inspect as module

    assert module(small(), images()).rows == module.inspect(small(), images()).rows


def test_inference_mode_around_it():
    with torch.inference_mode():
        assert inspect(small(), images()).rows[0].gradient_norm > 0


BAD = {
    "no module": (lambda: (3, images()), "inspect takes a torch module; got 3"),
    "no batch": (lambda: (small(), None), "inspect takes a batch: a tensor, a tuple, a dict, or a text like 8x3x32x32"),
    "a shape that is none": (lambda: (small(), "8x3y"), "should be sizes with x between them"),
    "a batch without tensors": (lambda: (small(), ["a"]), "should hold tensors"),
    "no examples": (lambda: (small(), torch.empty(0, 3, 8, 8)), "should hold examples, as many as its first size"),
    "a number": (lambda: (small(), torch.tensor(1.0)), "got sizes ()"),
    "more than fits": (lambda: (small(), "99999999x3x999x999"), "cannot be made: out of memory with 99999999 examples"),
    "more than can be counted": (lambda: (small(), "99999999x3x999x99999999999"), "cannot be made: "),
    "ends the program": (lambda: (Raises(SystemExit(0)), images()), "RuntimeError: sys.exit(0) was called"),
    "wrong channels": (
        lambda: (small(), "8x4x12x12"),
        "does not run on a batch of random numbers, 8x4x12x12",
    ),
    "one input of two": (lambda: (Pair(), images()), "missing 1 required positional argument: 'right'"),
    "raises": (lambda: (Raises(KeyError("a")), images()), "KeyError: 'a'"),
    "out of memory": (
        lambda: (Raises(torch.OutOfMemoryError("CUDA out of memory. Tried to")), images()),
        "out of memory with 8 examples; try 4",
    ),
    "memory of a CPU": (
        lambda: (Raises(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")), images()),
        "out of memory with 8 examples; try 4",
    ),
    "one value per channel": (
        lambda: (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)), images(1)),
        "layer 1 on 1x3x1x1: ValueError: Expected more than 1 value per channel",
    ),
    "meta device": (lambda: (small().to("meta"), images()), "the model is on the meta device"),
    "lazy": (lambda: (nn.Sequential(nn.LazyConv2d(4, 3)), images()), "0.weight has no shape yet"),
    "tokens": (lambda: (nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4)), "2x5"), "another kind than random numbers"),
    "nothing to look at": (lambda: (nn.ReLU(), images()), "ReLU has neither normalization layers nor"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case):
    build, message = BAD[case]
    model, batch = build()
    with pytest.raises(SpecError, match=re.escape(message)) as caught:
        inspect(model, batch)
    assert "\n" not in str(caught.value)


def test_an_unusable_device_is_said_in_a_sentence(monkeypatch):
    def empty(*_, **__):
        raise NotImplementedError(
            "Could not run 'aten::empty' with the 'MPS' backend. This could be because " + "a" * 800
        )

    model = small()
    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(SpecError, match=r"'mps' cannot be used: Could not run 'aten::empty' with the 'MPS' backend$"):
        inspect(model, "8x3x12x12", device="mps")


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        (3, "initial should be a state dict, or a model as it was; got int"),
        ({"0.weight": torch.ones(3)}, "unknown initial value '1.weight'"),
        ({"1.weight": torch.ones(3)}, r"initial: 1.weight is \[3\] there, and \[8\] in the model"),
    ],
    ids=["no state dict", "lacks", "shape"],
)
def test_initial_values_that_do_not_fit(initial, message):
    with pytest.raises(SpecError, match=message):
        inspect(small(), images(), initial=initial)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "xpu"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(SpecError, match=f"device '{device}' cannot be used"):
        inspect(small(), images(), device=device)


@pytest.mark.gpu
def test_another_device():
    model = small()
    near = inspect(model, images())
    far = inspect(model, images(), device="cuda")
    assert next(model.parameters()).device.type == "cpu"
    for one, other in zip(near.rows, far.rows, strict=True):
        assert one.sigma == pytest.approx(other.sigma, rel=1e-3)
    assert inspect(model.cuda(), images()).healthy
