"""Ways to normalize a network's input. Holds the training function of input_norm.toml."""

from __future__ import annotations

import torch

from normlab.study.training import Trainer, read_job


def train(arm, streams, context):
    """The built-in trainer, with an input normalization of the arm's in front of the network.

    arm      a job of the built-in trainer, and
             input     "dataset": mean and SD of the training images by channel; "image": of each image over all its
                       values; "none": pixels in [0, 1]; the recipe's BatchNorm on the input comes after it, if any
    """
    job = read_job({key: value for key, value in arm.items() if key != "input"})
    trainer = Trainer(job, streams, context)
    normalize = {"dataset": by_dataset(trainer.data), "image": by_image, "none": torch.nn.Identity()}[arm["input"]]
    trainer.model.register_forward_pre_hook(lambda _, args: (normalize(args[0]), *args[1:]))
    trainer.fit()
    return trainer.test()


def by_dataset(data):
    """x ↦ (x − mean) / SD, by channel over the training images, not augmented."""
    pixels = data.train.batch(torch.arange(len(data.train), device=data.train.labels.device))[0]
    counts = torch.stack([torch.bincount(part.flatten(), minlength=256) for part in pixels.unbind(1)])  # [C, 256]
    shares = counts.double() / counts.sum(1, keepdim=True)
    values = torch.arange(256, device=pixels.device) * data.scale
    mean = (shares * values).sum(1, keepdim=True)
    sd = (shares * (values - mean).square()).sum(1, keepdim=True).sqrt()
    mean, sd = (moment.float().view(1, -1, 1, 1) for moment in (mean, sd))
    return lambda x: (x - mean) / sd


def by_image(x):
    """x ↦ (x − mean) / SD of each image; a blank one becomes 0."""
    mean, sd = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
    return (x - mean) / sd.clamp(min=1e-3)
