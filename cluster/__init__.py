"""The archives of this project without TorchServe's server: in one process, and on Ray."""
