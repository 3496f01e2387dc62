"""Tokenizers of transformers' own classes, to which all of a text is one word."""

import json
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GemmaTokenizer, LlamaTokenizer

# Of the characters that the corpus lacks, the bytes of "ħ" are there.
BYTES = ("<0xC4>", "<0xA7>")
CORPUS = ["kalo miren stoba vitu", "Kalo stoba", "miren vitu kalo"]


def make_spaced_tokenizer(tokenizer_class: type[LlamaTokenizer | GemmaTokenizer]) -> Any:
    """Return such a tokenizer, with pieces of a few made-up words; spaces begin pieces."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", "<bos>", "<eos>", "<pad>", "<mask>", *BYTES]
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    model = json.loads(trained.to_str())["model"]
    merges: Any = [tuple(each) for each in model["merges"]]
    return tokenizer_class(vocab=model["vocab"], merges=merges)
