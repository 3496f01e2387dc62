"""OpenAI's HTTP protocol: transcriptions, completions and the list of models."""
