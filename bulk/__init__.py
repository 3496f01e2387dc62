"""Recordings and texts in bulk: folders and tables through the archives, with Ray Data."""
