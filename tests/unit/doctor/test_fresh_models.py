"""Freshly built networks are clean."""

from __future__ import annotations

import pytest

import normlab
from normlab.study.models import load_model

MODELS = {
    "timm:resnet18": "8x3x32x32",
    "timm:mobilenetv2_100": "8x3x32x32",
    "timm:efficientnet_b0": "8x3x32x32",
    "timm:convnext_atto": "8x3x32x32",
    "timm:vit_tiny_patch16_224": "1x3x224x224",
    "resnet8(width=16)": "8x3x32x32",
}


@pytest.mark.parametrize("spec", MODELS)
def test_no_findings(spec):
    found = normlab.doctor(load_model(spec), MODELS[spec])
    assert not found, found
    assert found.exit_code == 0
    assert {"NL003", "NL005", "NL006", "NL010", "NL028", "NL029", "NL101", "NL103"} <= set(found.clean)
