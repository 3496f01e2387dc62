"""The page at /: speech and text in a browser, served from this folder."""
