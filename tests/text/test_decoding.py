"""Prompts continued together: each as transformers continues it alone, whoever comes and goes."""

import copy
import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from repository import ROOT
from speechtext.cpu.attention import NAME
from speechtext.errors import NonFiniteOutputError, OutOfMemoryError
from speechtext.text.decoding import Decoder
from speechtext.text.sampling import Continuation, GenerationParameters

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


def generated(family: str, prompt: Sequence[int], count: int) -> list[int]:
    """Return what transformers adds to a prompt by itself."""
    model = network(family)
    found = model.generate(
        torch.tensor([prompt]), max_new_tokens=count, do_sample=False, pad_token_id=0
    )
    return list(found[0, len(prompt) :].tolist())


def finish(decoder: Decoder, given: Sequence[Continuation]) -> list[list[int]]:
    decoder.add(given)
    decoder.run()
    return [row.ids for row in given]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_transformers(family: str) -> None:
    given = [row for row in rows(36) if row.plain]
    found = finish(Decoder(network(family), pad_id=0), given)
    for row, ids in zip(given, found, strict=True):
        assert ids == generated(family, row.all_ids[: -len(ids)], len(ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_who_joins_and_leaves_changes_no_row(family: str) -> None:
    """Thirty rows that come one after the other, at any token of those before them."""
    alone = [finish(Decoder(network(family), pad_id=0), [row])[0] for row in rows(30)]
    chance = random.Random(5)
    given, decoder = rows(30), Decoder(network(family), pad_id=0)
    waiting = list(given)
    largest = 0
    while waiting or decoder.rows:
        if waiting and chance.random() < 0.6:
            decoder.add([waiting.pop(0) for _ in range(min(len(waiting), chance.randint(1, 3)))])
        decoder.step()
        largest = max(largest, len(decoder.rows))
    assert [row.ids for row in given] == alone
    assert largest > 3


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "gpt_neox", "falcon", "mistral"])
def test_attention_of_a_cpu_finds_the_same_tokens(family: str) -> None:
    """In float32, where nothing is rounded away; with padding, and with fewer heads of keys."""
    expected = finish(Decoder(network(family), pad_id=0), rows(12))
    ours = copy.deepcopy(network(family))
    ours.set_attn_implementation(NAME)
    assert finish(Decoder(ours, pad_id=0), rows(12)) == expected


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
def test_rows_wait_while_there_is_no_room(family: str) -> None:
    decoder = Decoder(network(family), pad_id=0, most_tokens=120)
    given = rows(20)
    decoder.add(given)
    most = 0
    while decoder.rows:
        decoder.step()
        begun = [row for row in decoder.rows if row.ids]
        most = max(most, len(begun) * max((row.most_tokens for row in begun), default=0))
    assert 60 < most <= 120
    assert [row.ids for row in given] == finish(Decoder(network(family), pad_id=0), rows(20))


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_join_share_a_call(family: str) -> None:
    """One call of the network a token, for all rows: that is what joining is for."""
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    hook = network(family).register_forward_hook(count)
    decoder = Decoder(network(family), pad_id=0)
    first, second = (rows(1, seed)[0] for seed in (3, 4))
    try:
        decoder.add([first])
        decoder.step()
        decoder.add([second])
        decoder.step()
        calls = 0
        decoder.step()
    finally:
        hook.remove()
    assert calls == (2 if family in ROWLESS else 1)


def test_rows_that_end_leave_the_others_call() -> None:
    sizes: list[int] = []

    def note(_: Any, __: Any, given: dict[str, Any]) -> None:
        sizes.append(len(given["input_ids"]))

    hook = network("llama").register_forward_pre_hook(note, with_kwargs=True)
    given = rows(12)
    try:
        finish(Decoder(network("llama"), pad_id=0), given)
    finally:
        hook.remove()
    lengths = [len(row.ids) for row in given]
    assert sizes == [sum(length > step for length in lengths) for step in range(max(lengths))]
    assert len(set(sizes)) == 6


def test_row_is_removed_at_any_token() -> None:
    expected = finish(Decoder(network("llama"), pad_id=0), rows(6))
    decoder, given = Decoder(network("llama"), pad_id=0), rows(6)
    decoder.add(given)
    for step, gone in ((3, 1), (2, 3)):
        for _ in range(step):
            decoder.step()
        decoder.remove(given[gone])
    decoder.run()
    for index in (0, 2, 4, 5):
        assert given[index].ids == expected[index]
    assert [len(given[index].ids) for index in (1, 3)] == [3, 5]


def test_row_that_does_not_fit_fails_alone() -> None:
    """The others go on where they were, each alone, samples too."""
    model = network("gpt2")
    expected = finish(Decoder(model, pad_id=0), rows(12))
    failed: list[int] = []

    def allocate(_: Any, __: Any, given: dict[str, Any]) -> None:
        if given["attention_mask"].numel() > 600 or given["attention_mask"].shape[1] > 90:
            failed.append(len(given["input_ids"]))
            raise torch.OutOfMemoryError

    hook = model.register_forward_pre_hook(allocate, with_kwargs=True)
    bad = Continuation([9] * 85, PARAMETERS[1], tokenizer(), [])
    given = rows(12)
    decoder = Decoder(model, pad_id=0)
    try:
        decoder.add(given)
        for _ in range(8):
            decoder.step()
        decoder.add([bad])
        decoder.run()
    finally:
        hook.remove()
    assert isinstance(bad.error, OutOfMemoryError)
    assert failed[0] > 1
    assert failed[-1] == 1
    assert [row.ids for row in given] == expected


def test_row_without_numbers_fails_alone() -> None:
    model = network("gpt2")
    expected = finish(Decoder(model, pad_id=0), rows(6))
    # The longest is the last of its group.
    bad = Continuation([299] * 60, PARAMETERS[1], tokenizer(), [])

    def spoil(_: Any, __: Any, output: Any) -> None:
        if len(bad.ids) == 5 and bad.finish_reason is None:
            output.logits[-1] = torch.nan

    hook = model.register_forward_hook(spoil)
    given = rows(6)
    decoder = Decoder(model, pad_id=0)
    decoder.add([*given, bad])
    try:
        decoder.run()
    finally:
        hook.remove()
    assert isinstance(bad.error, NonFiniteOutputError)
    assert len(bad.ids) == 5
    assert [row.ids for row in given] == expected


def test_padding_is_not_a_rows_own_and_is_not_penalised() -> None:
    """A row with padding in front weighs its next token as it does alone."""
    parameters = GenerationParameters(max_new_tokens=30, repetition_penalty=3.0)
    short, long = ([8], list(range(1, 40)))
    made = [Continuation(ids, parameters, tokenizer(), []) for ids in (short, long, short)]
    together = finish(Decoder(network("gpt2"), pad_id=0), made[:2])
    assert together[0] == finish(Decoder(network("gpt2"), pad_id=0), made[2:])[0]
