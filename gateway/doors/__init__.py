"""What a request passes before it reaches a protocol: tokens, limits, origins, metrics, traces."""
