"""The built-in trainer, and what training functions of one's own may take from it."""

from normlab.study.training.arithmetic import Arithmetic
from normlab.study.training.average import Average
from normlab.study.training.check import canonical_job, read_job
from normlab.study.training.evaluation import Evaluation, evaluate
from normlab.study.training.feed import Epoch, Feed
from normlab.study.training.network import build_model, parameter_groups
from normlab.study.training.optimizers import OPTIMIZERS, canonical_optimizer, make_optimizer
from normlab.study.training.rehearsal import in_time, rehearse, seconds_of
from normlab.study.training.schedule import set_lr
from normlab.study.training.step import Loss, Step
from normlab.study.training.trainer import Trainer

__all__ = [
    "OPTIMIZERS",
    "Arithmetic",
    "Average",
    "Epoch",
    "Evaluation",
    "Feed",
    "Loss",
    "Step",
    "Trainer",
    "build_model",
    "canonical_job",
    "canonical_optimizer",
    "evaluate",
    "in_time",
    "make_optimizer",
    "parameter_groups",
    "read_job",
    "rehearse",
    "seconds_of",
    "set_lr",
]
