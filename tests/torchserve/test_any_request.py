"""Whatever a request holds, it gets a status, and the good one beside it its own answer."""

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.common import BROKEN_RECORDINGS, LoadModel
from trials.corpus import FIELDS, NUMBERS, PARAMETERS, STRINGS, TEXT_MODELS
from trials.good_traffic import SPEECH, session_headers

SCALARS = st.none() | st.booleans() | st.floats() | st.sampled_from(NUMBERS) | st.text()
VALUES = st.recursive(
    SCALARS | st.sampled_from(STRINGS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
PARAMETER_SETS = st.dictionaries(st.sampled_from(PARAMETERS), VALUES, max_size=3)
OBJECTS = st.dictionaries(st.sampled_from(FIELDS), VALUES | PARAMETER_SETS, max_size=4)
BODIES = st.binary() | st.text() | OBJECTS | VALUES
HEADERS = st.dictionaries(
    st.sampled_from(("Accept", "Content-Type", "explain", "User-Agent")), st.text(), max_size=3
)
SAID = "turn on the kitchen lights"
# What a client may be told; 503 and 507 would be faults of ours here.
ALLOWED = {200, 400, 413, 415, 422}
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
GOOD_TEXT: dict[str, Any] = {
    "bert_seq_classification": "Great",
    "bert_token_classification": "Maria Rossi works for Acme.",
    "bert_question_answering": {"question": "Who?", "context": "Maria Rossi works for Acme."},
    "gpt2_text_generation": {"inputs": "Once", "parameters": {"max_new_tokens": 2}},
}


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_text_models_answer_any_request(name: str, load_model: LoadModel) -> None:
    model = load_model(name)
    good = {"body": GOOD_TEXT[name]}
    (alone,) = model.answer([good])
    assert alone.status == 200

    @QUICK
    @given(BODIES, HEADERS)
    def check(body: Any, headers: dict[str, str]) -> None:
        replies = model.answer([{"body": body}, good], [headers, {}])
        assert replies[0].status in ALLOWED
        assert replies[1] == alone

    check()


@pytest.mark.parametrize("name", ["wav2vec2", "emformer_asr"])
def test_speech_models_answer_any_recording(name: str, load_model: LoadModel) -> None:
    model = load_model(name)
    good = {"body": SPEECH}
    (alone,) = model.answer([good])

    @QUICK
    @given(BODIES | BROKEN_RECORDINGS, HEADERS)
    def check(body: Any, headers: dict[str, str]) -> None:
        replies = model.answer([{"body": body}, good], [headers, {}])
        assert replies[0].status in ALLOWED
        assert replies[1] == alone

    check()


def test_live_sessions_hear_any_piece(load_model: LoadModel) -> None:
    model = load_model("emformer_asr_live")
    names = itertools.count()

    @QUICK
    @given(st.lists(BODIES | BROKEN_RECORDINGS, min_size=1, max_size=3), HEADERS, st.booleans())
    def check(pieces: list[Any], headers: dict[str, str], begins: bool) -> None:
        name = f"odd {next(names)}"
        for place, piece in enumerate(pieces):
            first, last = begins and place == 0, place == len(pieces) - 1
            sent = {**headers, **session_headers(name, first, last)}
            good = session_headers(f"good {next(names)}", True, True)
            replies = model.answer([{"body": piece}, {"body": SPEECH}], [sent, good])
            assert replies[0].status in {*ALLOWED, 410}
            assert (replies[1].status, replies[1].answer["text"]) == (200, SAID)

    check()
