"""Speech recognition: from the bytes of a recording to a transcript with times."""
