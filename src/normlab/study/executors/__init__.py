"""Executors map `attempt` over runs: local worker processes."""
