"""Measures layers while a network trains: hooks at chosen steps, and what comes of them."""
