"""Sentences of others within those of the gateway and the cluster."""


def lower_first(sentence: str) -> str:
    """Return a sentence as it goes on behind the name of a field."""
    return sentence[:1].lower() + sentence[1:]
