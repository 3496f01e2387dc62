"""From the tokens of an RNN-T to text and words, and what else they may be."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from sentencepiece import SentencePieceProcessor

from transcripts import Token, Word, describe_word, time_words

WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"
ALTERNATIVES = 5


def tokens_to_text(pieces: SentencePieceProcessor, labels: Sequence[int]) -> str:
    """Return the text of SentencePiece tokens; unknown, end and padding tokens have none."""
    silent = {pieces.unk_id(), pieces.eos_id(), pieces.pad_id()}
    words = "".join(pieces.id_to_piece(label) for label in labels if label not in silent)
    return words.replace(WORD_START, " ").strip()


def group_pieces(pieces: SentencePieceProcessor, tokens: Sequence[Token]) -> list[list[Token]]:
    """Return the tokens of each word: a piece that starts with a space starts one."""
    words: list[list[Token]] = []
    for token in tokens:
        if not words or pieces.id_to_piece(token.label).startswith(WORD_START):
            words.append([])
        words[-1].append(token)
    return [word for word in words if text_of(pieces, word)]


def describe_tokens(
    pieces: SentencePieceProcessor, tokens: Sequence[Token], frame_s: float
) -> dict[str, Any]:
    """Return what tokens say, when, and word by word; times in seconds."""
    words = [describe_word(word) for word in time_pieces(pieces, tokens, frame_s)]
    return {
        "text": text_of(pieces, tokens),
        "start": words[0]["start"] if words else None,
        "end": words[-1]["end"] if words else None,
        "words": words,
    }


def time_pieces(
    pieces: SentencePieceProcessor, tokens: Sequence[Token], frame_s: float
) -> list[Word]:
    """Return the words of tokens, with their times."""
    words = group_pieces(pieces, tokens)
    return time_words(words, [text_of(pieces, word) for word in words], frame_s)


def text_of(pieces: SentencePieceProcessor, tokens: Sequence[Token]) -> str:
    """Return the text of tokens."""
    return tokens_to_text(pieces, [token.label for token in tokens])


def name_pieces(pieces: SentencePieceProcessor) -> list[str]:
    """Return what people call the labels of an RNN-T: its pieces, and the blank behind them."""
    return [*(pieces.id_to_piece(label) for label in range(pieces.get_piece_size())), "blank"]


def split_path(
    path: torch.Tensor, tokens: Sequence[Token]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return a path's probabilities by frame, and those from which each token was chosen.

    `path` has a row for each token of a frame and one for the blank behind them, shape (frames +
    tokens, labels). A frame's probability of a label, in shape (frames, labels), is the highest of
    its rows.
    """
    frames = len(path) - len(tokens)
    rows = [token.start + place for place, token in enumerate(tokens)]
    counts = torch.ones(frames, dtype=torch.long)
    for token in tokens:
        counts[token.start] += 1
    frame_of_row = torch.arange(frames).repeat_interleave(counts)
    highest = torch.zeros(frames, path.shape[1]).scatter_reduce(
        0, frame_of_row[:, None].expand_as(path), path, "amax"
    )
    return highest, [path[row] for row in rows]


def find_alternatives(
    pieces: SentencePieceProcessor, chances: Sequence[torch.Tensor], word: Sequence[Token]
) -> list[tuple[str, float]]:
    """Return the words that a word would be with another piece in one place.

    `chances` are the probabilities, shape (labels,), from which each token of the word was chosen.
    Those returned are shares of what was found.
    """
    labels = [token.label for token in word]
    whole = math.prod(float(each[label]) for each, label in zip(chances, labels, strict=True))
    found: dict[str, float] = {}
    for place, each in enumerate(chances):
        best = each[: pieces.get_piece_size()].topk(min(ALTERNATIVES, pieces.get_piece_size()))
        for label, chance in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            text = tokens_to_text(pieces, [*labels[:place], label, *labels[place + 1 :]])
            weight = whole * chance / max(float(each[labels[place]]), 1e-12)
            found[text] = max(found.get(text, 0.0), weight)
    found.pop("", None)
    total = math.fsum(found.values()) or 1.0
    best_first = sorted(found.items(), key=lambda item: -item[1])[:ALTERNATIVES]
    return [(text, weight / total) for text, weight in best_first]
