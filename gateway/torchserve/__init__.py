"""TorchServe as an engine of the gateway."""
