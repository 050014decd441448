"""A model, a batch, and how the one is run on the other without a trace: what whatever looks at models shares."""

from normlab.inputs.batch import Forward, Inputs, batches_of, inputs_of, loss_of, parse_shape, read_batch, values_of
from normlab.inputs.running import alone, failure_text, few_threads, obstacle, usable_device
from normlab.inputs.sandbox import same_random_numbers, sandbox
from normlab.inputs.wrapped import Averaged, averaged, inside

__all__ = [
    "Averaged",
    "Forward",
    "Inputs",
    "alone",
    "averaged",
    "batches_of",
    "failure_text",
    "few_threads",
    "inputs_of",
    "inside",
    "loss_of",
    "obstacle",
    "parse_shape",
    "read_batch",
    "same_random_numbers",
    "sandbox",
    "usable_device",
    "values_of",
]
