"""Each normalizer straight from its paper, in NumPy float64: what the layers are held to."""
