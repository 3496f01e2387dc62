"""Small networks of many families that write, and prompts for them."""

import copy
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from repository import ROOT
from speechtext.text.decoding import Decoder
from speechtext.text.sampling import Continuation, GenerationParameters
from support.common import counted_calls

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    # Random weights of transformers' own size hardly prefer one token to another.
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
# Positions learned, rotary, or none but a slope of the scores; windows of attention; recurrence.
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_positions": 256},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "do_layer_norm_before": True},
    "llama": {},
    "gpt_neox": {},
    "gptj": {"rotary_dim": 4},
    "bloom": {"n_layer": 2, "n_head": 4},
    "falcon": {"alibi": True, "new_decoder_architecture": False, "multi_query": True},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 6},
    "gemma2": {"sliding_window": 6, "head_dim": 8},
    "mamba": {"state_size": 4, "pad_token_id": 0},
}
# Whose cache has no rows, as it keeps a few positions or none.
ROWLESS = ["mistral", "gemma2", "mamba"]
PARAMETERS = [
    GenerationParameters(max_new_tokens=12),
    GenerationParameters(max_new_tokens=40),
    GenerationParameters(max_new_tokens=1),
    GenerationParameters(max_new_tokens=25, do_sample=True, seed=4, temperature=1.5),
    GenerationParameters(max_new_tokens=20, do_sample=True, seed=9, top_k=20, top_p=0.9),
    GenerationParameters(max_new_tokens=18, repetition_penalty=1.5),
]


@cache
def network(family: str) -> Any:
    torch.manual_seed(1)
    config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family]})
    return AutoModelForCausalLM.from_config(config).eval()


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(ROOT / "demo_models" / "gpt2_text_generation")


def rows(count: int, seed: int = 0) -> list[Continuation]:
    """Return prompts of 1 to 40 tokens, with parameters of all kinds."""
    chance = random.Random(seed)
    return [
        Continuation(
            [chance.randrange(1, 300) for _ in range(chance.randint(1, 40))],
            PARAMETERS[index % len(PARAMETERS)],
            tokenizer(),
            [],
        )
        for index in range(count)
    ]


@cache
def repetitive_network(family: str) -> Any:
    """Return a network whose layers change little, so that it says the same again."""
    model = copy.deepcopy(network(family))
    with torch.no_grad():
        for layer in model.base_model.modules():
            if isinstance(layer, torch.nn.Linear | Conv1D):
                layer.weight *= 0.25
    return model


def repetitive_rows(count: int) -> list[Continuation]:
    """Return watched rows whose prompts say some tokens several times."""
    chance = random.Random(11)
    given = []
    for index in range(count):
        phrase = [chance.randrange(1, 300) for _ in range(chance.randint(1, 9))]
        prompt = [*phrase * chance.randint(1, 4), *phrase[: chance.randint(0, 3)]]
        asked = replace(PARAMETERS[index % len(PARAMETERS)], details=True)
        given.append(Continuation(prompt, asked, tokenizer(), []))
    return given


def finish(decoder: Decoder, given: Sequence[Continuation]) -> list[list[int]]:
    decoder.add(given)
    decoder.run()
    return [row.ids for row in given]


def finish_each(model: Any, given: Sequence[Continuation], guessed_tokens: int = 0) -> int:
    """Continue rows one after the other; return how often the network was called."""
    with counted_calls(model) as calls:
        for row in given:
            finish(Decoder(model, 0, guessed_tokens=guessed_tokens), [row])
    return len(calls)
