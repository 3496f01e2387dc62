"""Makes the archives that TorchServe loads, out of models from anywhere."""
