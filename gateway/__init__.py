"""The gateway: protocols that clients already speak, in front of an engine that runs the models."""
