"""What norms remember, how it pools, and how it is borrowed for a while."""
