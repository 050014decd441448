"""Networks that tests name by file."""

from torch import nn


def with_dropout(in_channels: int, num_classes: int) -> nn.Module:
    """Convolution, BatchNorm, dropout."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


def of_two_outputs(in_channels: int, num_classes: int) -> nn.Module:
    """Two scores whatever was asked for."""
    return with_dropout(in_channels, 2)


def at_one_pixel(in_channels: int, num_classes: int) -> nn.Module:
    """BatchNorm after everything else has been averaged."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )
