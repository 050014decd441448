"""Datasets by name; each file registers one. To add one, write a file and name it here."""

from normlab.study.data import digits
from normlab.study.data.base import DATASETS, Dataset, Split, load

__all__ = ["DATASETS", "Dataset", "Split", "digits", "load"]
