"""The tokens of a text, and how those of a long one are cut into windows for the model."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from tokenizers import Encoding

# A batch with a longer text, in characters, is encoded by this thread alone. Of what the library's
# own threads free, `malloc_trim` leaves the end of each one's memory, up to 64 MB: two texts of a
# million characters left 79 MB behind, and 26 MB from here.
LONGEST_FOR_THREADS = 4_000
# Tokenizers of which it is known how they part words: a worker has one.
MOST_KNOWN = 16


class Tokens(NamedTuple):
    """All tokens of a text or of a pair of texts, special ones included.

    `sequences` tell which of the two texts a token is of, `words` which word of it and `offsets`
    which characters, end exclusive; a special token has the sequence and the word None. White space
    parts words, also where the tokenizer has but one.
    """

    ids: list[int]
    type_ids: list[int]
    sequences: list[int | None]
    words: list[int | None]
    offsets: list[tuple[int, int]]

    def count(self, sequence: int | None) -> int:
        """Return how many tokens one of the texts has, or how many special ones there are."""
        return self.sequences.count(sequence)


@dataclass(frozen=True)
class Window:
    """Tokens that go to the model together: those at `positions` of all tokens of example `owner`.

    `dropped_tokens` of the text are in no window. Windows that were encoded elsewhere know only the
    ids of their tokens, no words and no characters.
    """

    tokens: Tokens
    positions: Sequence[int]
    owner: int
    dropped_tokens: int = 0

    def __len__(self) -> int:
        return len(self.positions)

    def pick(self, values: Sequence[Any]) -> list[Any]:
        """Return those of a value for each token that belong to this window."""
        return [values[position] for position in self.positions]

    def content(self, sequence: int) -> list[bool]:
        """Return which of the window's tokens are of one of the two texts."""
        return [each == sequence for each in self.pick(self.tokens.sequences)]


def tokenize(tokenizer: Any, texts: Sequence[str | tuple[str, str]]) -> list[Tokens]:
    """Return the tokens of texts and pairs of texts, on several processors where none is long."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    pairs = [(text,) if isinstance(text, str) else text for text in texts]
    if any(len(text) > LONGEST_FOR_THREADS for pair in pairs for text in pair):
        found = [_read(backend.encode(*pair)) for pair in pairs]
    else:
        found = list(map(_read, backend.encode_batch(list(texts))))
    if _parts_words(tokenizer):
        return found
    return [
        tokens._replace(words=_part_words(tokens, pair))
        for tokens, pair in zip(found, pairs, strict=True)
    ]


@lru_cache(maxsize=MOST_KNOWN)
def _parts_words(tokenizer: Any) -> bool:
    """Tell whether white space parts words: to Llama's and Gemma's all of a text is one."""
    encoding = tokenizer.backend_tokenizer.encode("a a", add_special_tokens=False)
    return len({*encoding.word_ids}) > 1


def _read(encoding: Encoding) -> Tokens:
    return Tokens(
        encoding.ids,
        encoding.type_ids,
        encoding.sequence_ids,
        encoding.word_ids,
        encoding.offsets,
    )


def _part_words(tokens: Tokens, texts: Sequence[str]) -> list[int | None]:
    """Return the words of tokens, those with white space between their tokens as several."""
    words, sequences, offsets = tokens.words, tokens.sequences, tokens.offsets
    parted: list[int | None] = []
    added = 0
    for position, (word, sequence) in enumerate(zip(words, sequences, strict=True)):
        before = position - 1
        if not position or sequence != sequences[before]:
            added = 0
        elif word is not None and word == words[before]:
            added += _is_parted(texts[sequence or 0], offsets[before], offsets[position])
        parted.append(None if word is None else word + added)
    return parted


def _is_parted(text: str, before: tuple[int, int], here: tuple[int, int]) -> bool:
    """Tell whether white space begins a token, or is in front of it, and not all before it."""
    begins = text[here[0] : here[0] + 1].isspace()
    follows = before[1] <= here[0] and text[max(0, here[0] - 1) : here[0]].isspace()
    return (begins or follows) and not text[slice(*before)].isspace()


def adopt_tokens(
    ids: Sequence[int], special_ids: Collection[int], separator_id: int | None
) -> Tokens:
    """Return tokens that were encoded elsewhere; a separator ends the first text of a pair."""
    sequences: list[int | None] = []
    second = False
    for token_id in ids:
        second = second or (token_id == separator_id and any(each == 0 for each in sequences))
        sequences.append(None if token_id in special_ids else int(second))
    # The second text's own tokens, and the separator behind it.
    first = sequences.index(1) if 1 in sequences else len(sequences)
    types = [int(position >= first) for position in range(len(sequences))]
    unknown: list[int | None] = [None] * len(sequences)
    return Tokens(list(ids), types, sequences, unknown, [(0, 0)] * len(sequences))


def cut_end(tokens: Tokens, most: int, side: str = "right") -> list[int]:
    """Return the positions of at most `most` tokens: all special ones, and each text's first.

    Of two texts the longer loses its tokens first, as `longest_first` of the tokenizers library
    has it. Where `side` is left, each text's last tokens stay.
    """
    room = max(0, most - tokens.count(None))
    shorter, longer = sorted((0, 1), key=tokens.count)
    kept = {shorter: min(tokens.count(shorter), room // 2)}
    kept[longer] = min(tokens.count(longer), room - kept[shorter])
    positions: list[int] = []
    for sequence in (0, 1):
        own = [position for position, each in enumerate(tokens.sequences) if each == sequence]
        first = len(own) - kept[sequence] if side == "left" else 0
        positions += own[first : first + kept[sequence]]
    special = (position for position, each in enumerate(tokens.sequences) if each is None)
    return sorted([*positions, *special])


def cut_windows(tokens: Tokens, sequence: int, most: int, stride: int) -> list[list[int]]:
    """Return the positions of the tokens of each window over one of the texts.

    Each has at most `most` tokens: all of the other text, the special ones, and so many of this one
    that neighbours share `stride` of them. Raises `ValueError` where there is no room to move on.
    """
    own = [position for position, each in enumerate(tokens.sequences) if each == sequence]
    other = [position for position, each in enumerate(tokens.sequences) if each != sequence]
    room = most - len(other)
    if room <= stride:
        raise ValueError(f"no room for more than {stride} tokens")
    starts = range(0, max(1, len(own) - stride), room - stride)
    before = len(list(takewhile(lambda position: not own or position < own[0], other)))
    return [[*other[:before], *own[start : start + room], *other[before:]] for start in starts]


def merge_windows(
    windows: Sequence[tuple[Window, torch.Tensor]], sequence: int
) -> dict[int, torch.Tensor]:
    """Return what each token of a text got, by its position, from the window that sees most of it.

    Each window comes with values of shape (tokens, ...), one for each token of it.
    """
    # From either end, not of all: of thousands of windows each may come alone.
    sequences = windows[0][0].tokens.sequences
    places = range(len(sequences))
    begin, end = (
        next((each for each in side if sequences[each] == sequence), None)
        for side in (places, places[::-1])
    )
    best: dict[int, tuple[float, torch.Tensor]] = {}
    for window, values in windows:
        pairs = zip(window.positions, values, window.content(sequence), strict=True)
        inside = {position: value for position, value, here in pairs if here}
        first, last = min(inside, default=0), max(inside, default=0)
        for position, value in inside.items():
            before = math.inf if begin in inside else position - first
            behind = math.inf if end in inside else last - position
            if position not in best or min(before, behind) > best[position][0]:
                best[position] = min(before, behind), value
    return {position: value for position, (_, value) in sorted(best.items())}
