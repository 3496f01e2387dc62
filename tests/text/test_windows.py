"""Windows as tensors: padded, run in the cheapest groups within the budget, and given back."""

import itertools
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from speechtext.allowance import allow
from speechtext.batching import plan_groups
from speechtext.errors import DeadlineError, NonFiniteOutputError
from speechtext.measurements import measure_batch
from speechtext.text.payloads import Example
from speechtext.text.tokens import Tokens, Window
from speechtext.text.windows import (
    EncodedBatch,
    find_input_names,
    heads_of,
    pad_batch,
    pad_rows,
    run_heads,
    score_windows,
)

CPU, NO_CPU = torch.device("cpu"), torch.device("meta")
INPUTS = ["input_ids", "attention_mask"]


def splits(items: list[int]) -> Iterator[list[list[int]]]:
    for cuts in itertools.product([False, True], repeat=max(0, len(items) - 1)):
        groups = [[items[0]]]
        for item, cut in zip(items[1:], cuts, strict=True):
            if cut:
                groups.append([])
            groups[-1].append(item)
        yield groups


def cost(groups: list[list[int]], call_tokens: int) -> int:
    return sum(len(group) * max(group) + call_tokens for group in groups)


@settings(max_examples=200)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    budget=st.integers(1, 100),
    call_tokens=st.integers(0, 60),
)
def test_groups_are_the_cheapest_within_the_budget(
    lengths: list[int], budget: int, call_tokens: int
) -> None:
    groups = plan_groups(lengths, budget, call_tokens)
    assert sorted(itertools.chain(*groups)) == list(range(len(lengths)))
    found = [[lengths[index] for index in group] for group in groups]
    assert all(len(group) == 1 or len(group) * max(group) <= budget for group in found)
    possible = [
        split
        for split in splits(sorted(lengths))
        if all(len(group) == 1 or len(group) * max(group) <= budget for group in split)
    ]
    assert cost(found, call_tokens) == min(cost(split, call_tokens) for split in possible)


def test_no_rows_make_no_groups() -> None:
    assert plan_groups([], 100, 10) == []


def make_window(ids: Sequence[int], owner: int = 0) -> Window:
    """Return a window of all tokens; each is of the second text from the third on."""
    count = len(ids)
    types = [int(position >= 2) for position in range(count)]
    tokens = Tokens(list(ids), types, [*types], [None] * count, [(0, 0)] * count)
    return Window(tokens, range(count), owner)


def make_batch(rows: Sequence[Sequence[int]]) -> EncodedBatch:
    """Return a batch of a window for each row of ids, padded with zeros."""
    windows = [make_window(ids, owner) for owner, ids in enumerate(rows)]
    return pad_batch(windows, [Example("")] * len(rows), 0)


class Recorder(torch.nn.Module):
    """Says of each token its id and twice of that, and of each row the sum; keeps its inputs.

    Where it has no numbers, on the device meta, it says zeros.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, torch.Tensor]] = []

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.calls.append(inputs)
        ids = inputs["input_ids"]
        numbers = torch.zeros(ids.shape) if ids.is_meta else ids.float()
        return numbers, torch.stack([numbers, 2 * numbers], dim=2), numbers[:, :1]

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes that it was given."""
        return [tuple(call["input_ids"].shape) for call in self.calls]


@pytest.mark.parametrize(
    ("sides", "ids", "mask", "types"),
    [
        ([], [[4, 5, 6], [7, 9, 9]], [[1, 1, 1], [1, 0, 0]], [[0, 0, 1], [1, 0, 0]]),
        (["left"], [[4, 5, 6], [9, 9, 7]], [[1, 1, 1], [0, 0, 1]], [[0, 0, 1], [0, 0, 1]]),
    ],
)
def test_windows_are_padded_to_the_longest_on_one_side(
    sides: list[str], ids: list[list[int]], mask: list[list[int]], types: list[list[int]]
) -> None:
    long, short = make_window([4, 5, 6]), make_window([1, 2, 7], owner=1)
    windows, examples = [long, Window(short.tokens, [2], 1)], [Example("a"), Example("b")]
    batch = pad_batch(windows, examples, 9, *sides)
    assert batch.windows == windows
    assert batch.examples == examples
    assert batch.input_ids.tolist() == ids
    assert batch.attention_mask.tolist() == mask
    assert batch.token_type_ids.tolist() == types
    assert batch.input_ids.dtype == batch.attention_mask.dtype == torch.int64


def test_rows_of_numbers_are_padded_on_the_right_unless_asked_otherwise() -> None:
    rows = [[1, 2, 3], [4]]
    assert pad_rows(rows, 8).tolist() == [[1, 2, 3], [4, 8, 8]]
    assert pad_rows(rows, 8, "left").tolist() == [[1, 2, 3], [8, 8, 4]]


def test_a_batch_gives_the_inputs_that_a_model_has_names_for_on_its_device() -> None:
    batch = make_batch([[4, 5, 6], [7]])
    inputs = batch.inputs(["token_type_ids", "input_ids"], CPU)
    assert list(inputs) == ["token_type_ids", "input_ids"]
    assert inputs["token_type_ids"].tolist() == [[0, 0, 1], [0, 0, 0]]
    assert inputs["input_ids"].tolist() == [[4, 5, 6], [7, 0, 0]]
    assert batch.inputs(INPUTS, NO_CPU)["attention_mask"].device == NO_CPU


def test_tokens_of_an_example_are_counted_in_all_of_its_windows() -> None:
    windows = [make_window([1, 2, 3]), make_window([1, 2], 1), make_window([4, 5, 6, 7])]
    batch = pad_batch(windows, [Example("a"), Example("b")], 0)
    assert [batch.count_tokens(owner) for owner in range(2)] == [7, 2]


class Swapped(torch.nn.Module):
    """Takes inputs in an order of its own, and one that no tokenizer makes."""

    def forward(
        self,
        attention_mask: torch.Tensor,
        input_ids: torch.Tensor,
        token_type_ids: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        return input_ids + attention_mask + token_type_ids + labels


@pytest.mark.parametrize("model", [Swapped(), torch.jit.script(Swapped())])
@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ([], ["attention_mask", "input_ids"]),
        (["token_type_ids"], ["attention_mask", "input_ids", "token_type_ids"]),
    ],
)
def test_a_model_gets_what_the_tokenizer_makes_in_the_order_of_its_arguments(
    model: Any, made: list[str], expected: list[str]
) -> None:
    assert find_input_names(model, SimpleNamespace(model_input_names=made)) == expected


def test_heads_are_the_tensors_of_an_output_alone() -> None:
    one, other = torch.ones(2), torch.zeros(2)
    assert heads_of((one, None, [other], other)) == [one, other]
    # No loss is given, and what a model keeps of its layers is no tensor.
    output = QuestionAnsweringModelOutput(start_logits=one, end_logits=other, hidden_states=(one,))
    assert heads_of(output) == [one, other]


def test_heads_are_float32_whatever_the_model_computes_in() -> None:
    class Half(torch.nn.Module):
        def forward(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return first.bfloat16(), second.double()

    heads = run_heads(Half(), {"second": torch.tensor([2.0]), "first": torch.tensor([1.5])})
    assert [(head.dtype, head.tolist()) for head in heads] == [
        (torch.float32, [1.5]),
        (torch.float32, [2.0]),
    ]


def test_each_window_gets_its_own_heads_in_order_and_without_padding() -> None:
    rows = [[4, 5, 6, 7], [8], [9, 1], [2, 3, 4]]
    batch, model = make_batch(rows), Recorder()
    scored = score_windows(model, batch, INPUTS, CPU, 4, per_token=True)
    assert [each.window for each in scored] == list(batch.windows)
    for ids, each in zip(rows, scored, strict=True):
        assert each.heads[0].tolist() == ids
        assert each.heads[1].tolist() == [[number, 2 * number] for number in ids]
    # Four tokens in a call, each with its own mask.
    assert sorted(model.shapes()) == [(1, 3), (1, 4), (2, 2)]
    (pair,) = (call for call in model.calls if len(call["input_ids"]) == 2)
    assert list(pair) == INPUTS
    assert pair["attention_mask"].tolist() == [[1, 0], [1, 1]]


def test_heads_of_a_whole_window_are_given_back_whole() -> None:
    scored = score_windows(Recorder(), make_batch([[4, 5], [6]]), INPUTS, CPU, None, False)
    assert [each.heads[0].tolist() for each in scored] == [[4, 5], [6, 0]]
    assert [each.heads[2].tolist() for each in scored] == [[4], [6]]


@pytest.mark.parametrize(
    ("device", "lengths", "shapes"),
    [
        # Within 640 tokens; where padding costs more than 32 tokens, another call is cheaper.
        (CPU, [320, 320], [(2, 320)]),
        (CPU, [321, 321], [(1, 321), (1, 321)]),
        (CPU, [10, 41], [(2, 41)]),
        (CPU, [10, 43], [(1, 10), (1, 43)]),
        # Elsewhere within 16,384, and where it costs more than 1,024.
        (NO_CPU, [321, 321], [(2, 321)]),
        (NO_CPU, [8192, 8192], [(2, 8192)]),
        (NO_CPU, [8193, 8193], [(1, 8193), (1, 8193)]),
        (NO_CPU, [10, 1033], [(2, 1033)]),
        (NO_CPU, [10, 1035], [(1, 10), (1, 1035)]),
    ],
)
def test_calls_are_as_large_as_suits_the_device(
    device: torch.device,
    lengths: list[int],
    shapes: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    model = Recorder()
    score_windows(
        model, make_batch([[1] * length for length in lengths]), INPUTS, device, None, True
    )
    assert model.shapes() == shapes
    assert {each.device for call in model.calls for each in call.values()} == {device}


def test_windows_of_one_length_alone_share_a_call_where_none_is_padded() -> None:
    batch, model = make_batch([[4, 5], [6], [7, 8], [9]]), Recorder()
    scored = score_windows(model, batch, INPUTS, CPU, None, True, pads=False)
    assert model.shapes() == [(2, 1), (2, 2)]
    assert [each.heads[0].tolist() for each in scored] == [[4, 5], [6], [7, 8], [9]]


def test_calls_grow_with_the_threads_of_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    model = Recorder()
    score_windows(model, make_batch([[1] * 320] * 5), INPUTS, CPU, None, True)
    assert sorted(model.shapes()) == [(1, 320), (4, 320)]


def test_settings_say_how_many_tokens_go_into_a_call() -> None:
    for device in (CPU, NO_CPU):
        model = Recorder()
        score_windows(model, make_batch([[1] * 5] * 4), INPUTS, device, 10, True)
        assert model.shapes() == [(2, 5), (2, 5)]


def test_padding_and_the_models_time_are_measured() -> None:
    with measure_batch(3) as measured:
        score_windows(Recorder(), make_batch([[1] * 4, [1], [1] * 3]), INPUTS, CPU, None, True)
    assert (measured.computed, measured.used) == (12, 8)
    assert measured.stages_ms.keys() == {"model"}


class Spoilt(torch.nn.Module):
    """Gives no numbers where the attention mask has a value, in its second head."""

    def __init__(self, where: int) -> None:
        super().__init__()
        self.where = where

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list[torch.Tensor]:
        numbers = input_ids.float()
        return [numbers, numbers.masked_fill(attention_mask == self.where, torch.nan)]


def test_a_window_without_numbers_is_refused_but_padding_may_be_anything() -> None:
    batch = make_batch([[4, 5], [6]])
    scored = score_windows(Spoilt(0), batch, INPUTS, CPU, None, True)
    assert [each.heads[1].tolist() for each in scored] == [[4, 5], [6]]
    for model, per_token in ((Spoilt(1), True), (Spoilt(0), False)):
        with pytest.raises(NonFiniteOutputError, match="Expected numbers from the model"):
            score_windows(model, batch, INPUTS, CPU, None, per_token)


def test_no_call_begins_when_the_time_is_over() -> None:
    model = Recorder()
    with allow(-1.0), pytest.raises(DeadlineError, match="answers in time"):
        score_windows(model, make_batch([[4, 5]]), INPUTS, CPU, None, True)
    assert model.calls == []
