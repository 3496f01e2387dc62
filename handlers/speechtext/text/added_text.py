"""The text of tokens that follow a prompt, as they come; no piece of it ends inside a character."""

from collections.abc import Sequence
from typing import Any

# A tokenizer writes a token as the ones before it ask for; those further away do not matter.
CONTEXT_TOKENS = 16
# What may be left of a character whose first byte is cut off, and the token that begins all texts.
MOST_CUT_OFF = 4
# What a tokenizer writes for bytes that do not make up a character yet.
UNFINISHED = "\ufffd"


class AddedText:
    """Writes tokens behind a prompt; what was kept never changes, whatever follows.

    A tokenizer whose characters may be spelled in bytes (ByteFallback, as those of Llama and Gemma)
    writes none of a row of bytes where one of its characters is not complete.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._pending: list[int] = []
        self._begin_behind(prompt)

    def add(self, token_id: int) -> str:
        """Add a token; return the text of all that were added since text was kept."""
        self._pending.append(token_id)
        return self._write(self._pending)

    def read(self, token_id: int) -> str:
        """Return what `add` would return for a token."""
        return self._write([*self._pending, token_id])

    def keep(self) -> None:
        """Keep the text of what was added: what follows has a text of its own."""
        self._begin_behind([*self._context, *self._pending])
        self._pending = []

    def write(self, ids: Sequence[int]) -> str:
        """Return the text of tokens that are all there are, complete or not."""
        text = self._write(ids)
        if UNFINISHED not in text:
            return text
        pieces = []
        for token_id in ids:
            text = self.add(token_id)
            if is_complete(text):
                pieces.append(text)
                text = ""
                self.keep()
        return "".join([*pieces, text])

    def _begin_behind(self, ids: Sequence[int]) -> None:
        """Remember the tokens before the next one, from the beginning of a character on."""
        last = list(ids[-CONTEXT_TOKENS:])
        for start in range(MOST_CUT_OFF + 1):
            self._context = last[start:]
            self._before = self._decode(self._context)
            if not self._before.startswith(UNFINISHED):
                return
        self._context, self._before = last, self._decode(last)

    def _write(self, ids: Sequence[int]) -> str:
        text = self._decode([*self._context, *ids])
        if text.startswith(self._before):
            return text[len(self._before) :]
        # A character that is not complete took those before it along.
        return self._decode(ids)

    def _decode(self, ids: Sequence[int]) -> str:
        # Spaces that are cleaned up would change a text behind its end.
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


def is_complete(text: str) -> bool:
    """Tell whether no character at the end of a text needs further tokens."""
    return not text.endswith(UNFINISHED)
