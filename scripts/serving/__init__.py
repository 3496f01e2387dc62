"""Runs the archives: in TorchServe on this machine, or in this process without it."""
