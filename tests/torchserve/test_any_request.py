"""Whatever a request holds, it gets a status, and the good one beside it its own answer."""

import itertools
import json
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


def strict_json(answer: Any) -> Any:
    """Return an answer read back from what TorchServe sends; raises for what JSON does not have."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(json.dumps(answer, indent=2), parse_constant=refuse)


ODD_NUMBERS = (
    st.sampled_from((1e-40, 1e-320, 1e-6, 1e-3, 0.01, 1e38, 1e308, 10**30, 16**5000, 2**63, 2**64))
    | st.floats()
    | st.floats(0, 2)
    | st.integers()
)
NUMBER_PARAMETERS = {
    "bert_seq_classification": ("top_k", "n_steps", "tolerance"),
    "bert_token_classification": ("stride", "n_steps", "tolerance"),
    "bert_question_answering": (
        *("top_k", "doc_stride", "max_answer_len", "max_seq_len", "max_question_len", "tolerance"),
    ),
    "gpt2_text_generation": (
        *("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed"),
    ),
}


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_whatever_the_numbers_the_answer_is_json(name: str, load_model: LoadModel) -> None:
    model = load_model(name)
    inputs = "Once" if name == "gpt2_text_generation" else GOOD_TEXT[name]
    always: dict[str, Any] = {"aggregation_strategy": "max"} if "token" in name else {}
    if name == "gpt2_text_generation":
        always = {"max_new_tokens": 3, "details": True, "do_sample": True}
    numbers = st.dictionaries(st.sampled_from(NUMBER_PARAMETERS[name]), ODD_NUMBERS, max_size=3)

    @QUICK
    @given(numbers, st.booleans())
    def check(numbers: dict[str, Any], explain: bool) -> None:
        explain = explain and not {"max_new_tokens", "n_steps"} & numbers.keys()
        parameters = {**always, **({"n_steps": 2} if explain else {}), **numbers}
        body = {"inputs": inputs, "parameters": parameters}
        (reply,) = model.answer([{"body": body}], [{"explain": str(explain)}])
        assert reply.status in ALLOWED
        strict_json(reply.answer)

    check()


def test_the_extremes_of_the_ranges_make_text(load_model: LoadModel) -> None:
    """The smallest temperature chooses as greedily as no sampling does."""
    extremes: list[dict[str, Any]] = [
        {"temperature": 1e-6},
        {"temperature": 1e-6, "repetition_penalty": 0.01},
        {"temperature": 100.0, "repetition_penalty": 10.0, "top_p": 1e-300},
    ]
    rows = [
        {"body": {"inputs": "Once", "parameters": {"max_new_tokens": 5, "details": True, **each}}}
        for each in ({"do_sample": False}, *extremes)
    ]
    replies = load_model("gpt2_text_generation").answer(rows)
    assert {reply.status for reply in replies} == {200}
    written = [strict_json(reply.answer)[0] for reply in replies]
    assert written[1]["generated_text"] == written[0]["generated_text"]
    assert all(len(each["details"]["tokens"]) > 0 for each in written)
