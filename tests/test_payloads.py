"""From bytes to text or fields, and from those to what a text task is asked."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechtext.errors import ImpossibleRequestError, MalformedRequestError, RequestError
from speechtext.payloads import LONGEST_LITERAL, as_fields, as_text
from speechtext.text.payloads import (
    AnswerForm,
    Content,
    optional_text_of,
    read_content,
    target_of,
    text_of,
    unknown_target,
)

BROKEN_JSON = "Expected a JSON object in body, got malformed JSON."
# JSON has these four; the others are spaces all the same.
SPACES = " \t\r\n\f\v\u00a0\u2003"


def reason_of(error: RequestError) -> tuple[type[RequestError], str, str]:
    assert str(error) == error.message
    return type(error), error.kind, error.message


@pytest.mark.parametrize("payload", ["grüß", "grüß".encode(), bytearray("grüß".encode())])
def test_payload_is_text_in_utf8(payload: str | bytes | bytearray) -> None:
    assert as_text(payload) == "grüß"


@pytest.mark.parametrize(
    ("payload", "field", "place"),
    [
        (b"secret\xff", {}, "body, got bytes that are not, at byte 6"),
        (b"\xc3\xbc\xc3", {"field": "hotwords"}, "hotwords, got bytes that are not, at byte 2"),
    ],
)
def test_other_bytes_are_refused_where_they_are(
    payload: bytes, field: dict[str, str], place: str
) -> None:
    with pytest.raises(RequestError) as refusal:
        as_text(payload, **field)
    assert reason_of(refusal.value) == (
        MalformedRequestError,
        "InvalidEncoding",
        f"Expected UTF-8 text in {place}.",
    )


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("written", [json.dumps, repr])
@pytest.mark.parametrize("before", ["", *SPACES, SPACES])
@pytest.mark.parametrize("after", ["", "\n\u00a0"])
def test_object_is_read_with_spaces_around_it(
    declared: bool, written: Any, before: str, after: str
) -> None:
    """Also the one that Python writes, as older clients do."""
    content = {"text": "it's", "more": [1, 2.5, "ü"]}
    payload = f"{before}{written(content)}{after}"
    assert as_fields(payload.encode(), declared) == content
    # What TorchServe read out of JSON is text, and text may be an object.
    assert as_fields(payload, declared) == content


@pytest.mark.parametrize(
    "text", ["[1]", "7", "nothing", '"quoted"', "null", "{'a'}", "{1}", " {1, 2}\n"]
)
def test_text_that_is_no_object_stays_as_it_is(text: str) -> None:
    assert as_fields(text.encode(), False) == text
    # Declared or not, what is no bytes was read before.
    assert as_fields(text, True) == as_fields(text, False) == text


def test_mapping_was_read_before() -> None:
    assert as_fields({"text": "a"}, True) == as_fields({"text": "a"}, False) == {"text": "a"}


def test_declared_json_may_be_a_text() -> None:
    assert as_fields(b' "good\\n"\n', True) == "good\n"
    assert as_fields("\u00a0'good'".encode(), True) == "good"


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (["a"], "list"),
        (7, "int"),
        (None, "NoneType"),
        (b"[1]", "list"),
        (b" 2.5 ", "float"),
        (b"null", "NoneType"),
        (b"{1, 2}", "set"),
    ],
)
def test_json_that_is_neither_text_nor_object_is_refused(payload: Any, kind: str) -> None:
    with pytest.raises(RequestError) as refusal:
        as_fields(payload, True)
    assert reason_of(refusal.value) == (
        MalformedRequestError,
        "UnexpectedJson",
        f"Expected text or a JSON object in body, got a JSON {kind}.",
    )


# Neither parser reads them: a ValueError, a SyntaxError, a TypeError, too deep for the stack.
UNREADABLE = [
    "{broken",
    '{"a": 1',
    "{'a': open('b')}",
    "{{}}",
    "{'a\0': 1}",
    "{" + "'a': {" * 200,
    "{'a': " * 5_000,
    "{'a': " + "(" * 30_000,
    "{'a': " + "-" * 5_900 + "1}",
    "{'a': " + "-" * 30_000 + "1}",
    '{"a": ' + "[" * 30_000,
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_unreadable_object_is_text_unless_it_was_declared(text: str) -> None:
    assert len(text) <= LONGEST_LITERAL
    assert as_fields(text.encode(), False) == text
    assert as_fields(text, True) == text
    with pytest.raises(RequestError) as refusal:
        as_fields(text.encode(), True)
    assert reason_of(refusal.value) == (MalformedRequestError, "MalformedJson", BROKEN_JSON)


def object_of_length(length: int) -> tuple[str, dict[str, str]]:
    empty = repr({"text": ""})
    content = {"text": "x" * (length - len(empty))}
    return repr(content), content


@pytest.mark.parametrize("declared", [True, False])
def test_longest_object_that_is_read_as_python(declared: bool) -> None:
    longest, content = object_of_length(LONGEST_LITERAL)
    assert as_fields(longest.encode(), declared) == content
    longer, _ = object_of_length(LONGEST_LITERAL + 1)
    with pytest.raises(RequestError) as refusal:
        as_fields(longer.encode(), declared)
    assert reason_of(refusal.value) == (
        MalformedRequestError,
        "MalformedJson",
        "Expected JSON in body, as of all objects of more than 32768 characters, got malformed "
        "JSON.",
    )


@pytest.mark.parametrize("start", ["{note} ", "{7} ", "note "])
def test_long_text_is_text_unless_it_was_declared(start: str) -> None:
    text = start * LONGEST_LITERAL
    assert as_fields(text.encode(), False) == text
    with pytest.raises(RequestError) as refusal:
        as_fields(text.encode(), True)
    assert reason_of(refusal.value) == (MalformedRequestError, "MalformedJson", BROKEN_JSON)


PLAIN, PIPELINE, HUB_CLIENT = AnswerForm.PLAIN, AnswerForm.PIPELINE, AnswerForm.HUB_CLIENT


@pytest.mark.parametrize("hub_client", [True, False])
@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("good", Content("good", {}, PLAIN)),
        ({"text": "good"}, Content({"text": "good"}, {}, PLAIN)),
        ({"inputs": "good"}, Content({"text": "good"}, {}, PIPELINE)),
        ({"inputs": {"question": "who"}}, Content({"question": "who"}, {}, PIPELINE)),
        (
            {"inputs": "good", "parameters": {"top_k": 2}},
            Content({"text": "good"}, {"top_k": 2}, PIPELINE),
        ),
        ({"inputs": "good", "parameters": None}, Content({"text": "good"}, {}, PIPELINE)),
        (
            {"inputs": "good", "parameters": {"top_k": 2}, "stream": False},
            Content({"text": "good"}, {"top_k": 2, "stream": False}, PIPELINE),
        ),
        (
            {"inputs": "good", "parameters": {"stream": False}, "stream": True},
            Content({"text": "good"}, {"stream": True}, PIPELINE),
        ),
        (
            {"inputs": "good", "parameters": {"stream": True}, "stream": None},
            Content({"text": "good"}, {"stream": True}, PIPELINE),
        ),
    ],
)
def test_content_is_plain_or_that_of_a_pipeline(
    payload: Any, expected: Content, hub_client: bool
) -> None:
    form = HUB_CLIENT if hub_client and expected.form is PIPELINE else expected.form
    found = read_content(payload, hub_client)
    assert (found.fields, found.parameters) == (expected.fields, expected.parameters)
    assert found.form is form


def test_fields_of_a_plain_object_are_kept_beside_its_parameters() -> None:
    payload = {"text": "good", "target": 1, "parameters": {"n_steps": 5}, "stream": True}
    found = read_content(payload, hub_client=True)
    assert found == Content(payload, {"n_steps": 5, "stream": True}, PLAIN)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"inputs": ["a", "b"]}, "inputs to be one text or object in a request, got list"),
        ({"inputs": None}, "inputs to be one text or object in a request, got NoneType"),
        ({"inputs": "a", "parameters": [1]}, "parameters to be a JSON object, got list"),
        ({"text": "a", "parameters": "top_k"}, "parameters to be a JSON object, got str"),
    ],
)
def test_content_of_another_type_is_refused(payload: Any, said: str) -> None:
    with pytest.raises(RequestError) as refusal:
        read_content(payload, hub_client=False)
    expected = (ImpossibleRequestError, "InvalidParameter", f"Expected {said}.")
    assert reason_of(refusal.value) == expected


def content(fields: Any, form: AnswerForm = PLAIN) -> Content:
    return Content(fields, {}, form)


def test_text_is_the_whole_or_a_field() -> None:
    assert text_of(content("good")) == text_of(content("good"), "text") == "good"
    # Nothing is a text, too, where it is all there is.
    assert text_of(content("")) == ""
    fields = {"text": " good ", "context": "there"}
    assert text_of(content(fields)) == " good "
    assert text_of(content(fields), "context") == "there"


MISSING: list[tuple[Any, str]] = [
    ("plain", "question"),
    ({}, "text"),
    ({"text": None}, "text"),
    ({"text": 7}, "text"),
    ({"text": ["a"]}, "text"),
    ({"text": ""}, "text"),
    ({"text": " \n"}, "text"),
    ({"text": "a"}, "context"),
]


@pytest.mark.parametrize(("fields", "name"), MISSING)
@pytest.mark.parametrize("form", AnswerForm)
def test_missing_text_is_refused_by_the_name_of_its_field(
    fields: Any, name: str, form: AnswerForm
) -> None:
    with pytest.raises(RequestError) as refusal:
        text_of(content(fields, form), name)
    place = name if form is PLAIN else f"inputs ({name}, where inputs is an object)"
    assert reason_of(refusal.value) == (
        MalformedRequestError,
        "MissingField",
        f"Expected a JSON object with text in the field {place}, got none or something else there.",
    )


@pytest.mark.parametrize(
    ("fields", "name", "field"),
    [
        ("half \ud83d", "text", "body"),
        ({"text": "half \ud83d"}, "text", "text"),
        ({"context": "\udc00"}, "context", "context"),
    ],
)
def test_half_of_a_surrogate_pair_is_no_text(fields: Any, name: str, field: str) -> None:
    with pytest.raises(RequestError) as refusal:
        text_of(content(fields), name)
    assert reason_of(refusal.value) == (
        MalformedRequestError,
        "InvalidEncoding",
        f"Expected Unicode characters in {field}, got half of a surrogate pair.",
    )


@settings(deadline=None)
@given(st.text().filter(str.strip))
def test_any_unicode_is_a_text(text: str) -> None:
    assert text_of(content({"text": text})) == text_of(content(text)) == text


def test_optional_text_may_be_absent_and_nothing_else() -> None:
    assert optional_text_of(content("plain"), "text_pair") is None
    assert optional_text_of(content("plain"), "text") is None
    assert optional_text_of(content({}), "text_pair") is None
    assert optional_text_of(content({"text_pair": None}), "text_pair") is None
    assert optional_text_of(content({"text_pair": "b", "text": "a"}), "text_pair") == "b"
    with pytest.raises(RequestError, match="text in the field text_pair, got none"):
        optional_text_of(content({"text_pair": ""}), "text_pair")


@pytest.mark.parametrize(
    ("fields", "target"),
    [("target", None), ({"text": "a"}, None), ({"target": [0, 3]}, [0, 3]), ({"target": 0}, 0)],
)
def test_target_is_what_the_request_names(fields: Any, target: Any) -> None:
    assert target_of(content(fields)) == target


def test_unknown_target_is_told_what_it_may_be() -> None:
    assert reason_of(unknown_target("yes or no")) == (
        ImpossibleRequestError,
        "UnknownTarget",
        "Expected target to be yes or no.",
    )
