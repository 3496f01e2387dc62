"""Explanations of text answers: which words they depend on."""
