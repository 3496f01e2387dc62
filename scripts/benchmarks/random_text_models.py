"""Text models of random weights, tiny or full size, with a tokenizer made on the spot."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoConfig, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from speechtext.text.tasks import find_task

transformers_logging.disable_progress_bar()

PIECES = 500
CORPUS_LINES = 400
SYLLABLES = [
    "ka",
    "lo",
    "mi",
    "ren",
    "sto",
    "ba",
    "vi",
    "tu",
    "ler",
    "na",
    "gor",
    "pe",
    "shi",
    "do",
]
ENDINGS = [".", ",", "!", "?", "", "", "", ""]


def write_line(random_words: random.Random, words: int) -> str:
    """Return a line of made-up words, some of them names, with marks between."""
    line = []
    for _ in range(words):
        word = "".join(random_words.choices(SYLLABLES, k=random_words.randint(1, 4)))
        line.append((word.title() if random_words.random() < 0.3 else word) + _ending(random_words))
    return " ".join(line)


def _ending(random_words: random.Random) -> str:
    return random_words.choice(ENDINGS)


def _corpus() -> Iterator[str]:
    random_words = random.Random(0)
    return (write_line(random_words, 8) for _ in range(CORPUS_LINES))


@dataclass(frozen=True)
class TokenizerKind:
    """How a family of models cuts texts: its special tokens, in order, and its pieces."""

    special: dict[str, str]
    single: str
    pair: str
    make: Callable[[list[str]], Tokenizer]
    input_names: tuple[str, ...] = ("input_ids", "attention_mask")


def _word_pieces(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=PIECES, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _byte_pairs(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _unigrams(special: list[str]) -> Tokenizer:
    unknown = next(each for each in special if "unk" in each.lower())
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=PIECES, special_tokens=special, unk_token=unknown, show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


BERT_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}
BERT_FRAME = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
ROBERTA_FRAME = ("<s> $A </s>", "<s> $A </s> </s> $B:1 </s>")
WITH_TYPES = ("input_ids", "token_type_ids", "attention_mask")
BERT_KIND = TokenizerKind(BERT_TOKENS, *BERT_FRAME, _word_pieces, WITH_TYPES)
OPT_TOKENS = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "</s>"}
LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
GPT2_TOKENS = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
# The tokenizer of each family, as its published checkpoints have it.
KINDS = {
    "bert": BERT_KIND,
    "distilbert": TokenizerKind(BERT_TOKENS, *BERT_FRAME, _word_pieces),
    "electra": BERT_KIND,
    "roberta": TokenizerKind(ROBERTA_TOKENS, *ROBERTA_FRAME, _byte_pairs),
    "albert": TokenizerKind(
        {name: token.replace("[UNK]", "<unk>") for name, token in BERT_TOKENS.items()},
        *BERT_FRAME,
        _unigrams,
        WITH_TYPES,
    ),
    "deberta-v2": TokenizerKind(BERT_TOKENS, *BERT_FRAME, _unigrams, WITH_TYPES),
    "xlm-roberta": TokenizerKind(ROBERTA_TOKENS, *ROBERTA_FRAME, _unigrams),
    "modernbert": TokenizerKind(BERT_TOKENS, *BERT_FRAME, _byte_pairs),
    "gpt2": TokenizerKind(GPT2_TOKENS, "$A", "$A $B:1", _byte_pairs),
    "opt": TokenizerKind(OPT_TOKENS, "</s> $A", "</s> $A $B:1", _byte_pairs),
    "llama": TokenizerKind(LLAMA_TOKENS, "<s> $A", "<s> $A $B:1", _unigrams),
    "qwen2": TokenizerKind(
        {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}, "$A", "$A $B:1", _byte_pairs
    ),
}
# Sizes of a tiny model, under all names that configurations use.
TINY = {
    "hidden_size": 32,
    "embedding_size": 32,
    "dim": 32,
    "n_embd": 32,
    "word_embed_proj_dim": 32,
    "num_hidden_layers": 2,
    "n_layers": 2,
    "n_layer": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "n_heads": 4,
    "n_head": 4,
    "intermediate_size": 64,
    "hidden_dim": 64,
    "ffn_dim": 64,
    "n_inner": 64,
    "max_position_embeddings": 130,
    "n_positions": 130,
}
# Where weights of this spread make a model decided, so that rounding does not change its answers.
SPREAD = 0.2


def make_tokenizer(model_type: str, model_max_length: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of a family of models, trained on made-up words."""
    kind = KINDS[model_type]
    special = list(dict.fromkeys(kind.special.values()))
    tokenizer = kind.make(special)
    ids = [(token, tokenizer.token_to_id(token)) for token in special]
    tokenizer.post_processor = processors.TemplateProcessing(kind.single, kind.pair, ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=list(kind.input_names),
        model_max_length=model_max_length,
        **kind.special,
    )


def write_random_model(
    folder: Path, model_type: str, mode: str, tiny: bool = True, seed: int = 0, **config_keys: Any
) -> Path:
    """Write a model of random weights for a task, as `save_pretrained` does; return its folder."""
    sizes = dict(TINY) if tiny else {}
    default = AutoConfig.for_model(model_type)
    sizes = {name: size for name, size in sizes.items() if hasattr(default, name)}
    length = 128 if tiny else 512
    tokenizer = make_tokenizer(model_type, length)
    if tiny:
        sizes["vocab_size"] = len(tokenizer)
    ids = {
        name: getattr(tokenizer, name)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
        if getattr(tokenizer, name) is not None
    }
    config = AutoConfig.for_model(model_type, **{**sizes, **ids, **config_keys})
    return write_random_weights(folder, config, tokenizer, mode, decided=tiny, seed=seed)


def write_random_weights(
    folder: Path, config: Any, tokenizer: Any, mode: str, decided: bool = True, seed: int = 0
) -> Path:
    """Write a model of a configuration, whose weights make it `decided`; return its folder."""
    torch.manual_seed(seed)
    model = find_task(mode).auto_model.from_config(config).eval()
    if decided:
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=SPREAD)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
