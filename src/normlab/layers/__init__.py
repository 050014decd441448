"""Normalization layers, one file each, named here to register them; `create` builds one by name."""

from normlab.layers.attentive import AttentiveNorm
from normlab.layers.base import CONVS, NORMS, Layer, MixNorm, Norm, create
from normlab.layers.batch import BatchNorm
from normlab.layers.batch_renorm import BatchRenorm
from normlab.layers.bnet import BNET
from normlab.layers.conv_norm import ConvNorm
from normlab.layers.equilibrium import ChannelEquilibrium
from normlab.layers.evo_b0 import EvoNormB0
from normlab.layers.evo_s0 import EvoNormS0
from normlab.layers.frn import FilterResponseNorm
from normlab.layers.ghost import GhostBatchNorm
from normlab.layers.group import GroupNorm
from normlab.layers.iebn import InstanceEnhancementBatchNorm
from normlab.layers.iebn_minus import IEBNMinus
from normlab.layers.ilm import ILMNorm
from normlab.layers.instance import InstanceNorm
from normlab.layers.layer import LayerNorm
from normlab.layers.lp import LpBatchNorm
from normlab.layers.mean_only import MeanOnlyNorm
from normlab.layers.meta import MetaNorm
from normlab.layers.noisy import NoisyBatchNorm
from normlab.layers.progress import FollowsProgress, FollowsRate, set_progress
from normlab.layers.rbn import RepresentativeBatchNorm
from normlab.layers.rbn_minus import RBNMinus
from normlab.layers.rules import HasRules, TrainingRule
from normlab.layers.running import BatchLayer
from normlab.layers.scaled_relu import ScaledReLU, scaled_relu
from normlab.layers.scaled_weight_standardized import ScaledWeightStandardizedConv2d
from normlab.layers.sparse_switch import SparseSwitchNorm
from normlab.layers.switch import SwitchNorm
from normlab.layers.variance import VarianceNorm
from normlab.layers.weight_centered import WeightCenteredConv2d
from normlab.layers.weight_norm import WeightNormConv2d
from normlab.layers.weight_standardized import WeightStandardizedConv2d
from normlab.layers.whitening import StochasticWhiteningBatchNorm

__all__ = [
    "BNET",
    "CONVS",
    "NORMS",
    "AttentiveNorm",
    "BatchLayer",
    "BatchNorm",
    "BatchRenorm",
    "ChannelEquilibrium",
    "ConvNorm",
    "EvoNormB0",
    "EvoNormS0",
    "FilterResponseNorm",
    "FollowsProgress",
    "FollowsRate",
    "GhostBatchNorm",
    "GroupNorm",
    "HasRules",
    "IEBNMinus",
    "ILMNorm",
    "InstanceEnhancementBatchNorm",
    "InstanceNorm",
    "Layer",
    "LayerNorm",
    "LpBatchNorm",
    "MeanOnlyNorm",
    "MetaNorm",
    "MixNorm",
    "NoisyBatchNorm",
    "Norm",
    "RBNMinus",
    "RepresentativeBatchNorm",
    "ScaledReLU",
    "ScaledWeightStandardizedConv2d",
    "SparseSwitchNorm",
    "StochasticWhiteningBatchNorm",
    "SwitchNorm",
    "TrainingRule",
    "VarianceNorm",
    "WeightCenteredConv2d",
    "WeightNormConv2d",
    "WeightStandardizedConv2d",
    "create",
    "scaled_relu",
    "set_progress",
]
