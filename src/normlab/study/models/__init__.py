"""Networks by name: small ones for CPUs, timm's and torchvision's with the papers' stems, and factories."""

from normlab.study.models.create import canonical_model, create_model, load_model, model_facts
from normlab.study.models.libraries import import_timm, import_torchvision
from normlab.study.models.registry import MODELS
from normlab.study.models.resnet import BasicBlock, ResNet
from normlab.study.models.vgg import VGG
from normlab.study.models.wide_resnet import WideResNet

__all__ = [
    "MODELS",
    "VGG",
    "BasicBlock",
    "ResNet",
    "WideResNet",
    "canonical_model",
    "create_model",
    "import_timm",
    "import_torchvision",
    "load_model",
    "model_facts",
]
