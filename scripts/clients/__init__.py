"""Clients that people run, and that benchmarks measure with."""
