"""What `convert` cannot do it says, with the layer's name, and leaves model and optimizer as they were, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from normlab.errors import SpecError, UnknownName
from normlab.surgery import convert, register_norm_type
from tests.unit.surgery.conversions import net, refused


class OwnBatchNorm(nn.BatchNorm2d):
    """Does no more than its base."""


class ScaledBatchNorm(nn.BatchNorm2d):
    def forward(self, input):
        return 2 * super().forward(input)


class Pooled(nn.Module):
    """Like the image-level branch of DeepLab's head: a norm on maps of one position."""

    def __init__(self, channels=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(channels))

    def forward(self, x):
        return self.pool(self.stem(x))


def fails_on_the_second(c):
    if c == 6:
        raise RuntimeError("no")
    return nn.GroupNorm(2, c)


SPECS = [
    ("grup", UnknownName, "unknown norm 'grup'; did you mean 'group'"),
    ("group(groups=2)", UnknownName, "unknown argument of norm 'group': 'groups'; did you mean 'num_groups'"),
    ("group(num_groups='2')", SpecError, "num_groups='2' should be a valid integer"),
    ("group num", SpecError, "should read name or name"),
    ("batch(num_features=3)", UnknownName, "num_features"),
    ("weight_norm(in_channels=3)", UnknownName, "in_channels"),
    ("group", SpecError, "^1, BatchNorm2d: num_groups=32 does not divide num_features=4; 4 does"),
    ("group(num_groups=4)", SpecError, "^3.1, BatchNorm2d: num_groups=4 does not divide num_features=6; 3 does"),
    ("batch(eps=-1.0)", SpecError, "^1, BatchNorm2d: eps=-1.0"),
    (nn.GroupNorm(2, 8), SpecError, "a function from num_features to a new layer.*got an instance of GroupNorm"),
    (3, SpecError, "got an instance of int"),
    (nn.GroupNorm, SpecError, r"^1, BatchNorm2d: GroupNorm\(4\) raises TypeError"),
    (fails_on_the_second, SpecError, r"^3.1, BatchNorm2d: fails_on_the_second\(6\) raises RuntimeError: no"),
    (lambda c: c, SpecError, "should give a torch module, and gave 4"),
    (nn.LazyBatchNorm2d, SpecError, "gives a lazy layer"),
    (lambda c: nn.LazyBatchNorm2d(), SpecError, "gives a lazy layer"),
]


@pytest.mark.parametrize(("spec", "error", "match"), SPECS)
def test_bad_specs(spec, error, match):
    refused(net(), spec, match, error=error)


def test_one_layer_for_all_is_refused():
    one = nn.BatchNorm2d(8)
    model = net()
    refused(model, lambda c: model[1], "^1, BatchNorm2d: BatchNorm2d is in the model already")
    refused(net(), lambda c: one, "^3.1, BatchNorm2d: BatchNorm2d is in the model already")


@pytest.mark.parametrize("cls", [nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm2d])
def test_a_layer_for_inputs_of_other_dimensions_is_refused(cls):
    refused(nn.Sequential(nn.BatchNorm1d(8)), cls, f"0, BatchNorm1d: {cls.__name__} takes other inputs")


def test_a_model_without_norms_says_what_it_has():
    refused(
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), "group", "no normalization layer.*2 Linear, 1 ReLU"
    )
    refused(nn.Sequential(nn.Linear(3, 4)), "weight_norm", "no Conv2d that could become weight_norm; it has 1 Linear")


def test_an_unregistered_norm_is_pointed_at():
    class MyNorm(nn.Module):
        pass

    refused(nn.Sequential(MyNorm()), "group", "register_norm_type makes MyNorm known")


def test_where_that_matches_nothing():
    refused(net(), "batch", r"unknown layer '3\.2'; did you mean '3\.1'", error=UnknownName, where="3.2")
    refused(net(), "batch", "unknown layer 'layer4", error=UnknownName, where=["1", "layer4.*"])
    refused(net(), "batch", "no layer was chosen.*2 BatchNorm2d", where=lambda site: site.kind == "group")


def test_where_takes_patterns_of_any_name_and_functions():
    shared = nn.BatchNorm2d(4)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.BatchNorm2d(4))})
    for where, names in [
        ("b.0", ["a"]),
        ("b.*", ["a", "b.1"]),
        (["a", "b.1"], ["a", "b.1"]),
        (lambda s: s.name == "a", ["a"]),
    ]:
        record = convert(model, "batch", where=where, dry_run=True)
        assert [change.names[0] for change in record.changes] == names
        assert [left.name for left in record.left] == [n for n in ("a", "b.1") if n not in names]


def test_by_default_batch_norms_are_converted_and_the_rest_left_alone():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4))
    record = convert(model, "batch", dry_run=True)
    assert [change.names for change in record.changes] == [("0",)]
    assert [(left.name, left.type) for left in record.left] == [("1", "LayerNorm"), ("2", "GroupNorm(num_groups=2)")]
    assert len(convert(nn.Sequential(model[1], model[2]), "batch", dry_run=True).changes) == 2


def test_a_subclass_with_a_forward_of_its_own_is_refused_until_it_is_registered():
    class Doubled(ScaledBatchNorm):
        pass

    refused(nn.Sequential(nn.BatchNorm2d(4), Doubled(4)), "batch", "^1, Doubled: its class has a forward of its own")
    register_norm_type(Doubled, kind="batch")
    convert(nn.Sequential(Doubled(4)), "batch")
    convert(nn.Sequential(OwnBatchNorm(4)), "batch")


def test_computed_weights_are_refused():
    pruned, normed = net(), net()
    prune.random_unstructured(pruned[1], "weight", 0.5)
    parametrizations.weight_norm(normed[3][1], dim=None)
    refused(pruned, "batch", "^1, BatchNorm2d: weight of BatchNorm2d is computed")
    refused(normed, "batch", "^3.1, ParametrizedBatchNorm2d: weight .* is computed")


def test_layer_norm_over_several_dimensions_is_refused():
    refused(nn.Sequential(nn.LayerNorm((4, 3, 3))), "group", "normalizes over 3 dimensions")


def test_lazy_layers_without_a_sample_are_refused():
    refused(nn.Sequential(nn.LazyBatchNorm2d()), "batch", "^0, LazyBatchNorm2d: it has no shape yet: pass a sample")


def test_lazy_layers_are_lazy_again_after_a_failure():
    model = nn.Sequential(nn.LazyConv2d(6, 3), nn.LazyBatchNorm2d(), nn.ReLU())
    refused(model, "group(num_groups=4)", "num_groups=4 does not divide", sample=torch.randn(2, 3, 5, 5))
    x = torch.randn(2, 3, 5, 5)
    convert(model, "group(num_groups=3)", sample=x, dry_run=True)
    assert type(model[1]) is nn.LazyBatchNorm2d
    assert model(x).shape == (2, 6, 3, 3)
    assert type(model[1]) is nn.BatchNorm2d


def test_hooks_on_both_sides_are_refused():
    def hooked(c):
        layer = nn.BatchNorm2d(c)
        layer.register_forward_hook(lambda *_: None)
        return layer

    model = net()
    convert(model, hooked, dry_run=True)
    model[1].register_forward_hook(lambda *_: None)
    refused(model, hooked, "forward hooks, and so has the new BatchNorm2d")


@pytest.mark.parametrize(
    ("spec", "channels", "match"),
    [
        (
            "group(num_groups=8)",
            8,
            r"pool\.1, GroupNorm on \[2, 8, 1, 1\]: groups of one value each, of which nothing is left",
        ),
        ("group(num_groups=4)", 8, r"pool\.1, .*two values each, of which a sign is left"),
        (lambda c: nn.GroupNorm(8, c), 8, r"pool\.1, .*one value"),
        (lambda c: nn.GroupNorm(4, c), 8, r"pool\.1, .*two values"),
        ("instance", 8, r"pool\.1, InstanceNorm .*one value"),
        (nn.InstanceNorm2d, 8, r"pool\.1, .*one value"),
        ("layer", 1, r"pool\.1, LayerNorm .*one value"),
        ("evo_s0(num_groups=4, ddof=1)", 4, r"pool\.1, EvoNormS0 on \[2, 4, 1, 1\]"),
    ],
)
def test_degenerate_groups_are_refused_by_name(spec, channels, match):
    model, x = Pooled(channels), torch.randn(2, 3, 8, 8)
    refused(model, spec, match, sample=x, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    convert(model, spec, sample=x, where="stem.*")


def test_one_value_per_channel_is_refused_by_name():
    """'Expected more than 1 value per channel when training', and nobody says which layer."""
    refused(
        Pooled(),
        "batch",
        r"pool\.1, BatchNorm on \[1, 8, 1, 1\].*more than 1 value per",
        sample=torch.randn(1, 3, 8, 8),
    )
    refused(Pooled(), nn.BatchNorm2d, r"pool\.1, BatchNorm2d on \[1, 8, 1, 1\]", sample=torch.randn(1, 3, 8, 8))


def test_a_wrong_sample_is_told_from_a_wrong_conversion():
    refused(net(), "batch", "does not take the sample, before anything was changed", sample=torch.randn(2, 5, 8, 8))
    refused(net(), lambda c: nn.Linear(c, c), "^1, Linear on", sample=torch.randn(2, 3, 8, 8))


def test_an_interrupt_leaves_the_model_as_it_was():
    def interrupt(c):
        raise KeyboardInterrupt

    refused(net(), interrupt, None, error=KeyboardInterrupt)

    class Interrupted(nn.Module):
        def forward(self, x):
            raise KeyboardInterrupt

    model = net()
    refused(model, lambda c: Interrupted(), None, error=KeyboardInterrupt, sample=torch.randn(2, 3, 8, 8))
