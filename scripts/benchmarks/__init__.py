"""Compares the archives with what people run today: full-size models of random weights."""
