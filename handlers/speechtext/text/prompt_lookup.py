"""Guesses of what a text goes on with: what followed its last tokens where they were before.

Saxena 2023, "Prompt Lookup Decoding" (apoorvumang/prompt-lookup-decoding on GitHub). A network
reads its weights once for several tokens, so that right guesses save time and wrong ones cost
little. The tokens that are told are those that it chooses, whatever was guessed.
"""

from collections.abc import Sequence

# Fewer tokens in a row are found in any text, and are rarely followed by the same.
MATCHED_TOKENS = 3
# Tokens guessed at first, before anything is known of a text.
FIRST_GUESS = 4


class PromptLookup:
    """What of a text was seen before, and how far guesses went right lately."""

    def __init__(self, most_tokens: int) -> None:
        self._most_tokens = most_tokens
        self._length = FIRST_GUESS
        # The place behind each run of tokens, that of the last one of its kind.
        self._places: dict[tuple[int, ...], int] = {}
        self._read = MATCHED_TOKENS

    def guess(self, ids: Sequence[int], most_tokens: int) -> list[int]:
        """Return what may follow the tokens of a text, which is given with more of it each time."""
        for place in range(self._read, len(ids)):
            self._places[tuple(ids[place - MATCHED_TOKENS : place])] = place
        self._read = max(self._read, len(ids))
        start = self._places.get(tuple(ids[-MATCHED_TOKENS:]))
        if start is None:
            return []
        # What repeats itself goes on doing so.
        period = len(ids) - start
        count = min(self._length, self._most_tokens, most_tokens)
        return [ids[start + place % period] for place in range(count)]

    def note(self, guessed: int, right: int) -> None:
        """Learn how many tokens of a guess were right: the next one has about as many."""
        if guessed:
            self._length = 2 * guessed if right == guessed else max(1, right)
