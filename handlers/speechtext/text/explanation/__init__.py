"""Explanations of text answers: which words they hang on."""
