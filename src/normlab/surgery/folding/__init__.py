"""The parts of `fold`: what a norm is at inference, what comes before it, and how kernels take it up."""
