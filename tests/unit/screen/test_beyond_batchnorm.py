"""What Lubana et al. (arXiv:2106.05956) found comes out on real random networks and real digits."""

from __future__ import annotations

import functools
from itertools import pairwise
from statistics import fmean

import pytest
import torch

from normlab.screen.candidates import put
from normlab.screen.measure import Properties, places, run, summarise
from normlab.screen.pool import read_pool
from normlab.seeding import Streams
from tests.unit.screen.nets import digits, plain, residual

ACTIVATION = ("batch", "group(num_groups=4)", "layer", "instance", "frn", "switch", "variance")
NETS = {"residual": residual, "plain": plain}


@functools.cache
def measured(net: str, spec: str) -> Properties:
    torch.set_num_threads(1)
    passes = []
    for seed in range(2):
        streams = Streams(seed)
        model = put(NETS[net](), spec, streams)
        pool = read_pool(model, digits(), 200, None)
        passes.append(run(model, places(model), pool.batch(32, streams, 0), torch.device("cpu")))
    return summarise(passes, passes, 32, [])


@pytest.mark.parametrize("net", NETS)
def test_cosine_grows_and_stable_rank_falls_with_the_group_size(net):
    by_size = [measured(net, f"group(num_groups={groups})") for groups in (16, 8, 4, 2, 1)]
    for smaller, larger in pairwise(by_size):
        assert larger.cosine > smaller.cosine
        assert larger.rank < smaller.rank


@pytest.mark.parametrize("net", NETS)
def test_instance_norm_gives_the_largest_early_gradients(net):
    early = {spec: _early(measured(net, spec)) for spec in ACTIVATION}
    assert max(early, key=early.__getitem__) == "instance"


def _early(found: Properties) -> float:
    gradients = found.profile["gradient_norm"]
    return fmean(gradients[: len(gradients) // 4]) / gradients[-1]


@pytest.mark.parametrize("spec", ["weight_norm", "weight_standardized", "scaled_weight_standardized"])
def test_weight_space_normalizers_blow_up_in_deep_residual_nets_where_activation_normalizers_do_not(spec):
    assert measured("residual", spec).growth > 1
    assert max(measured("residual", other).growth for other in ACTIVATION) < 0.5
