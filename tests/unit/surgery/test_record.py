"""The table of a conversion is plain text that reads well."""

from __future__ import annotations

import torch
from torch import nn

from normlab.study.models import create_model, import_timm
from normlab.surgery import convert

TABLE = """\
9 layers converted

layer                       features  before       after                    kept          dropped  at eval
bn1                         16        BatchNorm2d  GroupNorm(num_groups=4)  weight, bias  stats    differs [1]
layer*.0.bn1 (x3)           16..64    BatchNorm2d  GroupNorm(num_groups=4)  weight, bias  stats    differs [1]
layer*.0.bn2 (x3)           16..64    BatchNorm2d  GroupNorm(num_groups=4)  weight, bias  stats    differs [1]
layer*.0.downsample.1 (x2)  32..64    BatchNorm2d  GroupNorm(num_groups=4)  weight, bias  stats    differs [1]

[1] running statistics are dropped: finetune weights that were trained with them"""


def test_table_of_a_small_network():
    record = convert(create_model("resnet8", in_channels=1, num_classes=3), "group(num_groups=4)")
    assert record.table() == TABLE
    assert str(record) == TABLE


def test_names_in_the_table_are_patterns_for_where():
    model = create_model("resnet8", in_channels=1, num_classes=3)
    record = convert(model, "batch", where=["layer*.0.bn1", "layer*.0.downsample.1"])
    assert len(record.changes) == 5
    assert "left alone: 4 BatchNorm2d, bn1, layer1.0.bn2, layer2.0.bn2, layer3.0.bn2" in str(record)


def test_large_models_fit_a_page():
    timm = import_timm()
    for name, layers in [
        ("densenet121", 121),
        ("resnet50", 53),
        ("mobilenetv3_small_100", 34),
        ("vit_tiny_patch16_224", 25),
    ]:
        with torch.device("meta"):
            model = timm.create_model(name)
        for spec in ("group(num_groups=8, lower=True)", "switch", "evo_b0", "batch"):
            lines = str(convert(model, spec, dry_run=True)).splitlines()
            assert lines[0] == f"{layers} layers would be converted"
            assert max(map(len, lines)) <= 120
            assert len(lines) < 50
            assert lines == [line.rstrip() for line in lines]


def test_long_cells_are_wrapped_between_words():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a_rather_long_name_for_a_normalization_layer_that_somebody_chose = nn.BatchNorm2d(8)

    model = nn.ModuleDict({"an_encoder_with_a_long_name": nn.Sequential(Block(), Block())})
    record = convert(model, "batch(guard_nonfinite=True, running_var='biased', batch1='running')")
    lines = str(record).splitlines()
    assert max(map(len, lines)) <= 120
    assert "guard_nonfinite=True," in str(record)


def test_shared_layers_and_the_root():
    shared = nn.BatchNorm2d(4)
    assert "a = b" in str(convert(nn.ModuleDict({"a": shared, "b": shared}), "batch"))
    record = convert(nn.BatchNorm2d(4), "batch", sample=torch.randn(2, 4, 3, 3))
    assert str(record).splitlines()[0] == "1 layer converted"
    assert "(the model)" in str(record)
    assert "largest change of an output for the sample, in eval mode: 0" in str(record)


def test_equal_names_of_classes_are_told_apart_by_their_library():
    text = str(convert(nn.Sequential(nn.GroupNorm(2, 4)), "group"))
    assert "torch.GroupNorm(num_groups=2)  normlab.GroupNorm(num_groups=2)" in text
