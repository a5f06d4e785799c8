"""Checkpoints of the real classes with random weights: tiny ones for tests, full-size ones for benchmarks."""
