"""What the callbacks for different trainers have in common."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from normlab.integrations.shared import lr_share, same_random_numbers


@pytest.mark.parametrize(
    "draw", [random.random, np.random.rand, lambda: float(torch.rand(()))], ids=["python", "numpy", "torch"]
)
def test_random_numbers_are_drawn_again(draw):
    with same_random_numbers():
        inside = draw()
    assert draw() == inside


def test_the_share_of_a_learning_rate_of_zero_is_one():
    assert lr_share(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.0)) == 1
