"""What a machine with a GPU is asked to prove, in one command and one table."""
