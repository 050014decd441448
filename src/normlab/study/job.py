"""What the built-in trainer is told about one run: everything that decides its numbers, the seed aside."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

JsonValue = Any
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


METRICS = (
    "test_accuracy",
    "test_loss",
    "validation_accuracy",
    "validation_loss",
    "train_accuracy",
    "train_loss",
    "best_epoch",
)
"""What the built-in trainer returns of each run; accuracies in %, losses in nats."""


class Strict(BaseModel):
    """Base of all spec models: immutable, no unknown keys, no silent conversion ("3" is no number)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DataSpec(Strict):
    """`[data]`.

    Attributes:
        name: a dataset, `cifar10`, `digits(train=300)`, `folder(path="...")`.
        split_seed: feeds the split into training, validation and test examples, `limit` and `label_noise`; the same
            for every run.
        limit: at most so many examples for training and validation together, and for testing, equally many of each
            class; for a first look on a small machine.
        label_noise: share of the training labels replaced by another class, drawn evenly; validation and test labels
            stay.
    """

    name: str
    split_seed: int = 0
    limit: Count | None = None
    label_noise: Annotated[float, Field(ge=0, lt=1)] = 0.0


class ModelSpec(Strict):
    """`[model]`.

    Attributes:
        name: `resnet8(width=16)`, `timm:resnet18`, `torchvision:resnet18`, `file.py:factory`.
        stem: "cifar" keeps more of a small image than the network would of its own accord: no pooling and fewer
            strides at the start, as the papers do on 32×32.
        source: hash of a factory's code, filled in by `canonical_model`, so that other code makes other runs.
    """

    name: str
    stem: Literal["own", "cifar"] = "own"
    source: str | None = None


class TrainSpec(Strict):
    """`[train]`: everything about training that is not the arm's normalizer or recipe.

    Attributes:
        lr: learning rate at the start, of everything the recipe does not slow down.
        momentum: of SGD; β₁ of AdamW.
        weight_decay: on weights of convolutions and linear layers only (the recipe's groups decide).
        schedule: "cosine" is the half cosine of the paper, set once an epoch; "steps" multiplies the rate by
            `step_factor` at each epoch of `milestones`.
        eta_min: floor of the cosine, shared by all groups as in the official code.
        select: which epoch's model is tested: the first of best validation accuracy, or the last.
        optimizer: "sgd", "sgd(nesterov=True)", "adamw(beta2=0.999)", or SAM, SAM-ON or ASAM around one of them:
            `sam(rho=0.5, scope="norm", adaptive="elementwise", base="sgd")`; see `training.optimizers`.
        augment: what happens to training images, in this order: "flip", "crop(padding=4)", "crop(size=224)".
        precision: "auto" is bf16 on a GPU that has it and fp32 elsewhere; on a CPU tf32 is fp32.
        compile: with torch.compile; by default on a GPU only.
        channels_last: layout of images and weights in memory; by default yes.
        ema: decay of an exponential moving average of the weights, which is then what is validated and tested, with
            running statistics computed anew from training batches.
        label_smoothing: share of the target spread evenly over all classes.
        clip_grad_norm: largest norm of the gradient of all parameters together; with SAM of the second one.
    """

    epochs: Count
    batch_size: Count
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 1e-4
    schedule: Literal["cosine", "constant", "steps"] = "cosine"
    milestones: list[Count] = []
    step_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    eta_min: NonNegative = 1e-8
    select: Literal["best_val", "last"] = "best_val"
    optimizer: str = "sgd"
    augment: list[str] = []
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    compile: bool | None = None
    channels_last: bool = True
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_grad_norm: Positive | None = None


class ArmSpec(Strict):
    """One arm.

    Attributes:
        recipe: initial values and parameter groups.
        norm: another normalizer in place of the network's, by `convert`, before the recipe: "switch",
            "group(num_groups=8)". A convolution with a normalized kernel ("weight_standardized", "conv_norm") works
            without normalization layers, of which scale and shift remain; "none" leaves scale and shift alone.
            The recipe "baseline" then starts every scale at 1, whatever normalizes.
        optimizer: instead of `train.optimizer`.
        train: values of `[train]` that the arm changes.
    """

    recipe: str = "baseline"
    norm: str | None = None
    optimizer: str | None = None
    train: dict[str, JsonValue] = {}

    def __str__(self) -> str:
        """The recipe, where that is all; or else what the arm sets, as in a study file."""
        changes = {"norm": self.norm, "optimizer": self.optimizer}
        changes |= {f"train.{key}": value for key, value in self.train.items()}
        given = [f"{key} = {value}" for key, value in changes.items() if value is not None]
        return ", ".join([self.recipe, *given]) if given else self.recipe


class TrainJob(Strict):
    """An arm at one grid point with everything resolved: what the built-in training function gets."""

    data: DataSpec
    model: ModelSpec
    train: TrainSpec
    recipe: str
    norm: str | None = None


_FIRST: dict[type[Strict], set[str]] = {  # keys that were there when the first runs were made and hashed
    DataSpec: {"name", "split_seed"},
    ModelSpec: {"name"},
    TrainSpec: {"epochs", "batch_size", "lr", "momentum", "weight_decay", "schedule", "eta_min", "select"},
    TrainJob: {"data", "model", "train", "recipe"},
}


def as_json(spec: Strict) -> dict[str, JsonValue]:
    """Plain JSON with defaults written out, but for keys that came when runs had been made and hashed."""
    tree: dict[str, JsonValue] = {}
    for key, field in type(spec).model_fields.items():
        value = getattr(spec, key)
        if key not in _FIRST[type(spec)] and value == field.default:
            continue
        tree[key] = as_json(value) if isinstance(value, Strict) else value
    return tree
