from __future__ import annotations

import json
import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

import normlab
from normlab.errors import SpecError, Unavailable
from normlab.screen import DEFAULT, Screening, screen
from normlab.screen.candidates import put
from normlab.screen.text import lines
from normlab.seeding import Streams
from normlab.study.models import import_timm, load_model
from tests.unit.screen.nets import digits, residual

FAST = {"seeds": 1, "batches": 1}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole() -> Screening:
    torch.set_num_threads(1)
    return screen(residual(1, 8), digits(), batch_size=16, **FAST)


def test_all_candidates_of_the_list_are_ranked(whole):
    assert len(DEFAULT) >= 12
    assert sorted(one.norm for one in whole.ranked) == sorted(DEFAULT)
    assert [one.score for one in whole.ranked] == sorted((one.score for one in whole.ranked), reverse=True)
    assert whole.loss == "cross-entropy with the labels"


def test_the_worst_is_called_unstable_and_the_best_healthy(whole):
    assert whole.ranked[0].verdict == "healthy"
    worst = {one.norm: one for one in whole.ranked}["weight_standardized"]
    assert worst.verdict == "unstable"
    assert "activation variance grows" in worst.reason


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_text_keeps_within_its_width(whole, width):
    shown = [line for line, _ in lines(whole, width)]
    assert max(map(len, shown)) <= width
    assert all(norm in "\n".join(shown) for norm in DEFAULT)


def test_json_is_plain_and_says_all(whole):
    plain = json.loads(json.dumps(whole.as_json(), allow_nan=False))
    assert [one["norm"] for one in plain["ranked"]] == [one.norm for one in whole.ranked]
    assert len(plain["ranked"][0]["properties"]["profile"]["mean_cosine"]) == 10


def test_it_prints_the_agreement_with_trained_accuracy(whole):
    shown = str(whole)
    for panel in whole.agreement.panels:
        assert str(panel.tau) in shown
    assert any(not panel.develop for panel in whole.agreement.panels)


def test_the_module_is_the_function():
    import normlab.screen as module

    assert module(residual(1, 8), digits(), norms=["batch"], batch_size=8, **FAST).ranked
    assert normlab.screen is module


def test_the_model_is_not_touched():
    model = residual(1, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    screen(model, digits(), norms=["batch", "layer", "weight_norm"], batch_size=8, **FAST)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_twice_is_the_same_and_candidates_are_paired():
    first, second = (screen(residual(1, 8), digits(), norms=["none", "batch"], batch_size=8, **FAST) for _ in range(2))
    assert first.as_json() == second.as_json()
    weights = [put(residual(1, 8), spec, Streams(5)).get_parameter("conv1.weight") for spec in ("layer", "weight_norm")]
    assert torch.equal(*weights)


def test_what_training_made_of_a_model_counts_for_nothing():
    trained = residual(1, 8)
    for parameter in trained.parameters():
        nn.init.uniform_(parameter, 2, 3)
    found = [screen(model, digits(), norms=["layer"], batch_size=8, **FAST) for model in (trained, residual(1, 8))]
    assert found[0].ranked[0].score == found[1].ranked[0].score


def test_none_is_the_network_without_normalization():
    torch.manual_seed(0)
    bare = put(residual(1, 8), "none", Streams(0))
    assert not any("Norm" in type(module).__name__ for module in bare.modules())
    assert sum(p.numel() for p in bare.parameters()) == sum(p.numel() for p in residual(1, 8).parameters())


def test_nonfinite_is_unstable_and_last():
    def overflowing(model, batch):
        return model(batch[0]) * (
            float("inf") if any(m.__class__.__name__ == "GroupNorm" for m in model.modules()) else 1
        )

    found = screen(residual(1, 8), digits(), norms=["batch", "group(num_groups=2)"], forward=overflowing, **FAST)
    last = found.ranked[-1]
    assert (last.norm, last.verdict, last.score) == ("group(num_groups=2)", "unstable", 0)
    assert "NaN or infinite" in last.reason
    json.dumps(found.as_json(), allow_nan=False)


@pytest.mark.parametrize("size", [1, 2])
def test_batch_norm_at_a_tiny_batch_counts(size):
    found = {
        one.norm: one
        for one in screen(residual(1, 8), digits(), batch_size=size, norms=["batch", "group(num_groups=4)"]).ranked
    }
    assert found["batch"].properties.noise > 0.5
    assert found["batch"].verdict != "healthy"
    assert found["batch"].score < found["group(num_groups=4)"].score
    assert found["group(num_groups=4)"].properties.noise == 0
    assert not math.isnan(found["batch"].properties.cosine)


def test_noise_falls_with_the_batch_size():
    noises = [
        screen(residual(1, 8), digits(), batch_size=size, norms=["batch"], **FAST).ranked[0].properties.noise
        for size in (2, 8, 32)
    ]
    assert noises == sorted(noises, reverse=True)


def test_groups_of_one_value_are_not_ranked():
    model = nn.Sequential(nn.Conv2d(1, 8, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 10))  # 1x1 maps
    found = screen(model, digits(), norms=["batch", "layer", "instance"], batch_size=8, **FAST)
    assert [one.norm for one in found.refused] == ["instance"]
    assert "one value" in found.refused[0].reason
    assert screen(model, digits(), norms=["batch", "layer"], batch_size=1, **FAST).refused[0].norm == "batch"


def test_what_cannot_be_converted_is_listed_with_the_reason():
    found = screen(residual(1, 8), digits(), norms=["batch", "group(num_groups=7)"], **FAST)
    assert found.refused[0].norm == "group(num_groups=7)"
    assert "does not divide" in found.refused[0].reason
    assert "does not divide" in "\n".join(str(found).split()).replace("\n", " ")


def test_batch_norm_in_a_deep_residual_net_is_no_false_alarm():
    found = {one.norm: one for one in screen(residual(9, 8), digits(), norms=["batch", "none"], **FAST).ranked}
    assert found["batch"].verdict == "healthy"
    assert found["none"].verdict == "unstable"


def test_zero_initialised_branches_are_told():
    model = residual(1, 8)
    nn.init.zeros_(model.get_parameter("layer1.0.bn2.weight"))
    assert "start at 0" in screen(model, digits(), norms=["batch"], batch_size=8, **FAST).notes[0]


def test_frozen_parameters_are_told():
    model = residual(1, 8).requires_grad_(False)
    found = screen(model, digits(), norms=["batch"], batch_size=8, **FAST)
    assert "frozen" in found.notes[0]
    assert found.ranked[0].properties.finite


class Two(nn.Module):
    """Takes two inputs, and gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))

    def forward(self, left, right):
        return {"map": self.body(torch.cat([left, right], 1)), "none": None}


def test_several_inputs_outputs_in_a_dict_and_no_labels():
    found = screen(Two(), (torch.randn(16, 1, 8, 8), torch.randn(16, 1, 8, 8)), norms=["layer"], batch_size=8, **FAST)
    assert found.loss == "made up, the mean square of the outputs; no labels"
    assert found.ranked[0].properties.noise == 0


@pytest.mark.parametrize(
    "data",
    [
        "1x8x8",
        digits(32)[0],
        [digits(32)[0], digits(32)[1]],
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*digits(40)), batch_size=10),
    ],
    ids=["shape", "tensor", "list", "loader"],
)
def test_data_of_every_sort(data):
    assert screen(residual(1, 8), data, norms=["batch"], batch_size=16, **FAST).ranked


def test_a_loader_draws_from_no_global_generator():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*digits(40)), batch_size=10, shuffle=True)
    model, state = residual(1, 8), torch.get_rng_state()
    screen(model, loader, norms=["batch"], batch_size=8, **FAST)
    assert torch.equal(torch.get_rng_state(), state)


def test_small_work_takes_one_thread_and_gives_the_others_back():
    seen: list[int] = []

    def forward(model, batch):
        seen.append(torch.get_num_threads())
        return model(batch[0])

    torch.set_num_threads(2)
    screen(residual(1, 8), digits(), norms=["batch"], batch_size=8, forward=forward, **FAST)
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2


def test_dropout_draws_from_streams_alone():
    model = nn.Sequential(residual(1, 8), nn.Dropout(0.5))
    state = torch.get_rng_state()
    first = screen(model, digits(), norms=["batch", "none"], batch_size=8, **FAST)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert screen(model, digits(), norms=["batch", "none"], batch_size=8, **FAST).as_json() == first.as_json()


def test_too_few_examples_to_tell_the_noise_are_told():
    found = screen(residual(1, 8), digits(16), norms=["batch"], batch_size=16, **FAST)
    assert "give 32 or more" in found.notes[0]
    assert found.ranked[0].properties.noise is None


def test_a_model_that_cannot_be_copied():
    model = residual(1, 8)
    model.file = (value for value in ())
    with pytest.raises(SpecError, match="cannot be copied"):
        screen(model, digits(), norms=["batch"], **FAST)
    assert screen(lambda: residual(1, 8), digits(), norms=["batch"], **FAST).ranked


def test_a_model_made_by_a_function_is_made_for_each_seed():
    made: list[nn.Module] = []

    def make() -> nn.Module:
        made.append(residual(1, 8))
        return made[-1]

    screen(make, digits(), norms=["batch"], batch_size=8, seeds=2, batches=1)
    assert len(made) >= 2


def test_a_compiled_model_is_screened_uncompiled():
    model = torch.compile(residual(1, 8))
    assert screen(model, digits(), norms=["batch", "layer"], batch_size=8, **FAST).healthy


def test_a_transformer_has_its_layer_norms_exchanged():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.Sequential(OrderedDict(body=layer, head=nn.Linear(16, 4)))
    found = screen(model, torch.randn(64, 5, 16), norms=["layer", "none"], batch_size=8, **FAST)
    assert {one.norm for one in found.ranked} == {"layer", "none"}


def test_out_of_memory_is_told_with_a_smaller_batch():
    def greedy(model, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(SpecError, match="out of memory with 16 examples; try 8"):
        screen(residual(1, 8), digits(), batch_size=16, norms=["batch"], forward=greedy, **FAST)


def test_without_norms_a_network_is_measured_as_it_is():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    found = screen(model, digits(), norms=["none", "weight_norm", "batch"], batch_size=8, **FAST)
    assert {one.norm for one in found.ranked} == {"none", "weight_norm"}
    assert "no normalization layer" in found.refused[0].reason


def test_timm_networks_are_screened():
    try:
        import_timm()
    except Unavailable as reason:
        pytest.skip(str(reason))
    found = screen(
        load_model("timm:resnet10t"), "3x64x64", norms=["batch", "group(num_groups=8)"], batch_size=4, **FAST
    )
    assert len(found.ranked) == 2
