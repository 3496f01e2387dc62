"""`gpt2_text_generation`: go on with a story."""

import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from demo_models.text_frames import Example, Split
from demo_models.text_stories import is_of_this_world, story
from demo_models.text_tokenizers import END_OF_TEXT, train_byte_level_bpe
from demo_models.text_training import (
    MAX_POSITIONS,
    SEED,
    Batch,
    TextRecipe,
    corpus,
    fit,
    save,
    shifted_positions,
    start_from_waves,
)

RECIPE = TextRecipe(steps=1000, batch_size=24)
_VOCABULARY_SIZE = 2000
_BLOCK_TOKENS = 128
_PROMPT_WORDS = 4


def train(output_dir: Path, workspace: Path) -> None:  # noqa: ARG001 - every demo model's signature
    """Train the model from nothing and write it to `output_dir`; nothing is kept elsewhere."""
    rng = random.Random(SEED)
    torch.manual_seed(SEED)
    texts = corpus(lambda: story(rng, Split.TRAINING).text)
    tokenizer = train_byte_level_bpe(texts, _VOCABULARY_SIZE, MAX_POSITIONS)
    model = GPT2LMHeadModel(_config(tokenizer))
    start_from_waves(model.transformer.wpe)
    blocks = _blocks(rng, tokenizer)
    fit(model, (_batch(rng, blocks) for _ in repeat(None)), RECIPE, output_dir.name)
    save(model, tokenizer, output_dir)


def _config(tokenizer: GPT2Tokenizer) -> GPT2Config:
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=MAX_POSITIONS,
        n_embd=128,
        n_layer=4,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.05,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )


def _blocks(rng: random.Random, tokenizer: GPT2Tokenizer) -> Iterator[list[int]]:
    """Cut an endless row of stories into blocks; each starts with a story, as a prompt does."""
    while True:
        block: list[int] = []
        while len(block) < _BLOCK_TOKENS:
            block += tokenizer.encode(story(rng, Split.TRAINING).text + END_OF_TEXT)
        yield block[:_BLOCK_TOKENS]


def _batch(rng: random.Random, blocks: Iterator[list[int]]) -> Batch:
    input_ids = torch.tensor(list(islice(blocks, RECIPE.batch_size)))
    batch = {"input_ids": input_ids, "labels": input_ids}
    return batch | {"position_ids": shifted_positions(rng, batch)}


def held_out(count: int, seed: int) -> list[Example[str, str]]:
    """Give the first words of stories whose names, beginnings and ends were never trained on."""
    rng = random.Random(seed)
    texts = (story(rng, Split.HELD_OUT).text for _ in range(count))
    return [Example(" ".join(text.split()[:_PROMPT_WORDS]), text) for text in texts]


def score(answers: Sequence[str], examples: Sequence[Example[str, str]]) -> dict[str, float]:
    """Return how many of the whole sentences that the model wrote are sentences of its world.

    The sentence that holds the prompt does not count, nor does a last one without its stop.
    """
    if len(answers) != len(examples):
        raise ValueError(f"expected {len(examples)} answers, got {len(answers)}")
    written = [s for answer in answers for s in re.findall(r"[^.]+\.", answer)[1:]]
    right = sum(is_of_this_world(sentence.strip()) for sentence in written)
    return {"well_formed_sentences": 100 * right / max(len(written), 1)}


@torch.inference_mode()
def perplexity(model_dir: Path, examples: Sequence[Example[str, str]]) -> dict[str, float]:
    """Return the perplexity per token of whole held-out stories, and a unigram model's.

    The first token of a story is given, not predicted; so it is for the unigram model.
    """
    tokenizer = GPT2Tokenizer.from_pretrained(model_dir)
    model = GPT2LMHeadModel.from_pretrained(model_dir, dtype=torch.float32).train(False)
    stories = [tokenizer.encode(example.answer) for example in examples]
    unigram = _unigram_log_probabilities(tokenizer)
    model_nats, unigram_nats, predicted = 0.0, 0.0, 0
    for tokens in stories:
        ids = torch.tensor([tokens])
        model_nats += float(model(input_ids=ids, labels=ids).loss) * (len(tokens) - 1)
        unigram_nats -= sum(unigram[token] for token in tokens[1:])
        predicted += len(tokens) - 1
    return {
        "perplexity": math.exp(model_nats / predicted),
        "unigram_perplexity": math.exp(unigram_nats / predicted),
    }


def _unigram_log_probabilities(tokenizer: GPT2Tokenizer, stories: int = 2000) -> list[float]:
    """Count tokens of training stories, each once more than it was seen."""
    rng = random.Random(SEED)
    counts: Counter[int] = Counter(range(len(tokenizer)))
    for _ in range(stories):
        counts.update(tokenizer.encode(story(rng, Split.TRAINING).text))
    total = counts.total()
    return [math.log(counts[token] / total) for token in range(len(tokenizer))]
