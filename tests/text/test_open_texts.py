"""Texts that are open at a time: what is admitted beside them, and how long they may take."""

import time
from typing import Any

import pytest

from benchmarks.random_text_models import write_random_model
from speechtext.allowance import allow
from speechtext.errors import DeadlineError, RequestError, RequestTooLargeError, UnavailableError
from speechtext.text.base import TextCosts
from speechtext.text.generation import TextGeneration
from speechtext.text.open_texts import OpenText, OpenTexts
from speechtext.text.predictor import TextPredictor
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
