"""The vocabulary of an RNN-T: from its tokens to text and words, and what else they may be."""

import math
from collections.abc import Sequence

import torch
from sentencepiece import SentencePieceProcessor

from speechtext.speech.alignments import Alternatives
from speechtext.speech.transcripts import Segment, Token, Word, time_words

WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"
ALTERNATIVES = 5


class Vocabulary:
    """The SentencePiece pieces that an RNN-T's labels stand for."""

    def __init__(self, pieces: SentencePieceProcessor) -> None:
        self._pieces = pieces
        # Unknown, end and padding tokens have no text.
        self._silent = {pieces.unk_id(), pieces.eos_id(), pieces.pad_id()}

    def __len__(self) -> int:
        """Return how many pieces there are."""
        return int(self._pieces.get_piece_size())

    def names(self) -> list[str]:
        """Return what people call the labels: the pieces, and the blank behind them."""
        return [*(self._pieces.id_to_piece(label) for label in range(len(self))), "blank"]

    def texts(self) -> list[str]:
        """Return the text of each label, with `WORD_START` where a word begins; blank has none."""
        pieces = (self._pieces.id_to_piece(label) for label in range(len(self)))
        return ["" if label in self._silent else each for label, each in enumerate(pieces)] + [""]

    def spell_word(self, word: str) -> str | None:
        """Return a word in the letters of the pieces; None where they lack one."""
        labels = self._pieces.encode(word)
        text = "".join(map(self._pieces.id_to_piece, labels)).lstrip(WORD_START)
        return None if self._pieces.unk_id() in labels or WORD_START in text else text

    def spell(self, labels: Sequence[int]) -> str:
        """Return the text of labels."""
        pieces = (self._pieces.id_to_piece(each) for each in labels if each not in self._silent)
        return "".join(pieces).replace(WORD_START, " ").strip()

    def text(self, tokens: Sequence[Token]) -> str:
        """Return the text of tokens."""
        return self.spell([token.label for token in tokens])

    def group_words(self, tokens: Sequence[Token]) -> list[list[Token]]:
        """Return the tokens of each word: a piece that starts with a space starts one."""
        words: list[list[Token]] = []
        for token in tokens:
            if not words or self._pieces.id_to_piece(token.label).startswith(WORD_START):
                words.append([])
            words[-1].append(token)
        return [word for word in words if self.text(word)]

    def time_words(self, tokens: Sequence[Token], frame_s: float) -> list[Word]:
        """Return the words of tokens, with their times."""
        words = self.group_words(tokens)
        return time_words(words, [self.text(word) for word in words], frame_s)

    def segment(self, tokens: Sequence[Token], frame_s: float) -> Segment:
        """Return what tokens say, and when."""
        return Segment(self.text(tokens), self.time_words(tokens, frame_s))

    def find_alternatives(
        self, probabilities: Sequence[torch.Tensor], word: Sequence[Token]
    ) -> Alternatives:
        """Return the words that a word would be with another piece in one position.

        `probabilities`, each of shape (labels,), are those from which the word's tokens were
        chosen. Those returned are shares of what was found.
        """
        labels = [token.label for token in word]
        chosen = [float(each[label]) for each, label in zip(probabilities, labels, strict=True)]
        count = len(self)
        found: dict[str, float] = {}
        for position, each in enumerate(probabilities):
            best = each[:count].topk(min(ALTERNATIVES, count))
            for label, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True):
                text = self.spell([*labels[:position], label, *labels[position + 1 :]])
                # Beside the word as it is: its own probability, a product, may be no float.
                weight = probability / max(chosen[position], 1e-12)
                found[text] = max(found.get(text, 0.0), weight)
        found.pop("", None)
        total = math.fsum(found.values()) or 1.0
        best_first = sorted(found.items(), key=lambda item: -item[1])[:ALTERNATIVES]
        return [(text, weight / total) for text, weight in best_first]


def split_path(
    path: torch.Tensor, tokens: Sequence[Token]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return a path's probabilities by frame, and those from which each token was chosen.

    `path` has a row for each token of a frame and one for the blank behind them, shape (frames +
    tokens, labels). A frame's probability of a label, in shape (frames, labels), is the highest of
    its rows.
    """
    frames = len(path) - len(tokens)
    rows = [token.start + index for index, token in enumerate(tokens)]
    counts = torch.ones(frames, dtype=torch.long)
    for token in tokens:
        counts[token.start] += 1
    frame_of_row = torch.arange(frames).repeat_interleave(counts)
    highest = torch.zeros(frames, path.shape[1]).scatter_reduce(
        0, frame_of_row[:, None].expand_as(path), path, "amax"
    )
    return highest, [path[row] for row in rows]
