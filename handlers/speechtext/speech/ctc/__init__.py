"""Speech recognition by Connectionist Temporal Classification: Wav2Vec2 and its like."""
