"""What makes networks faster on an x86 CPU, with the same answers."""
