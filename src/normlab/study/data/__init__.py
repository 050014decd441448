"""Datasets by name, each in its file, and the steps of augmentation. To add one, write a file and name it here."""

from normlab.study.data import (
    cifar10,
    cifar100,
    cub200,
    digits,
    fashion_mnist,
    folder,
    hub,
    parquet,
    stanford_cars,
    steps,
)
from normlab.study.data.base import DATASETS, Dataset, Split
from normlab.study.data.loading import canonical_data, forget, load

__all__ = [
    "DATASETS",
    "Dataset",
    "Split",
    "canonical_data",
    "cifar10",
    "cifar100",
    "cub200",
    "digits",
    "fashion_mnist",
    "folder",
    "forget",
    "hub",
    "load",
    "parquet",
    "stanford_cars",
    "steps",
]
