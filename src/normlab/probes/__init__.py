"""Probes: what normalization does to a network, measured while it trains or once, without leaving a trace.

`probe` measures layers inside a training loop; each quantity stands in a file of its own, with a function of tensors
of the same name. The others are functions of a whole model and of a closure that computes its loss on a fixed batch.
"""

from normlab.probes import bias_drift as bias_drift  # each file named here registers its probe
from normlab.probes import weight_drift as weight_drift
from normlab.probes.activation_variance import activation_variance
from normlab.probes.base import PROBES, Probe, Target
from normlab.probes.conv_std import conv_std
from normlab.probes.cosine_matrix import cosine_matrix
from normlab.probes.drift import drift
from normlab.probes.gradient_factor import gradient_factor
from normlab.probes.gradient_norm import gradient_norm
from normlab.probes.hooks.plan import key_of
from normlab.probes.hooks.probing import Probing
from normlab.probes.large_values import large_values
from normlab.probes.loggers import CSV, JSONLines, Logger, MLflow, TensorBoard, WandB
from normlab.probes.mean_cosine import mean_cosine
from normlab.probes.probe import probe
from normlab.probes.sigma import sigma
from normlab.probes.stable_rank import stable_rank
from normlab.probes.whole.ablation_curve import AblationCurve, ablation_curve
from normlab.probes.whole.batch_dependence import BatchDependence, batch_dependence
from normlab.probes.whole.channel_reliance import ChannelReliance, channel_reliance
from normlab.probes.whole.covariate_shift import CovariateShift, internal_covariate_shift
from normlab.probes.whole.landscape import Landscape, landscape
from normlab.probes.whole.lipschitz_identity import LipschitzIdentity, lipschitz_identity
from normlab.probes.whole.lipschitz_ratio import LipschitzRatio, lipschitz_ratios
from normlab.probes.whole.projection import Projection, backward_projection
from normlab.probes.whole.regularisation import LayerStrength, Strength, layer_strengths, regularisation_strength
from normlab.probes.whole.sharpness import Sharpness, sharpness
from normlab.probes.whole.slices import LossSlice, loss_slice
from normlab.probes.whole.spectral_norm import layerwise_spectral_norms, spectral_norm

__all__ = [
    "CSV",
    "PROBES",
    "AblationCurve",
    "BatchDependence",
    "ChannelReliance",
    "CovariateShift",
    "JSONLines",
    "Landscape",
    "LayerStrength",
    "LipschitzIdentity",
    "LipschitzRatio",
    "Logger",
    "LossSlice",
    "MLflow",
    "Probe",
    "Probing",
    "Projection",
    "Sharpness",
    "Strength",
    "Target",
    "TensorBoard",
    "WandB",
    "ablation_curve",
    "activation_variance",
    "backward_projection",
    "batch_dependence",
    "channel_reliance",
    "conv_std",
    "cosine_matrix",
    "drift",
    "gradient_factor",
    "gradient_norm",
    "internal_covariate_shift",
    "key_of",
    "landscape",
    "large_values",
    "layer_strengths",
    "layerwise_spectral_norms",
    "lipschitz_identity",
    "lipschitz_ratios",
    "loss_slice",
    "mean_cosine",
    "probe",
    "regularisation_strength",
    "sharpness",
    "sigma",
    "spectral_norm",
    "stable_rank",
]
