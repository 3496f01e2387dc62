"""Prompts continued together: each as transformers continues it alone, whoever comes and goes."""

import copy
import random
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from speechtext.allowance import allow
from speechtext.cpu.attention import NAME
from speechtext.errors import DeadlineError, InternalError, NonFiniteOutputError, OutOfMemoryError
from speechtext.measurements import measure_batch
from speechtext.text.decoding import Decoder, choose_tokens
from speechtext.text.key_value_cache import RoomyCache, RoomyLayer, has_rows, make_cache
from speechtext.text.sampling import (
    Continuation,
    GeneratedToken,
    GenerationParameters,
    TokenEvent,
)
from support.common import counted_calls
from support.continuations import (
    FAMILIES,
    PARAMETERS,
    ROWLESS,
    SIZES,
    finish,
    finish_each,
    network,
    repetitive_network,
    repetitive_rows,
    rows,
    tokenizer,
)


def generated(family: str, prompt: Sequence[int], count: int) -> list[int]:
    """Return what transformers adds to a prompt by itself."""
    model = network(family)
    found = model.generate(
        torch.tensor([prompt]), max_new_tokens=count, do_sample=False, pad_token_id=0
    )
    return list(found[0, len(prompt) :].tolist())


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


@pytest.mark.parametrize("family", FAMILIES)
def test_guesses_change_no_row(family: str) -> None:
    """Of prompts alone, whose tokens are drawn or penalised too, and of those that meet others."""
    model, alone, found = repetitive_network(family), repetitive_rows(12), repetitive_rows(12)
    plain, guessing = finish_each(model, alone), finish_each(model, found, guessed_tokens=8)
    assert (guessing < plain) == (family not in ROWLESS)
    joining, decoder = repetitive_rows(12), Decoder(model, 0, guessed_tokens=8)
    waiting, chance = list(joining), random.Random(3)
    while waiting or decoder.rows:
        # Mostly one row by itself.
        if waiting and (not decoder.rows or chance.random() < 0.03):
            decoder.add([waiting.pop(0)])
        decoder.step()
    for one, another, expected in zip(found, joining, alone, strict=True):
        assert_tokens_alike(one.tokens, expected.tokens)
        assert_tokens_alike(another.tokens, expected.tokens)


@pytest.mark.parametrize("parameters", [{"top_n_tokens": 3, "details": True}, {"stream": True}])
def test_guesses_that_are_right_are_told_like_other_tokens(parameters: dict[str, Any]) -> None:
    told: dict[int, list[TokenEvent]] = {}
    rows = []
    for guessed in (0, 8):
        events = told.setdefault(guessed, [])
        asked = GenerationParameters(max_new_tokens=30, **parameters)
        row = Continuation([7, 8, 9] * 4, asked, tokenizer(), [], events.append)
        with counted_calls(repetitive_network("gpt2")) as calls:
            finish(Decoder(repetitive_network("gpt2"), 0, guessed_tokens=guessed), [row])
        assert (len(calls) < 30) == bool(guessed)
        rows.append(row)
    assert_tokens_alike(rows[1].tokens, rows[0].tokens)
    for found, expected in zip(rows[1].top_tokens, rows[0].top_tokens, strict=True):
        assert_tokens_alike(found, expected)
    assert [(each.index, each.generated_text, each.ending) for each in told[8]] == [
        (each.index, each.generated_text, each.ending) for each in told[0]
    ]
    assert len(rows[1].tokens) == 30


def assert_tokens_alike(
    found: Sequence[GeneratedToken], expected: Sequence[GeneratedToken]
) -> None:
    assert [each._replace(logprob=0.0) for each in found] == [
        each._replace(logprob=0.0) for each in expected
    ]
    values = [each.logprob for each in expected]
    assert [each.logprob for each in found] == pytest.approx(values, abs=1e-4)


def test_nothing_follows_an_end_that_was_guessed() -> None:
    """Nor more tokens than are asked for, whatever else was guessed."""
    prompt = [7, 8, 9] * 4
    asked = GenerationParameters(max_new_tokens=40)
    (ids,) = finish(
        Decoder(repetitive_network("gpt2"), 0), [Continuation(prompt, asked, tokenizer(), [])]
    )
    for end in sorted(set(ids)):
        row = Continuation(prompt, asked, tokenizer(), [end])
        finish(Decoder(repetitive_network("gpt2"), 0, guessed_tokens=8), [row])
        assert row.ids == ids[: ids.index(end) + 1]
        assert row.finish_reason == "eos_token"
    for most in range(1, 20):
        row = Continuation(prompt, replace(asked, max_new_tokens=most), tokenizer(), [])
        finish(Decoder(repetitive_network("gpt2"), 0, guessed_tokens=8), [row])
        assert row.ids == ids[:most]
    # Up to the last position that the network has.
    longest = Continuation([7, 8, 9] * 72, asked, tokenizer(), [])
    finish(Decoder(repetitive_network("gpt2"), 0, guessed_tokens=8), [longest])
    assert longest.error is None
    assert len(longest) == SIZES["max_position_embeddings"]


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


class OutOfMemoryOnce(TorchDispatchMode):
    """Has no memory for one of the copies of keys and values that an operation makes."""

    def __init__(self, operation: Any, copies: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operation, self.copies = operation, copies

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        # Masks have one head.
        if func is self._operation and made.ndim == 4 and made.shape[1] > 1:
            self.copies -= 1
            if self.copies == 0:
                raise torch.OutOfMemoryError
        return made


@pytest.mark.parametrize("copy", [1, 2, 3, 4])
@pytest.mark.parametrize("operation", [torch.ops.aten.cat.default, torch.ops.aten.index.Tensor])
def test_rows_that_cannot_be_joined_or_kept_for_want_of_memory_go_on_alone(
    operation: Any, copy: int
) -> None:
    """The keys or values of either layer: whatever was changed already, no row is lost."""
    prompts = [[11, 12, 13], [21], [31, 32, 33, 34]]
    given = [plain_row(prompt, count) for prompt, count in zip(prompts, (3, 7, 8), strict=True)]
    decoder = Decoder(network("gpt2"), pad_id=0)
    decoder.add(given[:2])
    decoder.step()
    decoder.add(given[2:])
    with OutOfMemoryOnce(operation, copy) as short:
        decoder.run()
    assert short.copies <= 0
    assert [row.error for row in given] == [None] * 3
    assert [row.ids for row in given] == [
        generated("gpt2", prompt, len(row.ids)) for prompt, row in zip(prompts, given, strict=True)
    ]
    assert [len(row.ids) for row in given] == [3, 7, 8]


def test_row_that_does_not_fit_fails_alone() -> None:
    """The others go on where they were, each alone, samples too."""
    model = network("gpt2")
    expected = finish(Decoder(model, pad_id=0), rows(12))
    failed: list[int] = []
    held: list[weakref.ref[Any]] = []
    still_there: list[int] = []

    def allocate(_: Any, __: Any, given: dict[str, Any]) -> None:
        still_there.append(sum(each() is not None for each in held))
        if given["attention_mask"].numel() > 600 or given["attention_mask"].shape[1] > 90:
            failed.append(len(given["input_ids"]))
            if len(given["input_ids"]) > 1:
                held.append(weakref.ref(given["past_key_values"]))
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
    # What a group had is given back before its rows are tried alone.
    assert held
    assert not any(still_there)


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


@contextmanager
def watched_calls(model: Any) -> Iterator[list[dict[str, Any]]]:
    """Note what each call of a network is given."""
    calls: list[dict[str, Any]] = []

    def note(_: Any, __: Any, given: dict[str, Any]) -> None:
        calls.append(dict(given))

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


def plain_row(prompt: Sequence[int], new_tokens: int) -> Continuation:
    parameters = GenerationParameters(max_new_tokens=new_tokens)
    return Continuation(prompt, parameters, tokenizer(), [])


def test_network_gets_padding_masks_and_positions_of_each_row() -> None:
    """Prompts in one call, padded in front; only the last position's logits are computed."""
    decoder = Decoder(network("gpt2"), pad_id=7)
    first, second = plain_row([11, 12, 13, 14], 1), plain_row([21, 22], 3)
    with watched_calls(network("gpt2")) as calls:
        finish(decoder, [first, second])
    begun, later = calls[0], calls[1]
    order = [begun["input_ids"].tolist().index(ids) for ids in ([11, 12, 13, 14], [7, 7, 21, 22])]
    assert begun["attention_mask"][order].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert begun["position_ids"][order].tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    assert later["input_ids"].tolist() == [second.ids[:1]]
    assert later["position_ids"].tolist() == [[2]]
    # What only the longer one needed is gone.
    assert later["attention_mask"].tolist() == [[1, 1, 1]]
    assert len(calls) == 3
    assert all((each["logits_to_keep"], each["use_cache"]) == (1, True) for each in calls)


def test_compiled_network_gets_positions_and_a_cache_like_any_other() -> None:
    """Its `forward` names none of what it takes; the shorter prompt is padded in front."""
    model = copy.deepcopy(network("gpt2"))
    prompts = [[11, 12, 13, 14, 15, 16], [21, 22]]
    decoder = Decoder(torch.compile(model, backend="eager"), pad_id=0)
    with watched_calls(model) as calls:
        found = finish(decoder, [plain_row(prompt, 3) for prompt in prompts])
    assert found == [generated("gpt2", prompt, 3) for prompt in prompts]
    assert all(isinstance(each["past_key_values"], RoomyCache) for each in calls)
    assert [each["logits_to_keep"] for each in calls] == [1] * 3


@pytest.mark.parametrize(
    ("family", "name"), [("llama", "past_key_values"), ("mamba", "cache_params")]
)
def test_network_gets_a_cache_under_its_own_name(family: str, name: str) -> None:
    with watched_calls(network(family)) as calls:
        finish(Decoder(network(family), pad_id=0), [plain_row([11, 12], 3)])
    assert [each[name] is not None for each in calls] == [True] * 3
    assert all(each[name] is calls[0][name] for each in calls)


def test_padding_that_no_row_needs_any_more_is_dropped() -> None:
    """The longest prompt ends first, then others: what is attended to is as long as the longest."""
    given = [plain_row([5] * length, count) for length, count in ((40, 2), (10, 9), (3, 5), (1, 7))]
    with watched_calls(network("llama")) as calls:
        finish(Decoder(network("llama"), pad_id=0), given)
    widths = [each["attention_mask"].shape[1] for each in calls]
    assert widths == [40, 41, 12, 13, 14, 15, 16, 17, 18]
    assert [len(each["input_ids"]) for each in calls] == [4, 4, 3, 3, 3, 2, 2, 1, 1]


@pytest.mark.parametrize(
    ("most_tokens", "begun"), [(59, [0]), (60, [0, 1]), (89, [0, 1]), (90, [0, 1, 2]), (5, [0])]
)
def test_rows_begin_in_their_order_as_far_as_there_is_room(
    most_tokens: int, begun: list[int]
) -> None:
    """Each row counts as the longest of all; one alone begins however long it is."""
    decoder = Decoder(network("gpt2"), pad_id=0, most_tokens=most_tokens)
    given = [plain_row([9] * 20, 10), plain_row([8] * 5, 3), plain_row([7], 2)]
    decoder.add(given[:1])
    decoder.add(given[1:])
    assert decoder.rows == given
    decoder.step()
    assert [index for index, row in enumerate(given) if row.ids] == begun
    assert sorted(map(len, decoder.rows)) == sorted(map(len, given))
    # Those that wait come after those that were begun.
    assert decoder.rows[len(begun) :] == given[len(begun) :]


def test_rows_that_wait_have_room_beside_those_that_go_on() -> None:
    decoder = Decoder(network("gpt2"), pad_id=0, most_tokens=60)
    long, short, last = plain_row([9] * 20, 10), plain_row([8], 2), plain_row([7] * 2, 3)
    decoder.add([long])
    decoder.step()
    decoder.add([short, last])
    sizes = []
    while decoder.rows:
        decoder.step()
        sizes.append((len(short.ids), len(last.ids)))
    assert sizes[:6] == [(1, 0), (2, 0), (2, 1), (2, 2), (2, 3), (2, 3)]
    assert last.ids == generated("gpt2", [7, 7], 3)


def test_row_that_waits_can_be_removed() -> None:
    decoder = Decoder(network("gpt2"), pad_id=0, most_tokens=30)
    first, gone, last = (plain_row([5 + index] * 3, 4) for index in range(3))
    decoder.add([first, gone, last, plain_row([5] * 30, 1)])
    decoder.step()
    assert not last.ids[1:]
    waiting = decoder.rows[-1]
    decoder.remove(waiting)
    assert waiting not in decoder.rows
    assert waiting.finish_reason == "cancelled"
    decoder.run()
    assert [len(each.ids) for each in (first, gone, last)] == [4, 4, 4]


@pytest.mark.parametrize("family", ["gpt2", "mistral"])
def test_time_that_is_over_ends_all_rows_at_once(family: str) -> None:
    decoder = Decoder(network(family), pad_id=0)
    decoder.add([plain_row([5], 3)])
    with allow(0.0), pytest.raises(DeadlineError):
        decoder.run()
    assert len(decoder.rows) == 1
    decoder.run()
    assert decoder.rows == []


def test_rows_go_on_after_a_call_that_was_stopped() -> None:
    """A group whose first call was stopped has no cache yet; who leaves it changes no other row."""
    model = network("llama")
    prompts = ([11, 12, 13], [21], [31, 32])
    given = [plain_row(prompt, 6) for prompt in prompts]
    decoder = Decoder(model, pad_id=0)

    def stop(*_: Any) -> None:
        raise DeadlineError("TookTooLong", "Expected less.")

    hook = model.register_forward_pre_hook(stop)
    try:
        decoder.add(given[:2])
        for more in (given[2:], []):
            with pytest.raises(DeadlineError):
                decoder.step()
            decoder.add(more)
    finally:
        hook.remove()
    decoder.remove(given[0])
    decoder.run()
    assert given[0].ids == []
    assert [row.ids for row in given[1:]] == [generated("llama", each, 6) for each in prompts[1:]]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_rows_that_failed_together_go_on_apart(place: int) -> None:
    """One group of three fails once: its rows have calls of their own, in the group's place."""
    model = network("mistral")
    prompts = [[40 + index, 50 + index] for index in range(6)]
    given = [plain_row(prompt, 8) for prompt in prompts]
    decoder = Decoder(model, pad_id=0)
    for first in (0, 2, 4):
        decoder.add(given[first : first + 2])
        decoder.step()
    sizes: list[int] = []
    broken: list[bool] = []

    def fail_once(_: Any, __: Any, call: dict[str, Any]) -> None:
        sizes.append(len(call["input_ids"]))
        if len(sizes) == place + 1 and not broken:
            broken.append(True)
            raise RuntimeError("only once")

    hook = model.register_forward_pre_hook(fail_once, with_kwargs=True)
    try:
        decoder.step()
        assert sizes == [*[2] * (place + 1), 1, 1, *[2] * (2 - place)]
        assert decoder.rows == given
        sizes.clear()
        decoder.step()
        assert sizes == [*[2] * place, 1, 1, *[2] * (2 - place)]
        decoder.run()
    finally:
        hook.remove()
    assert [row.ids for row in given] == [generated("mistral", each, 8) for each in prompts]


def test_rows_that_failed_together_join_no_others() -> None:
    model = network("gpt2")
    first, second, third = (plain_row([index, index + 1], 6) for index in (20, 30, 40))
    decoder = Decoder(model, pad_id=0)
    broken: list[int] = []

    def fail_once(_: Any, __: Any, call: dict[str, Any]) -> None:
        if not broken:
            broken.append(len(call["input_ids"]))
            raise RuntimeError("only once")

    hook = model.register_forward_pre_hook(fail_once, with_kwargs=True)
    try:
        decoder.add([first, second])
        decoder.step()
        decoder.add([third])
        decoder.step()
        with watched_calls(model) as calls:
            decoder.step()
    finally:
        hook.remove()
    assert broken == [2]
    assert [len(each["input_ids"]) for each in calls] == [1, 1, 1]
    decoder.run()
    for row, begin in ((first, 20), (second, 30), (third, 40)):
        assert row.ids == generated("gpt2", [begin, begin + 1], 6)


def test_error_of_a_row_alone_is_told_as_the_servers() -> None:
    model = network("gpt2")

    def fail(*_: Any) -> None:
        raise RuntimeError("what a network says")

    hook = model.register_forward_pre_hook(fail)
    row = plain_row([9], 4)
    try:
        finish(Decoder(model, pad_id=0), [row])
    finally:
        hook.remove()
    assert isinstance(row.error, InternalError)
    assert row.finish_reason == "failed"
    assert row.ids == []


def test_time_in_the_model_and_padding_are_measured() -> None:
    """Of the prompts alone: a step has a token for each row."""
    given = [plain_row([5] * length, 4) for length in (7, 2, 3)]
    with measure_batch(3) as measured:
        finish(Decoder(network("gpt2"), pad_id=0), given)
    assert (measured.computed, measured.used) == (21, 12)
    assert list(measured.stages_ms) == ["model"]


def test_configuration_that_wants_tuples_changes_nothing() -> None:
    """Of a family that heeds it: others of transformers 5 fail by themselves."""
    ours = copy.deepcopy(network("mamba"))
    ours.config.return_dict = False
    (found,) = finish(Decoder(ours, pad_id=0), [plain_row([9, 10, 11], 5)])
    assert found == generated("mamba", [9, 10, 11], 5)


def test_token_zero_is_a_token_like_any_other() -> None:
    model = network("gpt2")

    def prefer_zero(_: Any, __: Any, output: Any) -> None:
        output.logits[..., 0] = 1e6

    hook = model.register_forward_hook(prefer_zero)
    row = plain_row([9], 3)
    try:
        with watched_calls(model) as calls:
            finish(Decoder(model, pad_id=5), [row])
    finally:
        hook.remove()
    assert row.ids == [0, 0, 0]
    assert [each["input_ids"].tolist() for each in calls] == [[[9]], [[0]], [[0]]]


def test_tokens_are_chosen_row_by_row() -> None:
    """The largest logit, what a row's parameters make of them, or None where there are no numbers.

    A row that has ended is left alone: its chance is not drawn from.
    """
    logits = torch.tensor(
        [
            [0.0, 4.0, 1.0],
            [0.0, 4.0, 3.9],
            [0.0, torch.nan, 1.0],
            [-torch.inf, 1.0, -torch.inf],
            [torch.inf, 0.0, 0.0],
            [0.0, 1.0, 2.0],
        ]
    )
    penalty = GenerationParameters(repetition_penalty=2.0)
    sampled = GenerationParameters(do_sample=True, seed=3)
    given = [
        plain_row([1], 5),
        Continuation([1], penalty, tokenizer(), []),
        plain_row([1], 5),
        Continuation([0], penalty, tokenizer(), []),
        plain_row([1], 5),
        Continuation([0], sampled, tokenizer(), []),
    ]
    given[5].cancel()
    before = logits.clone()
    assert choose_tokens(given, logits) == [1, 2, None, 1, None, 2]
    torch.testing.assert_close(logits, before, equal_nan=True)
    untouched = Continuation([0], sampled, tokenizer(), [])
    assert torch.equal(given[5].weigh(before[5:]), untouched.weigh(before[5:]))


def random_states(rows: int, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values of new tokens, of two heads; they differ in size, too."""
    return torch.randn(rows, 2, positions, 4), torch.randn(rows, 2, positions, 3)


def empty_layer() -> Any:
    # Its constructor, which is transformers' own, has no types.
    layer: Any = RoomyLayer
    return layer()


def filled_layer(rows: int, positions: int) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """Return a layer that has more room than is in use, and its keys and values."""
    layer = empty_layer()
    keys, values = random_states(rows, positions)
    layer.update(keys[:, :, :-1], values[:, :, :-1])
    layer.update(keys[:, :, -1:], values[:, :, -1:])
    return layer, keys, values


def check_layer(layer: Any, keys: torch.Tensor, values: torch.Tensor) -> None:
    assert layer.get_seq_length() == keys.shape[2]
    assert torch.equal(layer.keys, keys)
    assert torch.equal(layer.values, values)


def test_layer_with_room_remembers_what_transformers_remembers() -> None:
    torch.manual_seed(2)
    ours = empty_layer()
    reference: Any = DynamicLayer()
    for positions in (3, 1, 2, *[1] * 90, 200, 1, 7, 1):
        states = random_states(2, positions)
        found = ours.update(*states)
        for one, other in zip(found, reference.update(*states), strict=True):
            assert torch.equal(one, other)
        check_layer(ours, reference.keys, reference.values)


def test_layer_is_copied_now_and_then_and_not_for_each_token() -> None:
    """With room for 64 tokens more, or for a quarter of those in use."""
    layer, moved = empty_layer(), []
    layer.update(*random_states(1, 10))
    for end in range(11, 440):
        keys, values = layer.keys, layer.values
        layer.update(*random_states(1, 1))
        changes = [
            one.data_ptr() != other.data_ptr()
            for one, other in ((keys, layer.keys), (values, layer.values))
        ]
        assert len(set(changes)) == 1
        moved += [end] * changes[0]
    assert moved == [11, 76, 141, 206, 271, 339, 424]


def test_rows_of_a_layer_are_kept_from_a_position_on() -> None:
    layer, keys, values = filled_layer(4, 5)
    layer.keep_rows([3, 1], 2)
    check_layer(layer, keys[[3, 1], :, 2:], values[[3, 1], :, 2:])
    further = random_states(2, 1)
    layer.update(*further)
    check_layer(
        layer,
        torch.cat([keys[[3, 1], :, 2:], further[0]], dim=2),
        torch.cat([values[[3, 1], :, 2:], further[1]], dim=2),
    )


@pytest.mark.parametrize(("mine", "others"), [(6, 3), (3, 6), (6, 6)])
def test_rows_of_another_layer_end_where_a_layers_own_end(mine: int, others: int) -> None:
    one, *first = filled_layer(2, mine)
    two, *second = filled_layer(3, others)
    one.add_rows(two, 6)
    expected = []
    for own, added in zip(first, second, strict=True):
        whole = torch.zeros(5, 2, 6, own.shape[3])
        whole[:2, :, 6 - mine :] = own
        whole[2:, :, 6 - others :] = added
        expected.append(whole)
    check_layer(one, *expected)
    further = random_states(5, 1)
    one.update(*further)
    check_layer(one, *(torch.cat(pair, dim=2) for pair in zip(expected, further, strict=True)))


@pytest.mark.parametrize("family", FAMILIES)
def test_cache_has_rows_where_each_layer_has_a_place_for_each_position(family: str) -> None:
    made = make_cache(network(family))
    assert made is not None
    assert len(made.layers) == 2
    assert has_rows(made) is (family not in ROWLESS)


def test_network_with_a_kind_of_its_own_gets_no_cache() -> None:
    class Own(torch.nn.Module):
        def _supports_default_dynamic_cache(self) -> bool:
            return False

    assert make_cache(Own()) is None


def test_cache_without_layers_has_no_rows() -> None:
    mixed = DynamicCache()
    mixed.layers = [empty_layer(), DynamicLayer()]
    for cache_of_none in (None, DynamicCache(), mixed):
        assert has_rows(cache_of_none) is False
