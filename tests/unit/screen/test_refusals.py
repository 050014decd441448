"""What cannot be screened is refused in one line."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from normlab.errors import SpecError, UnknownName
from normlab.screen import screen
from tests.unit.screen.nets import Detached, Uncalled, digits, residual

FAST = {"seeds": 1, "batches": 1}

NAN = digits(32)[0].clone()
NAN[3, 0, 2, 2] = math.nan


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"norms": ["grup"]}, "did you mean 'group'"),
        ({"norms": ["group(num_group=8)"]}, "did you mean 'num_groups'"),
        ({"norms": []}, "norms is empty: name a normalizer"),
        ({"norms": None}, "norms=None should be a list of specs"),
        ({"norms": "batch"}, "norms='batch' should be a list of specs"),
        ({"norms": [3]}, "named by a string"),
        ({"forward": 3}, "forward=3 should be a function"),
        ({"progress": 3}, "progress=3 should be a function"),
        ({"batch_size": 0}, "batch_size=0 should be"),
        ({"batch_size": 500}, "holds 200 examples, too few for a batch of 500"),
        ({"seeds": 0}, "seeds=0 should be"),
        ({"batches": True}, "batches=True should be"),
        ({"data": NAN}, "holds NaN or infinity"),
        ({"data": "1x8x"}, "should be the sizes of one example"),
        ({"data": 7}, "should hold tensors"),
        ({"data": []}, "read like 3x32x32; it holds nothing"),
        ({"data": torch.utils.data.DataLoader([])}, "gave no batch"),
        ({"data": (torch.zeros(64, 1, 8, 8), digits(64)[1])}, "64 times the same example"),
        ({"data": digits(1)[0].expand(64, -1, -1, -1)}, "64 times the same example"),
        ({"data": iter(())}, "gave no batch"),
        ({"data": "3x8x8"}, "none of the 1 candidates could be measured. batch: "),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        ({"model": 3}, "takes a torch module"),
        ({"model": lambda: 3}, "should make a torch module"),
        ({"model": lambda: nn.Linear("a", 3)}, "the function that makes the model raised TypeError"),
        ({"model": nn.Sequential(nn.BatchNorm2d(1), nn.Flatten())}, "no convolution and no fully connected layer"),
        ({"model": Uncalled()}, "none of its 1 convolutions and fully connected layers is called"),
        ({"model": Detached(lambda x: x.detach())}, "no gradient: nothing that it gives"),
        ({"forward": lambda model, batch: None}, "no gradient: nothing that it gives"),
        ({"model": nn.Linear(8, 8)}, "could be measured"),
        ({"model": nn.LazyConv2d(8, 3)}, "has no shape yet"),
        ({"model": residual(1, 8).to("meta")}, "meta device"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_input(change, says):
    given = {"model": residual(1, 8), "data": digits(), "norms": ["batch"], "batch_size": 16, **FAST, **change}
    with pytest.raises(SpecError, match=says.replace("(", r"\(")):
        screen(given.pop("model"), given.pop("data"), **given)


def test_an_unknown_normalizer_is_an_unknown_name():
    with pytest.raises(UnknownName):
        screen(residual(1, 8), digits(), norms=["swich"])
