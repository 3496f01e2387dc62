"""What makes networks faster on an x86 CPU; answers differ by rounding alone."""
