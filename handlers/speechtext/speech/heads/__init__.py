"""What a model of waveforms says of a recording beside its transcript."""
