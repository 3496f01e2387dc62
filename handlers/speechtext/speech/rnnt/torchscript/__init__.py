"""torchaudio's Emformer RNN-T as one TorchScript file: front end, encoder and decoders."""
