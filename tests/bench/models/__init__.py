"""Benchmarks of the real model classes with random weights: `python -m tests.bench.models`."""
