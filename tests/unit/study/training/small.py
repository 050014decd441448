"""A study small enough to train in a test."""

from normlab.study.plan import plan
from normlab.study.reading import validate
from normlab.study.spec import StudySpec

SMALL = {
    "name": "small",
    "baseline": "base",
    "seeds": 2,
    "data": {"name": "digits(train=50, validation=50)"},
    "model": {"name": "resnet8(width=2)"},
    "train": {"epochs": 4, "batch_size": 20, "lr": 0.02},
    "arms": {"base": "baseline", "small": "revisited(scale=0.1)"},
}


def job(arm="base", *, arms=None, data=None, model=None, **train):
    """The resolved job of one arm; keywords change `[train]`."""
    tree = {**SMALL, "train": {**SMALL["train"], **train}, "arms": {**SMALL["arms"], **(arms or {})}}
    tree |= {key: value for key, value in {"data": data, "model": model}.items() if value is not None}
    spec = validate(StudySpec, tree)
    return next(run.job for run in plan(spec, "f") if run.arm == arm)
