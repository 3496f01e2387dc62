"""Trains the small demo models from nothing, so that the package runs without a download."""
