"""Train tokenizers on a text world: WordPiece for BERT, byte-level BPE for GPT-2."""

import json
import string
from collections.abc import Iterable, Iterator
from itertools import chain

from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
from transformers import BertTokenizer, GPT2Tokenizer

END_OF_TEXT = "<|endoftext|>"
_ACCENTED = "àáâãäåæçèéêëìíîïñòóôõöøùúûüýßłşčšžğ"


def train_wordpiece(texts: Iterable[str], vocabulary_size: int, lower_case: bool) -> BertTokenizer:
    """Train a WordPiece tokenizer that can spell any Latin word, known or not."""
    trainer = BertWordPieceTokenizer(lowercase=lower_case)
    trainer.train_from_iterator(
        chain(texts, _spelling_words()),
        vocab_size=vocabulary_size,
        min_frequency=1,
        show_progress=False,
    )
    return BertTokenizer(vocab=trainer.get_vocab(), do_lower_case=lower_case, model_max_length=512)


def train_byte_level_bpe(
    texts: Iterator[str], vocabulary_size: int, max_length: int
) -> GPT2Tokenizer:
    """Train a byte-level BPE tokenizer with the one special token that ends a text."""
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(
        texts,
        vocab_size=vocabulary_size,
        show_progress=False,
        special_tokens=[END_OF_TEXT],
    )
    model = json.loads(trainer.to_str())["model"]
    return GPT2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],  # type: ignore[misc] # the hint says str, the code wants pairs
        model_max_length=max_length,
    )


def _spelling_words() -> list[str]:
    """Return words that put every letter and digit first and behind another one."""
    characters = string.ascii_letters + string.digits + _ACCENTED + _ACCENTED.upper()
    return [a + b for a in "aA1" for b in characters] + [*characters, *string.punctuation]
