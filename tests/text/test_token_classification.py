"""The labels of a text's tokens, and its entities."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import pre_tokenizers
from tokenizers.models import BPE, WordLevel
from transformers import BertForTokenClassification
from transformers.pipelines.token_classification import TokenClassificationPipeline

from speechtext.allowance import allow
from speechtext.errors import DeadlineError, ImpossibleRequestError, RequestTooLargeError
from speechtext.text.explanation.targets import Explained, Target
from speechtext.text.predictor import TextPredictor
from speechtext.text.tokens import Tokens
from support.known_texts import (
    IDS,
    LONG,
    PAIRS,
    TEXT,
    Table,
    alike,
    answers,
    close,
    make_bert,
    make_predictor,
    make_tokenizer,
    pieces,
    read_to_explain,
    refusal,
    refused_target,
    table,
    targets_of,
)

MARKS = {
    "Ann": [0.0, 2.0, 1.0, 0.0],
    "Bob": [1.0, 1.5, 0.0, 0.0],
    "Lj": [0.0, 0.0, 2.0, 1.0],
    "##ub": [0.0, 0.0, 0.0, 3.0],
    "##lj": [0.0, 1.0, 0.0, 2.0],
    "##ana": [0.5, 0.0, 0.0, 1.0],
    "ð": [0.0, 2.0, 0.0, 0.0],
    "Ł": [0.0, 0.0, 3.0, 0.0],
    "Ļ": [0.0, 0.0, 0.0, 1.0],
}


def marker(tokenizer: Any = None, **keys: Any) -> TextPredictor:
    """Return a predictor that knows two names and a town."""
    network = Table(table(MARKS, [2.0, 0.0, 0.0, 0.0]))
    return make_predictor(
        "token_classification", network, tokenizer=tokenizer, captum_explanation=True, **keys
    )


def reference_tokens(
    model: Any, text: str, length: int, stride: int
) -> dict[tuple[int, int], torch.Tensor]:
    """Return the logits of each token of a text, by its characters.

    Of all windows, it is taken from the one that has most tokens beside it on either side.
    """
    tokenizer = pieces()
    windows = tokenizer(
        text, truncation=True, max_length=length, stride=stride, return_overflowing_tokens=True
    ).encodings
    best: dict[tuple[int, int], tuple[int, torch.Tensor]] = {}
    for number, window in enumerate(windows):
        logits = model(torch.tensor([window.ids])).logits[0].detach()
        last = len(window.ids) - 2
        for position in range(1, last + 1):
            before = 999 if number == 0 else position - 1
            behind = 999 if number == len(windows) - 1 else last - position
            key = window.offsets[position]
            if key not in best or min(before, behind) > best[key][0]:
                best[key] = min(before, behind), logits[position]
    return {key: value for key, (_, value) in best.items()}


@pytest.fixture(scope="module")
def bert() -> Any:
    return make_bert(BertForTokenClassification, id2label=PAIRS)


@pytest.mark.parametrize(
    ("keys", "parameters", "stride"),
    [
        # Neighbours share a quarter of their room of 10, what the YAML says, or the request.
        ({}, {}, 2),
        ({"stride": 4}, {}, 4),
        ({"stride": 4}, {"stride": 3, "aggregation_strategy": "simple"}, 3),
    ],
)
def test_long_texts_get_the_labels_of_the_windows_that_see_most(
    keys: dict[str, Any], parameters: dict[str, Any], stride: int, bert: Any
) -> None:
    predictor = make_predictor("token_classification", bert, max_length=12, **keys)
    expected = reference_tokens(bert, LONG, 12, stride)
    names = pieces().tokenize(LONG)
    labels = [PAIRS[int(logits.argmax())] for logits in expected.values()]
    assert len(set(labels)) > 2
    payload = {"text": LONG, "parameters": parameters}
    pairs = [[name, label] for name, label in zip(names, labels, strict=True)]
    assert answers(predictor, payload) == [pairs]
    if not parameters:
        payload = {"inputs": LONG, "parameters": {"ignore_labels": []}}
        (found,) = answers(predictor, payload)
        assert found == [
            {
                "entity": label,
                "score": close(float(logits.softmax(dim=0).max())),
                "index": index,
                "word": name,
                "start": place[0],
                "end": place[1],
            }
            for index, (name, label, (place, logits)) in enumerate(
                zip(names, labels, expected.items(), strict=True), start=1
            )
        ]


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_entities_of_a_text_are_the_pipelines(strategy: str, bert: Any) -> None:
    predictor = make_predictor("token_classification", bert)
    reference: Any = TokenClassificationPipeline(model=bert, tokenizer=pieces())
    for ignored in (None, [], ["LOC", "B-PER"]):
        parameters = {"aggregation_strategy": strategy, "ignore_labels": ignored}
        # One of the words is unknown.
        for text in (LONG, "Ann Paris ana Ljublj. Zoe"):
            expected = alike(reference(text, **parameters))
            payload = {"inputs": text, "parameters": parameters}
            assert answers(predictor, payload) == [expected]


@pytest.mark.parametrize("strategy", ["simple", "first"])
@pytest.mark.parametrize("text", [LONG, "Bob works in Ljubljana . Ann lives in Paris .", TEXT])
def test_entities_of_windows_are_the_pipelines_where_a_stride_is_asked_for(
    strategy: str, text: str, bert: Any
) -> None:
    predictor = make_predictor("token_classification", bert, max_length=12)
    choices: list[list[str] | None] = [None, []]
    for ignored in choices:
        parameters = {"aggregation_strategy": strategy, "stride": 5, "ignore_labels": ignored}
        reference: Any = TokenClassificationPipeline(model=bert, tokenizer=pieces(12), **parameters)
        payload = {"inputs": text, "parameters": parameters}
        assert answers(predictor, payload) == [alike(reference(text))]


class Counted(list[Any]):
    """A list that counts what is read of it."""

    read = 0

    def __getitem__(self, place: Any) -> Any:
        self.read += 1
        return super().__getitem__(place)

    def __iter__(self) -> Iterator[Any]:
        self.read += len(self)
        return super().__iter__()


@pytest.mark.parametrize("strategy", ["simple", "max"])
def test_of_a_window_that_comes_alone_no_other_tokens_are_read(strategy: str) -> None:
    """A long text has thousands of windows, and each one is decoded by itself."""
    predictor = marker(max_length=12)
    parameters = {"aggregation_strategy": strategy, "stride": 5, "ignore_labels": []}
    example = predictor.read({"inputs": LONG * 20, "parameters": parameters})
    batch = predictor.task.encode([example])
    of_all = batch.windows[0].tokens
    ids, offsets = Counted(of_all.ids), Counted(of_all.offsets)
    sequences = Counted(of_all.sequences)
    tokens = Tokens(ids, of_all.type_ids, sequences, of_all.words, offsets)
    windows = [replace(each, tokens=tokens) for each in batch.windows]
    assert len(ids) > 500 and len(windows) > 100
    found = predictor.task.answer(replace(batch, windows=windows))[0].content
    assert found == answers(predictor, {"inputs": LONG * 20, "parameters": parameters})[0]
    # Each token of a window, of 12, some times; never all of the text's for each window.
    for each in (ids, sequences, offsets):
        assert 0 < each.read <= 3 * 12 * len(windows)


def test_windows_are_decoded_within_their_time() -> None:
    predictor = marker(max_length=12)
    parameters = {"aggregation_strategy": "simple", "stride": 5}
    example = predictor.read({"inputs": LONG, "parameters": parameters})
    task: Any = predictor.task
    scored = task.score(task.encode([example]))
    assert len(task.decode(example, scored)) > 0
    with allow(0.0), pytest.raises(DeadlineError):
        task.decode(example, scored)


def pipeline_of(predictor: TextPredictor) -> Any:
    """Return the pipeline of a predictor's network, which is none of transformers' own."""
    model = make_bert(BertForTokenClassification, id2label=PAIRS)
    model.forward = lambda input_ids, **_: predictor.task.model.network(input_ids)
    return TokenClassificationPipeline(model=model, tokenizer=predictor.task.tokenizer)


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize(
    "text",
    [
        ".Ann Bob",
        "Paris .Ann.Bob?Ann Zoe .Zoe Ann",
        "a Ann.",
        " Ann .Bob",
        "Paris. Ann? Bob",
        "Ann.a Bob",
    ],
)
def test_without_marks_a_piece_continues_a_word_where_no_space_is_before_it(text: str) -> None:
    predictor = marker(make_tokenizer(WordLevel(IDS, unk_token="[UNK]")))  # noqa: S106
    parameters = {"aggregation_strategy": "max", "ignore_labels": []}
    expected = pipeline_of(predictor)(text, **parameters)
    payload = {"inputs": text, "parameters": parameters}
    assert answers(predictor, payload) == [alike(expected)]


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", ["simple", "max"])
def test_pieces_of_one_character_are_those_of_the_pipeline(strategy: str) -> None:
    """An emoji's bytes are a token each, all of the same character, and of several kinds."""
    tokenizer = make_tokenizer(BPE(IDS, [], unk_token="[UNK]"))  # noqa: S106
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    predictor = marker(tokenizer)
    parameters = {"aggregation_strategy": strategy, "ignore_labels": []}
    expected = alike(pipeline_of(predictor)("🙂", **parameters))
    assert len(expected) > 1
    payload = {"inputs": "🙂", "parameters": {**parameters, "stride": 0}}
    assert answers(predictor, payload) == [expected]


def test_a_text_without_tokens_has_no_labels_and_no_entities() -> None:
    assert answers(marker(), "\u200b", {"inputs": "\u200b"}) == [[], []]


def test_a_stride_needs_a_strategy_that_makes_entities() -> None:
    payload: dict[str, Any] = {"inputs": TEXT, "parameters": {"stride": 0}}
    with pytest.raises(ImpossibleRequestError) as caught:
        marker().read(payload)
    assert caught.value.kind == "InvalidParameter"
    assert caught.value.message == (
        "Expected aggregation_strategy to be other than none with a stride, got none."
    )
    payload["parameters"]["aggregation_strategy"] = "max"
    assert marker().read(payload).parameters.stride == 0


def test_entities_may_share_no_more_than_lets_windows_move_on() -> None:
    parameters = {"stride": 9, "aggregation_strategy": "max"}
    error = refusal(marker(max_length=12), {"inputs": LONG, "parameters": parameters})
    assert error.message == ("Expected the stride to be at most 8 of a window's 10 tokens, got 9.")


def probability_of(piece: str, label: int) -> Any:
    return close(float(torch.tensor(MARKS[piece]).softmax(dim=0)[label]))


def test_each_entity_is_explained_by_the_label_of_its_first_token() -> None:
    ann, town = targets_of(marker(), TEXT)
    assert (ann.head, ann.logit_index, ann.name) == (0, 1 * 4 + 1, "B-PER")
    assert ann.about == {"word": "Ann", "start": 0, "end": 3}
    assert ann.probability == probability_of("Ann", 1)
    assert (town.head, town.logit_index, town.name) == (0, 4 * 4 + 2, "B-LOC")
    assert town.about == {"word": "Ljubljana", "start": 13, "end": 22}
    assert town.probability == probability_of("Lj", 2)
    for target in (ann, town):
        assert [*target.window.positions] == list(range(10))
        assert target.explained == [False, *[True] * 8, False]
    assert [each.name for each in targets_of(marker(max_explanation_targets=1), TEXT)] == ["B-PER"]
    assert targets_of(marker(), "who works in") == []


@pytest.mark.parametrize(
    ("asked", "position", "label", "word", "place"),
    [
        ("Ann", 1, 1, "Ann", (0, 3)),
        ("lives in", 2, 0, "lives", (4, 9)),
        ("Lj", 4, 2, "Lj", (13, 15)),
        # The token that has the first of its characters.
        ("blj", 5, 3, "##ub", (15, 17)),
        ("ljana", 6, 3, "##lj", (17, 19)),
        (["##ub", "B-LOC"], 5, 2, "##ub", (15, 17)),
        (("ub", "O"), 5, 0, "##ub", (15, 17)),
        (["Ann", "I-LOC"], 1, 3, "Ann", (0, 3)),
        ([4, 3], 4, 3, "Lj", (13, 15)),
        ((0, 0), 0, 0, "[CLS]", (0, 0)),
        ([9, 3], 9, 3, "[SEP]", (0, 0)),
    ],
)
def test_a_label_of_a_token_is_explained_where_it_is_asked_for(
    asked: Any, position: int, label: int, word: str, place: tuple[int, int]
) -> None:
    predictor = marker()
    (target,) = targets_of(predictor, {"text": TEXT, "target": asked})
    assert (target.head, target.logit_index, target.name) == (0, position * 4 + label, PAIRS[label])
    shown = pieces().convert_tokens_to_string([word])
    assert target.about == {"word": shown, "start": place[0], "end": place[1]}
    row = predictor.task.model.network.tables[0][target.window.tokens.ids[position]]
    assert target.probability == close(float(row.softmax(dim=0)[label]))
    assert target.explained == [False, *[True] * 8, False]


@pytest.mark.parametrize(("text", "asked"), [("a Ann Ann", "Ann"), ("a Zoe", ["Zoe", "O"])])
def test_of_several_places_the_first_is_meant_and_unknown_words_are_told_as_written(
    text: str, asked: Any
) -> None:
    (target,) = targets_of(marker(), {"text": text, "target": asked})
    assert target.about == {"word": text[2:5], "start": 2, "end": 5}


@pytest.mark.parametrize(
    ("text", "asked", "place"),
    [
        ("Annie has Bob or Ann .", "Ann", (17, 20)),
        ("Bobby Bob, Ann", "Bob", (6, 9)),
        ("a.Ann_b Ann", "Ann", (8, 11)),
        ("Annie (Ann)", "Ann", (7, 10)),
        ("Annie lives in inn", "in", (12, 14)),
        ("a. b .", ".", (1, 2)),
        # There is none between others.
        ("Zoe Annie", "ie", (4, 9)),
        ("Zoe lives in", "s in", (4, 9)),
    ],
)
def test_a_word_is_looked_for_between_words_first(
    text: str, asked: str, place: tuple[int, int]
) -> None:
    (target,) = targets_of(marker(), {"text": text, "target": asked})
    assert (target.about["start"], target.about["end"]) == place


@pytest.mark.parametrize(
    "asked",
    [
        "Bob",
        ["Bob", "O"],
        ["Ann", "PER"],
        ["Ann", 1],
        ["Ann"],
        ["Ann", "O", "O"],
        [1, 2, 3],
        [10, 0],
        [-1, 0],
        [1, 4],
        [1, -1],
        [True, 1],
        5,
        "",
        " ",
        {"Ann": "O", "Bob": "O"},
    ],
)
def test_a_label_or_token_that_is_not_there_is_refused(asked: Any) -> None:
    error = refused_target(marker(), {"text": TEXT, "target": asked})
    assert isinstance(error, ImpossibleRequestError)
    assert error.kind == "UnknownTarget"
    assert error.message == (
        "Expected target to be a word of the text, a pair of one of its tokens and one of "
        "O, B-PER, B-LOC, I-LOC, or a pair of the index of a token below 10 and that of a label "
        "below 4."
    )


def test_a_text_of_several_windows_has_no_labels_to_explain() -> None:
    error = refused_target(marker(max_length=9), TEXT)
    assert isinstance(error, RequestTooLargeError)
    assert error.message == "Expected at most 9 tokens in a text to explain, got 10."
    assert len(targets_of(marker(max_length=10), TEXT)) == 2


def explain_by_hand(target: Target, deltas: float, n_steps: int) -> Explained:
    return Explained(target, [0.25, 0.75], deltas, n_steps, {"sufficiency": deltas + 1})


def test_an_explanation_tells_of_each_entity_or_of_the_target_asked_for() -> None:
    predictor = marker()
    every = [explain_by_hand(each, 0.5, 20) for each in targets_of(predictor, TEXT)]
    entity = {
        "target": "B-PER",
        "probability": probability_of("Ann", 1),
        "word": "Ann",
        "start": 0,
        "end": 3,
        "n_steps": 20,
        "sufficiency": 1.5,
        "importances": [0.25, 0.75],
        "delta": 0.5,
    }
    told = predictor.task.describe(read_to_explain(predictor, TEXT), every)
    assert list(told) == ["entities"]
    assert told["entities"][0] == entity
    assert [each["word"] for each in told["entities"]] == ["Ann", "Ljubljana"]
    example = read_to_explain(predictor, {"text": TEXT, "target": "Ann"})
    assert predictor.task.describe(example, every[:1]) == entity


def test_a_model_of_labels_is_tried_with_a_label_of_its_first_word() -> None:
    predictor = marker()
    sample = predictor.task.sample(3)
    assert sample == {"inputs": {"text": "a a a", "target": [1, 0]}}
    (target,) = targets_of(predictor, sample)
    assert target.about == {"word": "a", "start": 0, "end": 1}
