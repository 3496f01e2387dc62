"""What a worker is given and what it answers, beside TorchServe's own code for both."""

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ts.context import Context, RequestProcessor
from ts.protocol.otf_message_handler import _retrieve_input_data, create_predict_response

from cluster.requests import read_answers, read_parameters

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
NAMES = st.text("abcdefgh-", min_size=1, max_size=10).map(lambda name: f"x{name}")
ANSWERS = st.tuples(
    st.integers(100, 599),
    st.dictionaries(NAMES, TEXT, max_size=3),
    st.one_of(TEXT, st.binary(max_size=50), st.dictionaries(TEXT, st.integers(), max_size=3)),
    st.booleans(),
)


def context_of(answers: list[Any]) -> Context:
    context = Context("small", "", {}, 1, None, "0", True, None, {})
    context.request_processor = [RequestProcessor({}) for _ in answers]
    for index, (status, headers, _, _) in enumerate(answers):
        context.set_response_status(status, "", index)
        for name, value in headers.items():
            context.set_response_header(index, name, value)
    return context


@given(st.lists(ANSWERS, min_size=1, max_size=4), st.booleans())
def test_answers_are_what_torchserve_wrote(answers: list[Any], more: bool) -> None:
    ids = {index: f"name {index}" for index in range(len(answers))}
    contents = [content for _, _, content, _ in answers]
    message = create_predict_response(contents, ids, "fine", 200, context_of(answers), more)
    found = dict(read_answers(bytes(message)))
    assert list(found) == list(ids.values())
    for (status, headers, content, _), answer in zip(answers, found.values(), strict=True):
        assert (answer.status, dict(answer.headers), answer.more) == (status, headers, more)
        if isinstance(content, dict):
            assert json.loads(answer.body) == content
        else:
            expected = content.encode() if isinstance(content, str) else content
            assert answer.body == expected
        assert not answer.refusal


def test_refusal_of_a_batch_is_that_of_each_request() -> None:
    message = create_predict_response(None, {0: "a", 1: "b"}, "Prediction failed", 503)
    found = dict(read_answers(bytes(message)))
    assert {name: each.refusal for name, each in found.items()} == dict.fromkeys(
        "ab", "Prediction failed"
    )
    assert {each.status for each in found.values()} == {503}


class Connection:
    """A parameter as TorchServe's front end sends it to a worker."""

    def __init__(self, name: str, media_type: str, value: bytes) -> None:
        self._left = b"".join(
            struct.pack("!i", len(each)) + each
            for each in (name.encode(), media_type.encode(), value)
        )

    def recv(self, length: int) -> bytes:
        """Return the next bytes."""
        taken, self._left = self._left[:length], self._left[length:]
        return taken


@given(
    st.sampled_from(["application/json", "text/plain", "text/html", "audio/wav", ""]),
    st.one_of(st.binary(max_size=40), TEXT.map(str.encode), TEXT.map(json.dumps).map(str.encode)),
)
def test_body_is_decoded_as_by_torchserves_worker(media_type: str, body: bytes) -> None:
    (found,) = read_parameters(f"{media_type}; charset=utf-8" if media_type else "", body)
    assert found == _retrieve_input_data(Connection("body", media_type, body))


def test_form_has_a_parameter_for_each_field() -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="data"; filename="a.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\nRIFF\xff\r\n"
        b'--x\r\nContent-Disposition: form-data; name="response_format"\r\n\r\njson\r\n--x--\r\n'
    )
    found = {
        each["name"]: each for each in read_parameters("multipart/form-data; boundary=x", body)
    }
    assert found["data"]["contentType"] == "audio/wav"
    assert found["data"]["value"] == bytearray(b"RIFF\xff")
    assert found["response_format"]["value"] == bytearray(b"json")
    (pair,) = read_parameters("application/x-www-form-urlencoded", b"text=caf%C3%A9+x")
    assert pair == {"name": "text", "contentType": "", "value": bytearray("café x".encode())}


@pytest.mark.parametrize(
    ("content_type", "body", "names"),
    [
        ("multipart/form-data; boundary=x", b"--x\r\nno", []),
        ("application/x-www-form-urlencoded", b"\xff\xfe=%zz&a=1", ["\ufffd\ufffd", "a"]),
        # Without a boundary it is no form.
        ("multipart/form-data", b"--x\r\nno", ["body"]),
        ("multipart/form-data; boundary=", b"--x\r\nno", ["body"]),
    ],
)
def test_form_that_cannot_be_read(content_type: str, body: bytes, names: list[str]) -> None:
    assert [each["name"] for each in read_parameters(content_type, body)] == names
