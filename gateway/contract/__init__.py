"""The contract of /predictions, which any engine may speak."""
