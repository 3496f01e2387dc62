"""Speech recognition by RNN transducers: the Emformer of torchaudio."""
