"""Tasks that read a text once, called through the library: answers, targets and what is refused.

Small networks whose scores are known are asked where the answer can be worked out, and BERTs of
random weights beside transformers itself.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordLevel, WordPiece
from torch._dynamo.eval_frame import OptimizedModule
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)
from transformers.pipelines.text_classification import TextClassificationPipeline
from transformers.pipelines.token_classification import TokenClassificationPipeline

from speechtext.allowance import allow
from speechtext.errors import (
    DeadlineError,
    ImpossibleRequestError,
    MalformedRequestError,
    RequestError,
    RequestTooLargeError,
)
from speechtext.text.base import LoadedModel, TextCosts
from speechtext.text.explanation.targets import Explained, Target
from speechtext.text.loading import CompileSettings
from speechtext.text.payloads import Example
from speechtext.text.predictor import TextPredictor
from speechtext.text.sampling import TokenEvent
from speechtext.text.settings import TextSettings
from speechtext.text.tasks import find_task
from speechtext.text.tokens import Tokens
from speechtext.text.windows import EncodedBatch, find_input_names

CPU = torch.device("cpu")
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
}
WORDS = ["Ann", "Bob", "works", "lives", "in", "Paris", "who", "where", "a", ".", "?", "good"]
# The four bytes of "🙂", as tokenizers of bytes write them.
EMOJI = ["ð", "Ł", "Ļ", "Ĥ"]
# "Ljubljana" is Lj, ub, lj and ana.
VOCABULARY = [*SPECIAL.values(), *WORDS, "Lj", "##ub", "##lj", "##ana", *EMOJI]
IDS = {piece: index for index, piece in enumerate(VOCABULARY)}
PAIRS = {0: "O", 1: "B-PER", 2: "B-LOC", 3: "I-LOC"}
TEXT = "Ann lives in Ljubljana."
LONG = "Bob works in Ljubljana . Ann lives in Paris . where lives Bob ? " * 2


# How tokenizers frame a text and a pair of texts: BERT's, XLNet's and T5's.
FRAMES = {
    "first": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "last": ("$A [SEP] [CLS]", "$A [SEP] $B:1 [SEP]:1 [CLS]:1"),
    "none": ("$A [SEP]", "$A [SEP] $B:1 [SEP]:1"),
}


def make_tokenizer(model: Any, length: int = 512, classifier: str = "first") -> Any:
    """Return a tokenizer that frames texts as BERT's does, or as `FRAMES` has the classifier."""
    backend = Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        *FRAMES[classifier], [(name, IDS[name]) for name in ("[CLS]", "[SEP]")]
    )
    special = {
        name: token
        for name, token in SPECIAL.items()
        if name != "cls_token" or classifier != "none"
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=length,
        **special,
    )


def pieces(length: int = 512, classifier: str = "first") -> Any:
    return make_tokenizer(WordPiece(IDS, unk_token="[UNK]"), length, classifier)  # noqa: S106


def make_bert(model_class: Any, spread: float = 0.2, **keys: Any) -> Any:
    """Return a tiny BERT whose weights are drawn from a normal distribution."""
    sizes: dict[str, Any] = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    torch.manual_seed(3)
    model = model_class(BertConfig(**sizes, **keys)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=spread)
    return model


class Table(torch.nn.Module):
    """Gives each token what tables say of its id, shape (tokens, ...), whatever stands beside it.

    Says it of the first word alone, for the whole row, where `first` is true.
    """

    def __init__(self, *tables: torch.Tensor, first: bool = False) -> None:
        super().__init__()
        self.tables, self.first = tables, first

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ids = input_ids[:, 1] if self.first else input_ids
        return tuple(table[ids] for table in self.tables)


def table(scores: Mapping[str, Any], other: Any = 0.0) -> torch.Tensor:
    """Return the scores of each piece of the vocabulary, `other` for those not named."""
    return torch.tensor([scores.get(piece, other) for piece in VOCABULARY], dtype=torch.float32)


def make_predictor(
    mode: str,
    network: Any,
    labels: Mapping[int, str] = PAIRS,
    config: Any = None,
    positions: int = 512,
    tokenizer: Any = None,
    **keys: Any,
) -> TextPredictor:
    tokenizer = tokenizer or pieces()
    names = find_input_names(network, tokenizer)
    loaded = LoadedModel(network, tokenizer, config, labels, CPU, positions, names)
    return TextPredictor(find_task(mode)(loaded, TextSettings(mode=mode, **keys)), None)


def answers(predictor: TextPredictor, *payloads: Any, hub_client: bool = False) -> list[Any]:
    """Return what payloads are answered, which none is refused."""
    form = {"hub_client": True} if hub_client else {}
    found = predictor.answer([predictor.read(each, **form) for each in payloads])
    contents = []
    for each in found:
        assert not isinstance(each, RequestError), each
        contents.append(each.content)
    return contents


def read_to_explain(predictor: TextPredictor, payload: Any) -> Example:
    """Return the example of a request for an explanation."""
    return predictor.read(payload, explain=True)


def targets_of(predictor: TextPredictor, payload: Any) -> list[Target]:
    task = predictor.task
    (found,) = task.find_targets(task.encode([read_to_explain(predictor, payload)]))
    assert not isinstance(found, RequestError), found
    return found


def refused_target(predictor: TextPredictor, payload: Any) -> RequestError:
    task = predictor.task
    (found,) = task.find_targets(task.encode([read_to_explain(predictor, payload)]))
    assert isinstance(found, RequestError), found
    return found


def refusal(predictor: TextPredictor, payload: Any) -> RequestError:
    (found,) = predictor.answer([predictor.read(payload)])
    assert isinstance(found, RequestError), found
    return found


def windows_of(predictor: TextPredictor, payload: Any) -> list[list[int]]:
    """Return the ids of the tokens of each window of a payload."""
    batch = predictor.task.encode([predictor.read(payload)])
    return [window.pick(window.tokens.ids) for window in batch.windows]


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-4, abs=1e-6)


def alike(expected: Any) -> Any:
    """Return what equals the answer of a pipeline but for rounding of its scores."""
    if isinstance(expected, list):
        return [alike(each) for each in expected]
    score = close(float(expected["score"]))
    return {name: score if name == "score" else value for name, value in expected.items()}


# A text's class.

CLASSES = {0: "bad", 1: "good", 2: "fair"}
LOGITS = {"Ann": [0.5, 2.0, 0.0], "Bob": [0.1, -0.5, -1.0], "good": [0.0, -1.0, 0.0]}


def classifier(problem: str | None = None, labels: int = 3) -> TextPredictor:
    """Return a predictor whose logits are those of the text's first word."""
    names = {index: CLASSES[index] for index in range(labels)}
    config: Any = BertConfig()
    config.problem_type, config.num_labels = problem, labels
    logits = table(LOGITS, [0.0] * 3)[:, :labels]
    return make_predictor(
        "sequence_classification",
        Table(logits, first=True),
        names,
        config,
        captum_explanation=True,
    )


@pytest.mark.parametrize(
    ("problem", "labels", "expected"),
    [
        (None, 3, ["good", "bad", "bad"]),
        ("single_label_classification", 3, ["good", "bad", "bad"]),
        # A label holds from a probability of a half on.
        ("multi_label_classification", 3, [["bad", "good", "fair"], ["bad"], ["bad", "fair"]]),
        ("regression", 1, [0.5, close(0.1), 0.0]),
        ("regression", 2, [[0.5, 2.0], [close(0.1), -0.5], [0.0, -1.0]]),
        (None, 1, ["bad", "bad", "bad"]),
        ("multi_label_classification", 1, [["bad"], ["bad"], ["bad"]]),
    ],
)
def test_plain_classes_suit_the_models_problem(
    problem: str | None, labels: int, expected: list[Any]
) -> None:
    found = answers(classifier(problem, labels), "Ann works", "Bob works", "good")
    assert found == expected
    assert type(found[0]) is type(expected[0])


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        ("single_label_classification", 3),
        ("multi_label_classification", 3),
        ("regression", 1),
        ("regression", 2),
        (None, 1),
        (None, 2),
    ],
)
def test_ranked_classes_are_the_pipelines(problem: str | None, labels: int) -> None:
    model = make_bert(BertForSequenceClassification, num_labels=labels, problem_type=problem)
    names = model.config.id2label
    predictor = make_predictor("sequence_classification", model, names, model.config)
    reference: Any = TextClassificationPipeline(model=model, tokenizer=pieces())
    texts: list[Any] = [TEXT, {"text": "who works in Paris", "text_pair": "Bob works ."}]
    for top_k in (1, None, 2):
        for function in (None, "sigmoid", "softmax", "none"):
            chosen = {} if function is None else {"function_to_apply": function}
            parameters: dict[str, Any] = {"top_k": top_k, **chosen}
            payloads = [{"inputs": text, "parameters": parameters} for text in texts]
            expected = [reference(text, **parameters) for text in texts]
            assert answers(predictor, *payloads) == alike(expected), parameters


def test_the_hub_client_gets_one_more_list_around_its_classes() -> None:
    predictor = classifier()
    payload = {"inputs": "Ann", "parameters": {"top_k": 2, "function_to_apply": "none"}}
    ranked = [{"label": "good", "score": 2.0}, {"label": "bad", "score": 0.5}]
    assert answers(predictor, payload) == [ranked]
    assert answers(predictor, payload, hub_client=True) == [[ranked]]


@pytest.mark.parametrize(
    ("asked", "index", "about"),
    [
        (None, 1, {}),
        (0, 0, {"prediction": "good"}),
        ("2", 2, {"prediction": "good"}),
        ("good", 1, {"prediction": "good"}),
    ],
)
def test_a_class_is_explained_by_name_or_index_else_the_predicted_one(
    asked: Any, index: int, about: dict[str, str]
) -> None:
    (target,) = targets_of(classifier(), {"text": "Ann works .", "target": asked})
    probability = float(torch.tensor(LOGITS["Ann"]).softmax(dim=0)[index])
    assert [*target.window.positions] == list(range(5))
    assert (target.head, target.logit_index, target.name) == (0, index, CLASSES[index])
    assert target.explained == [False, True, True, True, False]
    assert target.probability == close(probability)
    assert target.about == about


@pytest.mark.parametrize(
    ("problem", "labels", "probability"),
    [
        ("regression", 1, None),
        ("multi_label_classification", 3, 1 / (1 + math.exp(-0.5))),
        (None, 1, 1 / (1 + math.exp(-0.5))),
    ],
)
def test_a_class_that_is_explained_has_the_probability_of_its_problem(
    problem: str | None, labels: int, probability: float | None
) -> None:
    (target,) = targets_of(classifier(problem, labels), {"text": "Ann", "target": 0})
    assert target.probability == (None if probability is None else close(probability))


@pytest.mark.parametrize(("asked", "index"), [(1, 1), (0, 0), ("1", 0), ("2", 1), ("0", 0)])
def test_a_number_is_an_index_and_a_text_a_name_where_there_is_such(asked: Any, index: int) -> None:
    labels = {0: "1", 1: "2", 2: "fair"}
    network = Table(table(LOGITS, [0.0] * 3), first=True)
    predictor = make_predictor(
        "sequence_classification", network, labels, BertConfig(), captum_explanation=True
    )
    (target,) = targets_of(predictor, {"text": "Ann", "target": asked})
    assert (target.logit_index, target.name) == (index, labels[index])


@pytest.mark.parametrize("asked", [3, -1, "Good", "", [1], 1.5, True])
def test_a_class_that_a_model_does_not_have_is_refused(asked: Any) -> None:
    error = refused_target(classifier(), {"text": "Ann", "target": asked})
    assert isinstance(error, ImpossibleRequestError)
    assert error.kind == "UnknownTarget"
    assert error.message == f"Expected target to be one of {CLASSES}, by index or name."


@pytest.mark.parametrize("texts", [("Ann works .",), ("Ann works", ".")])
def test_what_is_read_of_a_text_that_is_cut_is_explained(texts: tuple[str, ...]) -> None:
    network = Table(table(LOGITS, [0.0] * 3), first=True)
    keys: dict[str, Any] = {"config": BertConfig(), "captum_explanation": True}
    frame = 1 + len(texts)
    short, fitting = (
        make_predictor("sequence_classification", network, CLASSES, positions=most, **keys)
        for most in (frame + 2, frame + 3)
    )
    payload = dict(zip(("text", "text_pair"), texts, strict=False))
    assert answers(short, payload) == answers(fitting, payload) == ["good"]
    for predictor, dropped in ((short, 1), (fitting, 0)):
        (target,) = targets_of(predictor, payload)
        assert target.window.dropped_tokens == dropped


# The labels of a text's tokens, and its entities.

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


# The span of a context that answers a question.

QUESTION, CONTEXT = "who ?", "Bob lives in Ljubljana ."
STARTS, ENDS = {"##ub": 3.0, "Bob": 1.0}, {"##lj": 3.0, "in": 1.0}


def ask(question: str = QUESTION, context: str = CONTEXT, **more: Any) -> dict[str, Any]:
    return {"question": question, "context": context, **more}


def ask_pipeline(question: str, context: str, **parameters: Any) -> dict[str, Any]:
    return {"inputs": {"question": question, "context": context}, "parameters": parameters}


def finder(**keys: Any) -> TextPredictor:
    """Return a predictor whose answers begin with "ub" and end with "lj", where there are such."""
    network = Table(table(STARTS), table(ENDS))
    return make_predictor("question_answering", network, {}, captum_explanation=True, **keys)


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


# A predictor: what it loads, and which examples it answers.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model of classes, beside it the same as a TorchScript file."""
    path = tmp_path_factory.mktemp("model")
    # Its configuration names no token to pad with.
    model = make_bert(BertForSequenceClassification, id2label=CLASSES, pad_token_id=None)
    model.save_pretrained(path)
    pieces().save_pretrained(path)

    class Scripted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = table(LOGITS, [0.0] * 3)

        def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.logits[input_ids[:, 1]],)

    torch.jit.script(Scripted()).save(path / "own.pt")
    return path


def class_logits(text: str) -> torch.Tensor:
    model = make_bert(BertForSequenceClassification, id2label=CLASSES)
    logits: torch.Tensor = model(**pieces()(text, return_tensors="pt")).logits[0].detach()
    return logits


def test_a_folder_is_loaded_for_its_task(folder: Path) -> None:
    predictor = TextPredictor.load(str(folder))
    texts = [TEXT, "Bob works .", "who lives in Paris ?"]
    payloads = [
        {"inputs": text, "parameters": {"top_k": None, "function_to_apply": "none"}}
        for text in texts
    ]
    for text, found in zip(texts, answers(predictor, *payloads), strict=True):
        scores = {each["label"]: each["score"] for each in found}
        assert scores == {CLASSES[i]: close(float(x)) for i, x in enumerate(class_logits(text))}
    costs = predictor.task.costs
    assert costs.character_s > 0
    assert costs.token_s > 0


def test_a_torchscript_file_is_loaded_by_its_name(folder: Path) -> None:
    settings = TextSettings(save_mode="torchscript")
    predictor = TextPredictor.load(folder, settings, file="own.pt")
    assert answers(predictor, "Ann works", "Bob works") == ["good", "bad"]


def test_a_model_is_compiled_as_the_settings_say(folder: Path) -> None:
    settings = CompileSettings(enable=True, backend="eager")
    # What is compiled runs as it was, without the time that tracing takes.
    with torch.compiler.set_stance("force_eager"):
        predictor = TextPredictor.load(folder, compile_settings=settings)
        assert isinstance(predictor.task.model.network, OptimizedModule)
        assert answers(predictor, TEXT) == [CLASSES[int(class_logits(TEXT).argmax())]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_explanations_are_complete(dtype: Any, folder: Path) -> None:
    predictor = TextPredictor.load(folder, TextSettings(captum_explanation=True, dtype=dtype))
    payload = {"text": TEXT, "parameters": {"n_steps": 100}}
    (found,) = predictor.explain([predictor.read(payload, explain=True)])
    assert not isinstance(found, RequestError)
    content = found.content()
    logits = class_logits(TEXT)
    index = int(logits.argmax())
    assert content["target"] == CLASSES[index]
    inputs = pieces()(TEXT, return_tensors="pt")
    inputs["input_ids"][0, 1:-1] = 0
    model = make_bert(BertForSequenceClassification, id2label=CLASSES)
    change = float(logits[index] - model(**inputs).logits[0, index].detach())
    rounding = 1e-3 if dtype == "float32" else 0.05 * abs(change) + 0.02
    assert sum(content["importances"]) == pytest.approx(
        change, abs=rounding + abs(content["delta"])
    )
    assert abs(content["delta"]) < 0.05 * abs(change) + rounding


def test_an_explanation_that_takes_too_long_is_refused(folder: Path) -> None:
    """What a step takes was measured when the model was loaded."""
    settings = TextSettings(captum_explanation=True, max_explanation_steps=10**6)
    predictor = TextPredictor.load(folder, settings)
    payload = {"text": TEXT, "parameters": {"n_steps": 10**6}}
    with allow(20.0):
        (found,) = predictor.explain([predictor.read(payload, explain=True)])
    assert isinstance(found, RequestTooLargeError)
    assert found.kind == "TooMuchWork"
    assert "steps to explain 1 targets of 10 tokens together" in found.message


def test_a_model_without_explanations_gives_none() -> None:
    predictor = classifier()
    example = predictor.read("Ann", explain=True)
    batch = predictor.task.encode([example])
    with pytest.raises(ValueError, match=r"^Expected captum_explanation: true in the settings"):
        predictor.explain_batch(batch)


def test_texts_that_cost_too_much_are_refused_before_they_are_read_or_answered() -> None:
    predictor = classifier()
    texts = ["Ann " * 30, "Bob", "good " * 20, "Ann"]
    examples = [predictor.read(text) for text in texts]
    # Half of the four seconds may be spent: on 100 characters, and on 20 tokens with their frame.
    predictor.task.costs = TextCosts(character_s=0.02, token_s=0.0)
    with allow(4.0):
        found = predictor.answer(examples[:2])
    assert isinstance(found[0], RequestTooLargeError)
    assert found[0].kind == "TooMuchWork"
    assert "at most 100 characters of text" in found[0].message
    assert "got 120" in found[0].message
    assert not isinstance(found[1], RequestError)
    assert (found[1].content, found[1].tokens_in) == ("bad", 3)
    predictor.task.costs = TextCosts(token_s=0.1)
    with allow(4.0):
        found = predictor.answer([examples[2], examples[3], examples[1]])
    assert isinstance(found[0], RequestTooLargeError)
    assert "at most 20 tokens" in found[0].message
    assert "got 22" in found[0].message
    contents = [each.content for each in found[1:] if not isinstance(each, RequestError)]
    assert contents == ["good", "bad"]


def test_examples_that_cannot_be_cut_leave_the_others_their_answers() -> None:
    predictor = finder(max_length=16)
    payloads = [ask(), ask("a " * 9), ask(context="Bob")]
    examples = [predictor.read(each) for each in payloads]
    first, second, third = predictor.answer(examples)
    assert not isinstance(first, RequestError)
    assert isinstance(second, RequestTooLargeError)
    assert not isinstance(third, RequestError)
    assert (first.content, third.content) == ("Ljubljana", "Bob")
    # Each gets its own windows.
    seen: list[tuple[list[int], Sequence[int], list[Example]]] = []

    def look(batch: EncodedBatch, kept: Sequence[int]) -> list[str]:
        owners = [window.owner for window in batch.windows]
        seen.append((owners, kept, list(batch.examples)))
        return ["one", "two"]

    found = predictor.run(examples, look)
    assert (found[0], found[2]) == ("one", "two")
    assert isinstance(found[1], RequestTooLargeError)
    assert seen == [([0, 1], [0, 2], [examples[0], examples[2]])]


@pytest.fixture(scope="module")
def continuing() -> TextPredictor:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(VOCABULARY),
        n_embd=8,
        n_layer=1,
        n_head=1,
        n_positions=24,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    network = GPT2LMHeadModel(config).eval()
    return make_predictor("text_generation", network, {}, config, 24, truncation=False)


def test_tokens_of_a_stream_are_told_with_the_number_of_their_example(
    continuing: TextPredictor,
) -> None:
    parameters = {"max_new_tokens": 3, "do_sample": False}
    texts = ["a " * 40, "Ann lives", "Bob works in"]
    examples = [
        continuing.read({"inputs": text, "parameters": parameters, "stream": text == texts[2]})
        for text in texts
    ]
    told: list[tuple[int, TokenEvent]] = []
    found = continuing.answer(examples, lambda owner, event: told.append((owner, event)))
    assert isinstance(found[0], RequestTooLargeError)
    contents = [each.content for each in found[1:] if not isinstance(each, RequestError)]
    assert len(contents) == 2
    streamed = {owner: [event for each, event in told if each == owner] for owner, _ in told}
    assert [event.index for event in streamed[2]] == [1, 2, 3]
    added = "".join(event.token.text for event in streamed[2])
    assert contents[1] == [{"generated_text": texts[2] + added}]
    assert streamed.keys() == {2}
    again = continuing.answer(examples)
    assert [each.content for each in again[1:] if not isinstance(each, RequestError)] == contents
