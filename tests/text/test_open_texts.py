"""Texts that are open at a time: what is admitted beside them, and how long they may take."""

import math
import time
from typing import Any

import pytest

from benchmarks.random_text_models import write_random_model
from speechtext.allowance import allow
from speechtext.errors import (
    DeadlineError,
    ImpossibleRequestError,
    RequestError,
    RequestTooLargeError,
    UnavailableError,
)
from speechtext.text.base import TextCosts
from speechtext.text.generation import TextGeneration
from speechtext.text.open_texts import OpenText, OpenTexts
from speechtext.text.predictor import TextPredictor
from speechtext.text.sampling import TokenEvent
from speechtext.text.settings import TextSettings


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> TextPredictor:
    folder = write_random_model(tmp_path_factory.mktemp("model"), "gpt2", "text_generation")
    return TextPredictor.load(folder, TextSettings(mode="text_generation", do_sample=False))


def open_texts(predictor: TextPredictor, **costs: Any) -> OpenTexts:
    """Return texts of a model that takes what `costs` say."""
    task = predictor.task
    assert isinstance(task, TextGeneration)
    task.costs = TextCosts(**costs)
    return OpenTexts(predictor, task)


def begin(texts: OpenTexts, new_tokens: int) -> OpenText | RequestError:
    predictor: Any = texts._predictor
    example = predictor.read({"text": "kalo", "parameters": {"max_new_tokens": new_tokens}})
    (found,) = texts.begin([example], lambda *_: None)
    return found


def test_text_that_takes_too_long_is_ended(predictor: TextPredictor) -> None:
    texts = open_texts(predictor)
    with allow(0.05):
        late = begin(texts, 100)
    with allow(60):
        good = begin(texts, 20)
        assert isinstance(late, OpenText)
        assert isinstance(good, OpenText)
        while not good.ended:
            texts.advance()
            time.sleep(0.005)
        assert late.ended
        assert isinstance(texts.finish(late), DeadlineError)
        assert 0 < len(late.row.ids) < 20
        answer: Any = texts.finish(good)
        assert answer.tokens_out == 20


def test_work_that_goes_on_is_part_of_what_there_is_time_for(predictor: TextPredictor) -> None:
    """A second a token: of a timeout of 100 s, half may be asked for."""
    texts = open_texts(predictor, new_token_s=1.0)
    with allow(100):
        assert isinstance(begin(texts, 51), RequestTooLargeError)
    with allow(100):
        first = begin(texts, 40)
        assert isinstance(first, OpenText)
    with allow(100):
        assert isinstance(begin(texts, 20), UnavailableError)
    for _ in range(20):
        texts.advance()
    assert first.left_s == pytest.approx(20)
    with allow(100):
        assert isinstance(begin(texts, 20), OpenText)


def read(predictor: TextPredictor, prompt: str, **parameters: Any) -> Any:
    return predictor.read({"inputs": prompt, "parameters": parameters})


def finish_all(texts: OpenTexts, opened: list[OpenText | RequestError]) -> list[Any]:
    """Return the answer to each text; all of them are open."""
    found = [each for each in opened if isinstance(each, OpenText)]
    assert len(found) == len(opened)
    for _ in range(200):
        if all(each.ended for each in found):
            break
        texts.advance()
    return list(map(texts.finish, found))


def test_texts_get_the_answers_that_they_get_alone(predictor: TextPredictor) -> None:
    """Whoever came before them, and whoever comes while they go on."""
    texts = open_texts(predictor)
    examples = [
        read(predictor, "kalo", max_new_tokens=9),
        read(predictor, "miren stoba vitu", max_new_tokens=4, details=True, seed=3),
        read(predictor, "nagor", max_new_tokens=12, do_sample=True, seed=5),
    ]
    opened = texts.begin(examples[:1], lambda *_: None)
    texts.advance()
    opened += texts.begin(examples[1:], lambda *_: None)
    assert [each.row.ids[1:] for each in opened if isinstance(each, OpenText)] == [[], [], []]
    assert finish_all(texts, opened) == predictor.answer(examples)


def test_tokens_are_told_of_those_that_ask_for_a_stream(predictor: TextPredictor) -> None:
    """By the number of the text; one between them is refused, and one is silent."""
    texts = open_texts(predictor)
    told: list[tuple[int, TokenEvent]] = []
    found = texts.begin(
        [
            read(predictor, "kalo", max_new_tokens=2),
            read(predictor, "kalo", max_new_tokens=100_000),
            read(predictor, "miren", max_new_tokens=3, stream=True),
            read(predictor, "nagor", max_new_tokens=2, stream=True),
        ],
        lambda *each: told.append(each),
    )
    refused = found.pop(1)
    assert isinstance(refused, ImpossibleRequestError)
    assert "parameters.max_new_tokens" in refused.message
    assert [each.ended for each in found if isinstance(each, OpenText)] == [False] * 3
    finish_all(texts, found)
    assert [(index, event.index) for index, event in told] == [
        (2, 1),
        (3, 1),
        (2, 2),
        (3, 2),
        (2, 3),
    ]


def test_text_that_is_removed_ends_and_the_others_go_on(predictor: TextPredictor) -> None:
    texts = open_texts(predictor)
    kept, gone, other = (begin(texts, count) for count in (6, 30, 9))
    assert isinstance(gone, OpenText)
    texts.advance()
    texts.advance()
    texts.remove(gone)
    assert gone.ended
    finish_all(texts, [kept, other])
    assert len(gone.row.ids) == 2
    assert [len(each.row.ids) for each in (kept, other) if isinstance(each, OpenText)] == [6, 9]


def test_work_of_texts_that_are_gone_is_none(predictor: TextPredictor) -> None:
    """Whether it was removed or ended early; there are 50 seconds, of which each asks for 40."""
    texts = open_texts(predictor, new_token_s=1.0)

    def begin_one(**parameters: Any) -> OpenText | RequestError:
        example = read(predictor, "kalo", max_new_tokens=40, **parameters)
        with allow(100.0):
            (found,) = texts.begin([example], lambda *_: None)
        return found

    removed = begin_one()
    assert isinstance(removed, OpenText)
    assert removed.left_s == 40.0
    assert isinstance(begin_one(), UnavailableError)
    texts.remove(removed)
    stopped = begin_one(stop=[*"aeioubdgklmnprst"])
    assert isinstance(stopped, OpenText)
    while not stopped.ended:
        texts.advance()
    assert stopped.left_s > 10.0
    assert isinstance(begin_one(), OpenText)


def test_text_must_end_when_its_batch_must(predictor: TextPredictor) -> None:
    """After nine tenths of the timeout; whenever it likes where there is none."""
    texts = open_texts(predictor, new_token_s=0.0625, token_s=0.25)
    before_s = time.monotonic()
    with allow(50.0):
        timed = begin(texts, 35)
    free = begin(texts, 2)
    assert isinstance(timed, OpenText)
    assert isinstance(free, OpenText)
    assert timed.cost_s == 0.0625 * 35 + 0.25 * len(timed.window)
    assert before_s + 45.0 <= timed.deadline_s <= time.monotonic() + 45.0
    assert free.deadline_s == math.inf
