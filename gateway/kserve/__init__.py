"""The protocols of KServe: v1, and v2, which is the Open Inference Protocol."""
