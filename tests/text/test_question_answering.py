"""The span of a context that answers a question."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from transformers import BertForQuestionAnswering

from speechtext.errors import (
    ImpossibleRequestError,
    MalformedRequestError,
    RequestError,
    RequestTooLargeError,
)
from speechtext.text.explanation.targets import Explained
from speechtext.text.predictor import TextPredictor
from support.known_texts import (
    CONTEXT,
    ENDS,
    IDS,
    LONG,
    QUESTION,
    STARTS,
    VOCABULARY,
    Table,
    alike,
    answers,
    ask,
    ask_pipeline,
    close,
    finder,
    make_bert,
    make_predictor,
    pieces,
    read_to_explain,
    refusal,
    refused_target,
    table,
    targets_of,
    windows_of,
)


def softmax_among(logits: Sequence[float], allowed: Sequence[bool]) -> list[float]:
    chances = [math.exp(each) if here else 0.0 for each, here in zip(logits, allowed, strict=True)]
    return [each / sum(chances) for each in chances]


def reference_answers(
    model: Any,
    asked: Mapping[str, str],
    most: int,
    stride: int,
    top_k: int = 1,
    max_answer_len: int = 15,
    handle_impossible_answer: bool = False,
    align_to_words: bool = True,
    classifier: str = "first",
) -> Any:
    """Do what the pipeline of transformers 4.57 does: look at every span of every window."""
    windows = pieces(classifier=classifier)(
        asked["question"],
        asked["context"],
        truncation="only_second",
        max_length=most,
        stride=stride,
        return_overflowing_tokens=True,
    ).encodings
    count = top_k * 2 + 10 if align_to_words else top_k
    found: dict[str, dict[str, Any]] = {}
    none = math.inf
    for window in windows:
        inputs = {"input_ids": window.ids, "token_type_ids": window.type_ids}
        output = model(**{name: torch.tensor([ids]) for name, ids in inputs.items()})
        own = [each == 1 for each in window.sequence_ids]
        # What stands for having no answer may be chosen, too.
        special = [each == IDS["[CLS]"] for each in window.ids]
        allowed = [here or stands for here, stands in zip(own, special, strict=True)]
        starts = softmax_among(output.start_logits[0].tolist(), allowed)
        ends = softmax_among(output.end_logits[0].tolist(), allowed)
        place = special.index(True) if any(special) else None
        none = min(none, 0.0 if place is None else starts[place] * ends[place])
        places = [position for position, here in enumerate(own) if here]
        spans = [
            (starts[first] * ends[last], first, last)
            for first in places
            for last in places
            if first <= last < first + max_answer_len
        ]
        for score, first, last in sorted(spans, reverse=True)[:count]:
            start, end = window.offsets[first][0], window.offsets[last][1]
            if align_to_words:
                start = window.word_to_chars(window.word_ids[first], 1)[0]
                end = window.word_to_chars(window.word_ids[last], 1)[1]
            text = asked["context"][start:end]
            new = {"score": 0.0, "start": start, "end": end, "answer": text}
            found.setdefault(text.lower(), new)["score"] += score
    ranked = list(found.values())
    if handle_impossible_answer:
        ranked.append({"score": none, "start": 0, "end": 0, "answer": ""})
    ranked.sort(key=lambda each: -each["score"])
    return alike(ranked[0] if top_k == 1 else ranked[:top_k])


ASKED = [
    {"question": "who lives in Paris ?", "context": "Ljubljana Ljubljana ann Ann " + LONG[:50]},
    {"question": "where works Bob", "context": "Bob works in Ljubljana ."},
]


@pytest.fixture(scope="module")
def answering() -> Any:
    # Small weights: all spans are nearly as probable, and each one counts.
    return make_bert(BertForQuestionAnswering, spread=0.08)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 3},
        {"top_k": 3, "align_to_words": False},
        {"max_answer_len": 2, "top_k": 5},
        {"max_answer_len": 1},
        {"handle_impossible_answer": True, "top_k": 100},
    ],
)
@pytest.mark.parametrize(("most", "stride"), [(64, 8), (16, 4)])
def test_answers_are_those_of_transformers_4(
    options: dict[str, Any], most: int, stride: int, answering: Any
) -> None:
    predictor = make_predictor("question_answering", answering, {})
    payloads = [
        ask_pipeline(**each, max_seq_len=most, doc_stride=stride, **options) for each in ASKED
    ]
    expected = [reference_answers(answering, each, most, stride, **options) for each in ASKED]
    assert answers(predictor, *payloads) == expected


@pytest.mark.parametrize("classifier", ["last", "none"])
@pytest.mark.parametrize("none", [False, True])
def test_answers_compete_with_the_classifier_token_wherever_it_is(
    classifier: str, none: bool, answering: Any
) -> None:
    """XLNet's comes last, and T5 and Llama have none."""
    tokenizer = pieces(classifier=classifier)
    predictor = make_predictor("question_answering", answering, {}, tokenizer=tokenizer)
    options: dict[str, Any] = {"top_k": 100, "handle_impossible_answer": none}
    for most, stride in ((64, 8), (16, 4)):
        payloads = [
            ask_pipeline(**each, max_seq_len=most, doc_stride=stride, **options) for each in ASKED
        ]
        expected = [
            reference_answers(answering, each, most, stride, classifier=classifier, **options)
            for each in ASKED
        ]
        assert answers(predictor, *payloads) == expected


def test_settings_say_how_long_an_answer_is_and_whether_it_may_be_nothing(answering: Any) -> None:
    asked = {"question": "who ?", "context": LONG[:40]}
    keys: dict[str, Any] = {"max_answer_len": 2, "handle_impossible_answer": True}
    predictor = make_predictor("question_answering", answering, {}, **keys)
    expected = reference_answers(answering, asked, 150, 75, top_k=50, **keys)
    assert answers(predictor, ask_pipeline(**asked, top_k=50)) == [expected]
    assert "" in [each["answer"] for each in answers(predictor, ask_pipeline(**asked, top_k=50))[0]]
    other: dict[str, Any] = {"max_answer_len": 1, "handle_impossible_answer": False}
    expected = reference_answers(answering, asked, 150, 75, top_k=50, **other)
    assert answers(predictor, ask_pipeline(**asked, top_k=50, **other)) == [expected]


def test_what_a_model_gives_beside_the_two_ends_of_an_answer_is_left_alone() -> None:
    network = Table(table(STARTS), table(ENDS), table({}))
    assert answers(make_predictor("question_answering", network, {}), ask()) == ["Ljubljana"]


def test_plain_answers_are_the_words_alone() -> None:
    assert answers(finder(), ask(), ask(parameters={"top_k": 3})) == ["Ljubljana", "Ljubljana"]


@pytest.mark.parametrize(
    ("keys", "parameters", "most", "stride"),
    [
        # Windows share the half of their tokens, or 128, and no more than lets them move on.
        ({"max_length": 20}, {}, 20, 10),
        ({"max_length": 400}, {}, 400, 128),
        ({"max_length": 400, "positions": 30}, {}, 30, 15),
        ({"max_length": 40}, {"max_seq_len": 24}, 24, 12),
        ({"max_length": 20}, {"max_seq_len": 24}, 20, 10),
        ({"max_length": 20, "stride": 3}, {}, 20, 3),
        ({"max_length": 20, "stride": 3}, {"doc_stride": 5}, 20, 5),
        ({"max_length": 8}, {}, 8, 2),
    ],
)
def test_windows_over_a_context_are_those_of_the_tokenizer(
    keys: dict[str, Any], parameters: dict[str, Any], most: int, stride: int
) -> None:
    question, context = "who ?", LONG * 14
    expected = pieces()(
        question,
        context,
        truncation="only_second",
        max_length=most,
        stride=stride,
        return_overflowing_tokens=True,
    )["input_ids"]
    found = windows_of(finder(**keys), ask(question, context, parameters=parameters))
    assert found == expected


@pytest.mark.parametrize(
    ("keys", "parameters", "longest", "most"),
    [
        # The half of a window, what leaves room for a token of the context, or what is asked for.
        ({"max_length": 16}, {}, 8, 16),
        ({"max_length": 64, "positions": 6}, {}, 2, 6),
        ({"max_length": 64}, {"max_question_len": 3}, 3, 64),
        ({"max_length": 64}, {"max_seq_len": 8}, 4, 8),
    ],
)
def test_a_question_leaves_room_for_its_context(
    keys: dict[str, Any], parameters: dict[str, Any], longest: int, most: int
) -> None:
    predictor = finder(**keys)
    fits = ask("a " * longest, "Bob", parameters=parameters)
    assert windows_of(predictor, fits) == [
        [IDS["[CLS]"], *[IDS["a"]] * longest, IDS["[SEP]"], IDS["Bob"], IDS["[SEP]"]]
    ]
    error = refusal(predictor, ask("a " * (longest + 1), "Bob", parameters=parameters))
    assert isinstance(error, RequestTooLargeError)
    assert error.message == (
        f"Expected at most {longest} tokens in question, in windows of {most}, got {longest + 1}."
    )


def test_a_context_without_words_is_malformed() -> None:
    error = refusal(finder(), ask(context="\u200b"))
    assert isinstance(error, MalformedRequestError)
    assert error.kind == "EmptyContext"
    assert error.message == "Expected words in context, got none."


def test_windows_of_a_context_move_on() -> None:
    asked = ask(parameters={"doc_stride": 12, "max_seq_len": 20})
    assert len(windows_of(finder(), asked)) == 1
    asked["parameters"]["doc_stride"] = 13
    error = refusal(finder(), asked)
    assert error.message == "Expected the stride to be at most 12 of a window's 15 tokens, got 13."


def chance(scores: Mapping[str, float], piece: str, context: Sequence[str]) -> Any:
    """Return the probability of a piece among those of a context and the window's first token."""
    logits = [0.0, *(scores.get(each, 0.0) for each in context)]
    return close(math.exp(scores.get(piece, 0.0)) / sum(map(math.exp, logits)))


PIECES = ["Bob", "lives", "in", "Lj", "##ub", "##lj", "##ana", "."]


def test_the_start_and_the_end_of_an_answer_are_explained() -> None:
    start, end = targets_of(finder(), ask())
    assert (start.head, start.logit_index) == (0, 8)
    assert (end.head, end.logit_index) == (1, 9)
    assert start.probability == chance(STARTS, "##ub", PIECES)
    assert end.probability == chance(ENDS, "##lj", PIECES)
    assert start.about == {"start": 13, "end": 22, "side": "start"}
    assert end.about == {"start": 13, "end": 22, "side": "end"}
    for target in (start, end):
        assert target.name == "Ljubljana"
        assert [*target.window.positions] == list(range(13))
        assert target.explained == [False, True, True, False, *[True] * 8, False]


@pytest.mark.parametrize(
    ("asked", "first", "last", "characters"),
    [
        ({"start": 0, "end": 3}, 4, 4, (0, 3)),
        ({"end": 3}, 4, 4, (0, 3)),
        ({"end": 1}, 4, 4, (0, 3)),
        ({"start": 13, "end": 15}, 7, 7, (13, 15)),
        # Tokens whose characters are asked for in part belong to it as a whole.
        ({"start": 14, "end": 16}, 7, 8, (13, 17)),
        ({"start": 3, "end": 24}, 5, 11, (4, 24)),
        # A number never meant anything.
        (7, 8, 9, (13, 22)),
    ],
)
def test_the_characters_of_an_answer_are_explained_where_they_are_asked_for(
    asked: Any, first: int, last: int, characters: tuple[int, int]
) -> None:
    start, end = targets_of(finder(), ask(target=asked))
    assert (start.head, start.logit_index, end.head, end.logit_index) == (0, first, 1, last)
    assert start.name == end.name == CONTEXT[slice(*characters)]
    assert (start.about["start"], start.about["end"]) == characters
    assert start.probability == chance(STARTS, PIECES[first - 4], PIECES)
    assert end.probability == chance(ENDS, PIECES[last - 4], PIECES)


@pytest.mark.parametrize(
    "asked",
    [
        {"start": 3, "end": 4},
        {"start": 3, "end": 3},
        {"start": 14, "end": 14},
        {"start": 5, "end": 4},
        {"start": 0, "end": 25},
        {"start": -1, "end": 3},
        {"start": 0},
        {"start": 0, "end": "3"},
        {"start": 0.0, "end": 3},
        {"start": False, "end": True},
        {},
        [0, 3],
        "Bob",
        True,
    ],
)
def test_characters_without_words_are_refused(asked: Any) -> None:
    error = refused_target(finder(), ask(target=asked))
    assert isinstance(error, ImpossibleRequestError)
    assert error.kind == "UnknownTarget"
    assert error.message == (
        "Expected target to be an object with start and end, characters of words within the "
        "context's 24."
    )


def test_what_is_explained_is_in_the_window_that_has_it() -> None:
    context = "Bob lives in Paris . Ann works in Ljubljana . Bob lives in Paris ."
    keys = {"max_length": 12, "stride": 2}
    start, end = targets_of(finder(**keys), ask(context=context))
    positions = (start.window.positions[start.logit_index], end.window.positions[end.logit_index])
    assert [VOCABULARY[start.window.tokens.ids[each]] for each in positions] == ["##ub", "##lj"]
    assert start.window is end.window
    # The first "Bob", and the last, which is in another window.
    for place in (0, context.rindex("Bob")):
        start, _ = targets_of(
            finder(**keys), ask(context=context, target={"start": place, "end": place + 3})
        )
        position = start.window.positions[start.logit_index]
        assert start.window.tokens.offsets[position] == (place, place + 3)
    short = ask(context=context, parameters={"max_answer_len": 1})
    start, end = targets_of(finder(**keys), short)
    assert start.logit_index == end.logit_index


def test_characters_are_explained_in_the_window_that_has_most_of_them() -> None:
    context = " ".join(["Bob lives in Paris ."] * 6)
    predictor = finder(max_length=16, stride=4)
    places = [each for each, letter in enumerate(context) if letter == "P"]
    for place in places:
        asked = {"start": place - 9, "end": place + 5}
        start, end = targets_of(predictor, ask(context=context, target=asked))
        assert start.name == "lives in Paris"
        assert (start.about["start"], start.about["end"]) == (place - 9, place + 5)
        assert end.logit_index == start.logit_index + 2
    # Of more than a window has, it is all of one.
    start, end = targets_of(predictor, ask(context=context, target={"start": 0, "end": 120}))
    assert end.logit_index - start.logit_index == len(start.window) - 5 - 1


@pytest.mark.parametrize(
    "options",
    [{}, {"top_k": 5}, {"align_to_words": False}, {"max_answer_len": 2}, {"max_seq_len": 16}],
)
def test_the_answer_that_is_given_is_explained(options: dict[str, Any], answering: Any) -> None:
    """Spans that read the same are one answer, which may be none of the most probable span."""
    predictor = make_predictor("question_answering", answering, {}, captum_explanation=True)
    words, others = ["Ann", "Bob", "ann", "lives", "in", "Paris", "Ljubljana", "."], 0
    for seed in range(40):
        chance = random.Random(seed)
        payload = ask_pipeline("who ?", " ".join(chance.choices(words, k=30)), **options)
        given = answers(predictor, payload)[0]
        best = given[0] if isinstance(given, list) else given
        start, end = targets_of(predictor, payload)
        assert start.name == end.name == best["answer"]
        assert (start.about["start"], start.about["end"]) == (best["start"], best["end"])
        assert start.probability is not None and end.probability is not None
        joint = start.probability * end.probability
        others += best["score"] != close(joint)
        assert joint <= best["score"] * 1.0001
    # A single span of each window is no sum of others.
    assert (others > 0) == options.get("align_to_words", True)


def test_no_answer_is_explained_by_the_classifier_token_that_comes_last() -> None:
    network = Table(table(STARTS | {"[CLS]": 5.0}), table(ENDS | {"[CLS]": 4.0}))
    keys: dict[str, Any] = {"handle_impossible_answer": True, "captum_explanation": True}
    tokenizer = pieces(classifier="last")
    predictor = make_predictor("question_answering", network, {}, tokenizer=tokenizer, **keys)
    (given,) = answers(predictor, ask_pipeline(QUESTION, CONTEXT))
    start, end = targets_of(predictor, ask())
    assert (given["answer"], start.name, end.name) == ("", "", "")
    last = len(start.window) - 1
    assert (start.logit_index, end.logit_index) == (last, last)
    assert start.window.tokens.ids[last] == IDS["[CLS]"]
    assert start.probability is not None and end.probability is not None
    assert given["score"] == close(start.probability * end.probability)
    # The classifier token among those of the context.
    chances = [
        softmax_among([found, *(scores.get(each, 0.0) for each in PIECES)], [True] * 9)[0]
        for scores, found in ((STARTS, 5.0), (ENDS, 4.0))
    ]
    assert [start.probability, end.probability] == [close(each) for each in chances]


def test_no_answer_is_explained_by_the_first_token() -> None:
    starts, ends = STARTS | {"[CLS]": 5.0}, ENDS | {"[CLS]": 4.0}
    keys: dict[str, Any] = {"handle_impossible_answer": True, "captum_explanation": True}
    network = Table(table(starts), table(ends))
    # The second window has nothing that looks like an answer, and the first is least sure.
    context = f"{CONTEXT} {'. ' * 12}"
    predictor = make_predictor("question_answering", network, {}, max_length=16, stride=4, **keys)
    (given,) = answers(predictor, ask_pipeline(QUESTION, context))
    assert (given["answer"], given["start"], given["end"]) == ("", 0, 0)
    start, end = targets_of(predictor, ask(context=context))
    assert (start.head, start.logit_index, end.head, end.logit_index) == (0, 0, 1, 0)
    assert start.window is end.window
    assert [*start.window.positions][:5] == list(range(5))
    assert start.name == end.name == ""
    assert start.about == {"start": 0, "end": 0, "side": "start"}
    assert start.probability is not None and end.probability is not None
    first = [VOCABULARY[each] for each in start.window.pick(start.window.tokens.ids)]
    own = [first[0], *first[4:-1]]
    chances = [
        softmax_among([scores.get(each, 0.0) for each in own], [True] * len(own))[0]
        for scores in (starts, ends)
    ]
    assert [start.probability, end.probability] == [close(each) for each in chances]
    assert given["score"] == close(chances[0] * chances[1])


def test_an_explanation_tells_of_the_start_and_the_end() -> None:
    predictor = finder()
    start, end = targets_of(predictor, ask())
    told = predictor.task.describe(
        read_to_explain(predictor, ask()),
        [
            Explained(start, [1.0, 2.0], 0.5, 20, {"sufficiency": 0.1}),
            Explained(end, [3.0, 4.0], 0.25, 40, {"sufficiency": 0.2}),
        ],
    )
    assert told == {
        "answer": "Ljubljana",
        "start": 13,
        "end": 22,
        "probability_start": start.probability,
        "probability_end": end.probability,
        "n_steps": 40,
        "importances_answer_start": [1.0, 2.0],
        "importances_answer_end": [3.0, 4.0],
        "delta_start": 0.5,
        "delta_end": 0.25,
        "sufficiency_start": 0.1,
        "sufficiency_end": 0.2,
    }


def test_a_model_of_questions_is_tried_with_as_many_answers_as_may_be() -> None:
    assert finder().task.sample(3) == {
        "inputs": {"question": "a", "context": "a a a"},
        "parameters": {"top_k": 100},
    }


def adopt(predictor: TextPredictor, *texts: str) -> Any:
    """Return a batch of a question and its context, encoded elsewhere, with padding behind."""
    ids = [*pieces()(*texts)["input_ids"], 0, 0]
    mask = [1] * (len(ids) - 2) + [0, 0]
    return predictor.task.adopt(torch.tensor([ids]), torch.tensor([mask]))


def test_answers_in_windows_that_were_encoded_elsewhere_are_told_by_their_tokens() -> None:
    predictor = finder()
    batch = adopt(predictor, QUESTION, CONTEXT)
    (answer,) = predictor.task.answer(batch)
    # There are no words to align the answer to.
    assert answer.content == pieces().decode([IDS["##ub"], IDS["##lj"]])
    (found,) = predictor.task.find_targets(batch)
    assert not isinstance(found, RequestError)
    start, end = found
    assert (start.logit_index, end.logit_index) == (8, 9)
    assert start.name == end.name == answer.content
    assert start.about == {"start": 0, "end": 0, "side": "start"}
    short = finder(max_answer_len=1)
    (answer,) = short.task.answer(adopt(short, QUESTION, CONTEXT))
    assert answer.content in ("##ub", "##lj")
