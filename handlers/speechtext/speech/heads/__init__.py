"""Answers of models of waveforms other than transcripts: labels, speakers, voices, features."""
